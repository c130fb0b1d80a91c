"""Metrics' statistics: any way of cutting rows and clients into parts gives the value of the whole."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scarcity_ray.core import tables
from scarcity_ray.core.metrics import (
    ACCURACY,
    LOSS,
    METRICS,
    Block,
    MeanMetric,
    Metric,
    RowMetric,
    Stat,
    SumMetric,
    client_columns,
    headline,
    round_columns,
)

CLASSES = 3


class MedianLoss(RowMetric):
    """Needs every row."""

    name, unit, description = "median_loss", "loss", "median over the client's test rows"
    higher_is_better = False

    def per_row(self, block: Block) -> Tensor:
        return block.losses

    def value(self, rows: np.ndarray) -> float:
        return float(np.median(rows[:, 0]))


class ExpectedCalibrationError(SumMetric):
    """Confidence against accuracy in four bins: needs twelve sums."""

    name, unit, description = "calibration_error", "share", "of the client's test rows"
    higher_is_better = False
    tasks = ("classification",)
    width = 12

    def per_row(self, block: Block) -> Tensor:
        confidence, chosen = block.outputs.double().exp().max(-1)
        bins = nn.functional.one_hot((confidence * 4).long().clamp(max=3), 4).double()
        return torch.cat([bins, bins * confidence[:, None], bins * (chosen == block.y).double()[:, None]], dim=1)

    def value(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        _, confidence, hits = sums.reshape(3, 4, -1)
        return np.abs(confidence - hits).sum(axis=0) / counts


class AbsoluteError(MeanMetric):
    """In the label's unit."""

    name, unit, description = "absolute_error", "label", "mean over the client's test rows"
    higher_is_better = False
    tasks = ("regression",)
    label_power = 1

    def per_row(self, block: Block) -> Tensor:
        return block.outputs.abs().mean(-1)


EVERY: list[Metric] = [LOSS, ACCURACY, MedianLoss(), ExpectedCalibrationError()]


class Rows:
    """Made-up answers to n rows of clients."""

    def __init__(self, clients: list[int], seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.client, n = np.array(clients, dtype=np.int64), len(clients)
        self.outputs = torch.log_softmax(torch.from_numpy(draw.normal(size=(n, CLASSES)) * 2).float(), -1)
        self.y = torch.from_numpy(draw.integers(CLASSES, size=n))

    @property
    def losses(self) -> Tensor:
        return -self.outputs.gather(-1, self.y[:, None])[:, 0]

    def block(self, chosen: np.ndarray, ids: np.ndarray, padding: int = 0) -> Block:
        """Some of the rows, and copies of the first that only fill the block."""
        index = np.concatenate([chosen, np.repeat(chosen[:1], padding)])
        real = np.arange(len(index)) < len(chosen)
        where = torch.from_numpy(index)
        return Block(np.searchsorted(ids, self.client[index]), real, self.outputs[where], self.y[where], self.losses[where])

    def stat(self, metric: Metric, chosen: np.ndarray, *, padding: int = 0, scale: float = 1.0) -> Stat:
        ids = np.unique(self.client[chosen])
        stat = metric.start(ids, scale)
        if len(chosen):
            stat.update(self.block(chosen, ids, padding))
        return stat


def bits(stat: Stat) -> tuple[Any, ...]:
    return stat.ids.tolist(), stat.counts.tolist(), stat.values().tobytes(), np.float64(stat.pooled()).tobytes()


cases = st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**16), st.randoms(use_true_random=False))


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
@settings(max_examples=40)
@given(cases)
def test_parts_of_clients_merge_to_the_same_bits_in_any_order(metric: Metric, case: Any) -> None:
    clients, seed, random = case
    rows, actor = Rows(clients, seed), {client: random.randrange(3) for client in range(6)}
    parts = [np.flatnonzero([actor[client] == one for client in clients]) for one in range(3)]
    stats = [rows.stat(metric, part, padding=random.randrange(3)) for part in parts]
    random.shuffle(stats)
    together = Stat.merge([Stat.merge(stats[:2]), stats[2]])
    assert bits(together) == bits(Stat.merge([rows.stat(metric, np.arange(len(clients)))]))


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
@settings(max_examples=40)
@given(cases)
def test_parts_of_one_clients_rows_merge_to_the_same_value(metric: Metric, case: Any) -> None:
    clients, seed, random = case
    rows, part = Rows(clients, seed), np.array([random.randrange(4) for _ in clients])
    stats = [rows.stat(metric, np.flatnonzero(part == one)) for one in range(4)]
    random.shuffle(stats)
    whole, together = Stat.merge([rows.stat(metric, np.arange(len(clients)))]), Stat.merge(stats)
    np.testing.assert_allclose(together.values(), whole.values(), rtol=1e-12)
    assert together.pooled() == pytest.approx(whole.pooled(), rel=1e-12)
    if isinstance(metric, RowMetric) or metric is ACCURACY:  # order and rounding have no say
        assert bits(together) == bits(whole)


