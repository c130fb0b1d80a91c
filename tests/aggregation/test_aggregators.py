"""Aggregators that see single updates: the coordinate median, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.lies import federation, problem
from helpers.scenarios import scenario
from helpers.user_transforms import CoordinateMedian, Rotation, Sign
from uplink.test_pipeline import CLIENTS, made

from scarcity_ray import simulate
from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.strategies import FedAvg, Ifca
from scarcity_ray.training.task import Task

MEDIAN = {"kind": "import", "path": "helpers.user_transforms:CoordinateMedian"}


def trained(x: torch.Tensor, round: int) -> np.ndarray:
    one_by_one = [Task(problem(), federation().train, np.array([i]), round).local_sgd(x[None])[0] for i in range(CLIENTS)]
    return torch.stack(one_by_one).numpy()


@pytest.mark.parametrize("actors", [1, 3, 7])
def test_the_new_model_is_the_median_of_each_number_over_the_clients(actors: int) -> None:
    server = made(FedAvg(aggregation=CoordinateMedian()), actors)
    for round in range(1, 4):
        expected = np.median(trained(server.state.broadcast["x"], round).astype(np.float64), axis=0).astype(np.float32)
        server.run_round()
        assert np.array_equal(server.state.broadcast["x"].numpy(), expected)


def test_each_expert_has_the_median_of_its_own_clients_and_stays_without_any() -> None:
    server = made(Ifca(experts=3, aggregation=CoordinateMedian()))
    before = server.state.broadcast["experts"]
    result = server.run_round()
    strategy, ids = server.strategy, np.arange(CLIENTS)
    for expert in range(3):
        updates = []
        for i in ids:
            task = Task(problem(), federation().train, np.array([i]), 1)
            value, _, chosen = strategy.client_update(task, {"experts": before}, {}).sums["experts"]  # type: ignore[misc]
            updates += [value[0].numpy()] if int(chosen) == expert else []
        expected = np.median(np.array(updates, dtype=np.float64), axis=0).astype(np.float32) if updates else before[expert].numpy()
        assert np.array_equal(server.state.broadcast["experts"][expert].numpy(), expected)
    assert result.rejected == []


def test_it_gets_the_decoded_updates_where_there_are_transforms() -> None:
    server = made(FedAvg(aggregation=CoordinateMedian(), uplink=[Rotation()]))
    x = server.state.broadcast["x"]
    server.run_round()
    expected = np.median(trained(x, 1), axis=0)
    np.testing.assert_allclose(server.state.broadcast["x"].numpy(), expected, rtol=1e-4, atol=1e-6)
    signs = made(FedAvg(aggregation=CoordinateMedian(), uplink=[Sign()]))
    signs.run_round()
    assert torch.isfinite(signs.state.broadcast["x"]).all()


def test_the_mean_by_name_is_the_default_to_the_bit_and_the_median_another_result(tmp_path: Path) -> None:
    hashes = []
    for name, more in (("plain", {}), ("named", {"aggregation": "mean"}), ("median", {"aggregation": MEDIAN})):
        results = simulate(scenario(strategies=[{"kind": "fed_avg", **more}]), out=tmp_path / name)
        hashes.append(results.summary["strategies"]["fed_avg"]["result_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_updates_that_take_more_memory_than_is_allowed_are_refused_before_the_run() -> None:
    read = parse(scenario(strategies=[{"kind": "fed_avg", "fraction": 1, "aggregation": {**MEDIAN, "memory_mb": 0.001}}]))
    with pytest.raises(SpecError, match=r"the updates of a round take .* MiB: allow as much, sample fewer clients") as refused:
        prepare(read, Path())
    assert refused.value.field == ("strategies", 0, "aggregation", "memory_mb")


@pytest.mark.parametrize(("makes", "why"), [
    (lambda values: values, r"made a tensor \[7, 32\] of x, not finite numbers \[32\]"),
    (lambda values: None, "made NoneType of x"),
    (lambda values: values[0] * float("nan"), r"made a tensor \[32\] of x, not finite numbers"),
])  # fmt: skip
def test_an_aggregator_that_makes_something_else_is_named(makes: Any, why: str) -> None:
    class Wrong(CoordinateMedian):
        def combine(self, values: torch.Tensor, weights: torch.Tensor) -> Any:
            return makes(values)

    with pytest.raises(ValueError, match=f"aggregation Wrong: combine {why}"):
        made(FedAvg(aggregation=Wrong())).run_round()


def test_an_aggregator_where_nothing_is_sent_is_refused() -> None:
    read = parse(scenario(strategies=[{"kind": "local_only", "aggregation": MEDIAN}]))
    with pytest.raises(SpecError, match="clients of local_only send no updates, so there is nothing to aggregate"):
        prepare(read, Path())
