"""The metrics of every run, against scikit-learn and closed forms: for each client and over all rows, in any number of processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.answers import Answers
from helpers.references import of_more, of_two, one_versus_rest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score

from scarcity_ray.core import tables
from scarcity_ray.core.metrics import LOSS, METRICS, Metric, Stat, headline, round_columns
from scarcity_ray.metrics import measures, scores
from scarcity_ray.metrics.predictions import Predictions, PredictionStat, row_bytes
from scarcity_ray.metrics.ranks import overlaps
from scarcity_ray.metrics.slopes import slopes

CLIENTS = np.repeat(np.arange(12), [1, 2, 3, 5, 8, 13, 21, 34, 55, 40, 40, 200])


def settings(task: str, outputs: int, positive: int = 1) -> dict[str, Metric]:
    found = measures(task, outputs, thresholds=(0.1, 0.5, 0.25, 0.1), sensitivity_at=0.9, positive=positive)
    return {metric.name: metric for metric in found}


def check(stat: Stat, metric: Metric, expected: list[float], pooled: float, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(stat.values(metric), expected, rtol=rtol, atol=1e-12)
    assert stat.pooled(metric) == pytest.approx(pooled, rel=rtol, abs=1e-12)
    assert (stat.is_defined(metric) == ~np.isnan(expected)).all()


@pytest.mark.parametrize("positive", [0, 1])
def test_two_classes(positive: int) -> None:
    answers, metrics, expected = (
        Answers.of_classes(CLIENTS, 2, seed=1),
        settings("classification", 2, positive),
        of_two(positive, (0.1, 0.5, 0.25)),
    )
    assert set(metrics) - {"loss", "accuracy"} == set(expected)
    for name, reference in expected.items():
        values = [reference(answers.of(client).y.numpy(), answers.of(client).p) for client in range(12)]
        check(
            answers.stat(metrics[name]), metrics[name], values, reference(answers.y.numpy(), answers.p), 1e-6 if "slope" in name else 1e-9
        )


def test_three_classes() -> None:
    answers, metrics = Answers.of_classes(CLIENTS, 3, seed=2), settings("classification", 3)
    expected = of_more(3)
    assert set(metrics) - {"loss", "accuracy"} == set(expected)
    for name, reference in expected.items():
        values = [reference(answers.of(client).y.numpy(), answers.of(client).p) for client in range(12)]
        check(answers.stat(metrics[name]), metrics[name], values, reference(answers.y.numpy(), answers.p))
    assert one_versus_rest(answers.y.numpy(), answers.p) == pytest.approx(
        roc_auc_score(answers.y.numpy(), answers.p / answers.p.sum(1, keepdims=True), multi_class="ovr"), abs=1e-6
    )


def test_numbers_in_the_users_unit() -> None:
    answers, metrics = Answers.of_numbers(CLIENTS, seed=3), settings("regression", 1)
    assert set(metrics) == {"loss", "accuracy", "mae", "r2"}

    def of(function: Callable[[np.ndarray, np.ndarray], float], rows: Answers) -> float:
        y = 10 * rows.y.double().numpy()
        return function(y, y + 10 * rows.outputs.double().numpy())

    for name, function in {"mae": mean_absolute_error, "r2": lambda y, p: r2_score(y, p) if len(y) > 1 else float("nan")}.items():
        values = [of(function, answers.of(client)) for client in range(12)]
        check(answers.stat(metrics[name], scale=10.0), metrics[name], values, of(function, answers))


def test_equal_targets_have_no_r2_and_several_targets_none_at_all() -> None:
    r2 = METRICS["r2"]
    constant = Answers(np.zeros(5, dtype=np.int64), torch.full((5, 1), 0.5), torch.full((5, 1), 1 / 3))
    assert np.isnan(constant.stat(r2).values())
    assert not constant.stat(r2).is_defined().any()
    assert not r2.applies("regression", 2)
    assert METRICS["mae"].applies("regression", 2)


def test_log_loss_is_the_loss_of_a_classification() -> None:
    answers = Answers.of_classes(CLIENTS, 3, seed=4)
    losses = -answers.outputs.gather(1, answers.y[:, None])[:, 0].double().numpy()
    assert losses.mean() == pytest.approx(log_loss(answers.y.numpy(), answers.p), rel=1e-6)
    assert headline("classification", "log_loss").metric is LOSS
    assert headline("classification", "log_loss").key == "test_loss"


def test_ties_count_half_and_a_constant_score_has_half() -> None:
    tied = Answers(np.zeros(4, dtype=np.int64), torch.log(torch.tensor([[0.5, 0.5]] * 4)), torch.tensor([0, 1, 1, 0]))
    assert tied.stat(METRICS["auc"]).values() == [0.5]
    assert np.isnan(tied.stat(METRICS["calibration_slope"]).values()).all()


def test_classes_that_a_threshold_tells_apart_have_an_auc_and_no_slope() -> None:
    y = torch.tensor([0, 0, 1, 1])
    for scores_ in ([-2.0, -1.0, 1.0, 2.0], [2.0, 1.0, -1.0, -2.0], [-2.0, 0.0, 0.0, 2.0]):
        apart = Answers(np.zeros(4, dtype=np.int64), torch.log_softmax(torch.tensor([[0.0, one] for one in scores_]), -1), y)
        assert not np.isnan(apart.stat(METRICS["auc"]).values()).any()
        assert not apart.stat(METRICS["calibration_slope"]).is_defined().any()


@pytest.mark.parametrize("metric", settings("classification", 2).values(), ids=lambda one: one.name)
def test_a_diverged_client_has_no_number_and_counts(metric: Metric) -> None:
    if metric.name == "accuracy":
        pytest.skip("a most probable class is found among any numbers")
    answers = Answers.of_classes(np.repeat([0, 1], 30), 2, seed=5)
    answers.outputs[:30] = torch.nan
    stat = answers.stat(metric)
    if metric.name == "balanced_accuracy":
        assert stat.is_defined(metric).all()
        return
    if metric.name == "loss":
        return  # the blocks of these tests have made-up losses
    assert np.isnan(stat.values(metric)).tolist() == [True, False]
    assert np.isnan(stat.pooled(metric))
    if metric.name != "calibration_slope":  # no overlap can be seen in what are no numbers
        assert stat.is_defined(metric).all()


def test_the_gathered_scores_are_small_ordered_and_shared() -> None:
    answers = Answers.of_classes(np.random.default_rng(0).permutation(CLIENTS), 2, seed=6)
    auc = METRICS["auc"]
    stat = answers.stat(auc)
    assert isinstance(stat, scores.ScoreStat)
    client, found, y = stat.rows()
    order = np.argsort(answers.client, kind="stable")
    assert client.tolist() == answers.client[order].tolist()
    assert y.tolist() == answers.y.numpy()[order].tolist()
    np.testing.assert_array_equal(found[:, 0], (answers.outputs[:, 1] - answers.outputs[:, 0]).numpy()[order])
    assert sum(part.nbytes for parts in stat._parts for part in parts) == scores.row_bytes(2) * len(CLIENTS) == 12 * len(CLIENTS)
    assert {METRICS[name].statistic for name in ("auc", "calibration_slope")} == {scores.SCORES}


def test_the_bits_do_not_depend_on_how_clients_were_dealt() -> None:
    answers = Answers.of_classes(CLIENTS, 2, seed=7)
    for metric in settings("classification", 2).values():
        if metric.name in ("loss",):
            continue
        bits = set()
        for parts, seed in ((1, 0), (2, 1), (5, 2)):
            stat = answers.stat(metric, parts, seed=seed)
            bits.add((stat.values().tobytes(), np.float64(stat.pooled()).tobytes()))
        assert len(bits) == 1, metric.name


def test_before_the_last_round_rows_stay_and_clients_have_their_values() -> None:
    answers, auc = Answers.of_classes(CLIENTS, 2, seed=8), METRICS["auc"]
    whole = answers.stat(auc)
    halves = [Answers(part.client, part.outputs, part.y).stat(auc).settled() for part in halves_of(answers)]
    together = Stat.merge(halves)
    np.testing.assert_array_equal(together.values(), whole.values())
    np.testing.assert_array_equal(together.is_defined(), whole.is_defined())
    assert np.isnan(together.pooled())
    row = round_columns({"scores": together}, np.unique(CLIENTS, return_counts=True)[1])
    assert row["test_auc"] == pytest.approx(np.nanmean(whole.values()))
    assert row["test_auc_undefined"] == int(np.isnan(whole.values()).sum()) > 0


def halves_of(answers: Answers) -> list[Answers]:
    rows = [torch.from_numpy(answers.client % 2 == one) for one in range(2)]
    return [Answers(answers.client[row.numpy()], answers.outputs[row], answers.y[row]) for row in rows]


def test_where_neither_more_nor_less_is_better_the_worst_are_the_farthest() -> None:
    answers, metric = Answers.of_classes(CLIENTS, 2, seed=9), METRICS["calibration_in_the_large"]
    stat = answers.stat(metric)
    row = round_columns({metric.name: stat}, np.unique(CLIENTS, return_counts=True)[1])
    assert row["test_calibration_in_the_large_worst_decile"] == np.abs(stat.values()).max()


def test_every_slope_solves_its_likelihood_equations() -> None:
    """Few rows with heavy tails, at any scale and far from 0: where Newton's method alone would fail."""
    draw = np.random.default_rng(10)
    client = np.repeat(np.arange(300), draw.integers(2, 40, 300))
    scale = 10.0 ** draw.uniform(-6, 4, 300)
    x = (scale[client] * (draw.standard_t(1.2, len(client)) + 5 * draw.normal(size=300)[client])).astype(np.float32)
    positive = draw.random(len(client)) < draw.uniform(0.02, 0.98, 300)[client]
    chosen = overlaps(client, x, positive, 300)
    found = slopes(client, x, positive, chosen)
    assert (np.isnan(found) == ~chosen).all()
    assert 200 < chosen.sum() < 300
    for one in np.flatnonzero(chosen):
        mine, y = x[client == one].astype(np.float64), positive[client == one]
        centred = mine - mine.mean()
        intercept = brentq(lambda a: (y - expit(a + found[one] * centred)).sum(), -1e4, 1e4, xtol=1e-13)  # noqa: B023 - used at once
        left = (y - expit(intercept + found[one] * centred)) @ centred
        assert abs(left) < 1e-6 * np.abs(centred).sum()


def test_predictions_have_the_columns_of_their_table() -> None:
    for answers, task, outputs in (
        (Answers.of_classes(CLIENTS, 3, seed=11), "classification", 3),
        (Answers.of_numbers(CLIENTS, seed=11), "regression", 1),
        (Answers.of_numbers(CLIENTS, seed=11, targets=2), "regression", 2),
    ):
        stat = answers.stat(Predictions(task), scale=10.0)
        assert isinstance(stat, PredictionStat)
        columns = stat.columns()
        assert {*columns, "strategy", "seed", "client"} == set(tables.predictions(task, outputs).names)
        assert tables.batch(tables.predictions(task, outputs), {"strategy": "x", "seed": 1, **columns}).num_rows == len(CLIENTS)
        gathered = sum(part.nbytes for parts in stat.parts for part in parts)
        assert gathered == row_bytes(outputs, task) * len(CLIENTS)
    np.testing.assert_allclose(columns["prediction_1"] - columns["y_1"], 10 * answers.outputs[:, 1].double().numpy(), rtol=1e-5)