@settings(max_examples=40)
@given(cases)
def test_blocks_in_order_give_the_bits_of_a_running_sum(case: Any) -> None:
    """What all results so far were computed by: one row after the other, in the order of the client's rows."""
    clients, seed, random = case
    rows, ids = Rows(clients, seed), np.unique(clients)
    stats = {metric.name: metric.start(ids) for metric in (LOSS, ACCURACY)}
    edges = sorted({0, len(clients), *(random.randrange(len(clients)) for _ in range(3))})
    for start, end in pairwise(edges):
        for stat in stats.values():
            stat.update(rows.block(np.arange(start, end), ids, padding=random.randrange(3)))
    loss, hits = dict.fromkeys(ids.tolist(), 0.0), dict.fromkeys(ids.tolist(), 0.0)
    for client, value, answer, y in zip(clients, rows.losses.tolist(), rows.outputs.argmax(-1).tolist(), rows.y.tolist(), strict=True):
        loss[client] += value
        hits[client] += answer == y
    counts = np.array([clients.count(client) for client in ids])
    assert stats["loss"].values().tolist() == (np.array(list(loss.values())) / counts).tolist()
    assert stats["accuracy"].values().tolist() == (np.array(list(hits.values())) / counts).tolist()


def test_values_are_the_plain_ones() -> None:
    rows = Rows([0] * 5 + [2] * 7 + [4], seed=1)
    stats = {metric.name: rows.stat(metric, np.arange(13)) for metric in EVERY}
    losses, hits = rows.losses.double().numpy(), (rows.outputs.argmax(-1) == rows.y).numpy()
    own = [slice(0, 5), slice(5, 12), slice(12, 13)]
    for name, values, function in (
        ("loss", losses, np.mean),
        ("accuracy", hits, np.mean),
        ("median_loss", losses, np.median),
    ):
        np.testing.assert_allclose(stats[name].values(), [function(values[rows]) for rows in own], rtol=1e-12)
        assert stats[name].pooled() == pytest.approx(function(values), rel=1e-12)
    confidence = rows.outputs.double().exp().max(-1).values.numpy()
    assert stats["calibration_error"].values()[2] == pytest.approx(abs(confidence[12] - hits[12]))  # of a single row
    bins = [(confidence >= low) & (confidence < low + 0.25) for low in (0, 0.25, 0.5, 0.75)]
    assert stats["calibration_error"].pooled() == pytest.approx(sum(abs((confidence - hits)[chosen].sum()) for chosen in bins) / 13)


def test_a_client_without_rows_has_no_value() -> None:
    for metric in EVERY:
        stat = metric.start(np.array([3, 5]))
        assert np.isnan(stat.values()).all()
        assert np.isnan(stat.pooled())
        assert not stat.is_defined().any()


def test_values_are_in_the_users_unit() -> None:
    """A label of standard deviation 10: errors are ten, squared errors a hundred times those of the standardised label."""
    residuals = torch.tensor([[1.0], [-2.0], [0.5]])
    block = Block(np.zeros(3, dtype=np.int64), np.ones(3, dtype=bool), residuals, torch.zeros(3, 1), residuals.square()[:, 0])
    for metric, expected in ((AbsoluteError(), 10 * 3.5 / 3), (LOSS, 100 * 5.25 / 3), (MedianLoss(), 1.0)):
        stat = metric.start(np.array([7]), 10.0)
        stat.update(block)
        assert stat.values() == pytest.approx([expected])
        assert stat.pooled() == pytest.approx(expected)


def test_a_diverged_client_counts_and_one_whose_rows_have_no_value_does_not() -> None:
    class Undefined(MedianLoss):
        def is_defined(self, rows: np.ndarray) -> bool:
            return len(rows) > 1

    rows = Rows([0, 0, 1, 2, 2], seed=0)
    stats = {"median_loss": rows.stat(Undefined(), np.arange(5))}
    values = stats["median_loss"].values()
    assert np.isnan(values).tolist() == [False, True, False]
    found = round_columns(stats, [2, 1, 2])
    assert found["test_median_loss"] == pytest.approx(values[[0, 2]].mean())
    assert found["test_median_loss_worst_decile"] == values[[0, 2]].max()
    rows.outputs[0] = torch.nan
    assert np.isnan(round_columns({"median_loss": rows.stat(Undefined(), np.arange(5))}, [2, 1, 2])["test_median_loss"])
    # and one with test rows that no model was tested on is no better off than a diverged one
    assert np.isnan(round_columns({"loss": LOSS.start(np.array([0]))}, [4])["test_loss"])


def test_columns_of_a_round_and_of_its_clients() -> None:
    rows = Rows([0] * 4 + [1] * 6, seed=2)
    stats = {metric.name: rows.stat(metric, np.arange(10)) for metric in (LOSS, ACCURACY)}
    clients, row = client_columns(stats), round_columns(stats, [4, 6])
    for name, worst in (("test_loss", np.max), ("test_accuracy", np.min)):
        assert row[name] == pytest.approx(clients[name].mean())
        assert row[f"{name}_worst_decile"] == worst(clients[name])
        assert row[f"{name}_pooled"] == pytest.approx((4 * clients[name][0] + 6 * clients[name][1]) / 10)
    assert set(row) <= set(tables.rounds().names)
    assert set(client_columns(stats, "_global")) <= set(tables.clients().names)


def test_statistics_can_be_sent_to_another_process() -> None:
    for metric in (LOSS, ACCURACY):
        stat = Rows([0, 1, 1], seed=0).stat(metric, np.arange(3))
        assert bits(pickle.loads(pickle.dumps(stat))) == bits(stat)


def test_a_metric_is_registered_once_under_a_name_of_its_own() -> None:
    before = tables.rounds().names
    METRICS.register(MedianLoss)
    METRICS.register(MedianLoss)  # its module was imported again
    try:
        added = [name for name in tables.rounds().names if name not in before]
        assert added == ["test_median_loss", "test_median_loss_worst_decile", "test_median_loss_pooled"]
        assert "test_median_loss" in tables.clients().names
        with pytest.raises(ValueError, match="median_loss is MedianLoss's"):
            METRICS.register(type("Other", (MedianLoss,), {}))
        for name in ("loss_pooled", "accuracy_worst_decile", "loss_global", "Loss", "", "a b"):
            with pytest.raises(ValueError, match="needs another name"):
                METRICS.register(type("Other", (MedianLoss,), {"name": name}))
    finally:
        METRICS.unregister("median_loss")
    assert tables.rounds().names == before
    assert [metric.name for metric in METRICS][:2] == ["loss", "accuracy"]


def test_the_metric_that_decides() -> None:
    accuracy, rmse = headline("classification"), headline("regression")
    assert (accuracy.key, accuracy.metric.higher_is_better, accuracy.shape([0.25]).tolist()) == ("test_accuracy", True, [0.25])
    assert (rmse.key, rmse.metric.higher_is_better, rmse.shape([9.0]).tolist()) == ("rmse", False, [3.0])
