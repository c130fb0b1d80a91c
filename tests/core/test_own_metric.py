"""A metric of a user's own: the distance between the scores of two classes, which needs every row of a client and cannot be averaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scenarios import scenario
from rich.console import Console
from scipy.stats import ks_2samp
from torch import Tensor

from scarcity_ray import Results, simulate, verify
from scarcity_ray.core.metrics import METRICS, Block, RowMetric
from scarcity_ray.report.final_table import final_table
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse

SCENARIO = scenario(
    data={"source": {"kind": "blobs", "shape": [3], "classes": 2, "separation": 1.0, "samples_per_client": 9}, "clients": 30},
    strategies=[{"kind": "local_only"}, {"kind": "fed_avg"}],
    execution={"ray": False, "actors": 3},
)


class Distance(RowMetric):
    """The greatest distance between the distributions of the scores of two classes (Smirnov, 1939)."""

    name, unit, description = "distance", "share", "Kolmogorov-Smirnov distance of the classes' scores in the client's test rows"
    higher_is_better = True
    width = 2

    def applies(self, task: str, outputs: int) -> bool:
        return task == "classification" and outputs == 2

    def per_row(self, block: Block) -> Tensor:
        return torch.stack([block.outputs[:, 1] - block.outputs[:, 0], block.y.to(block.outputs.dtype)], dim=1)

    def is_defined(self, rows: np.ndarray) -> bool:
        return 0 < rows[:, 1].sum() < len(rows)

    def value(self, rows: np.ndarray) -> float:
        scores, positive = rows[:, 0], rows[:, 1] == 1
        lower = np.searchsorted(np.sort(scores[positive]), scores, side="right") / positive.sum()
        return float(np.abs(lower - np.searchsorted(np.sort(scores[~positive]), scores, side="right") / (~positive).sum()).max())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The run without the metric."""
    return simulate(SCENARIO, out=tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def distance() -> Iterator[None]:
    METRICS.register(Distance)
    yield
    METRICS.unregister("distance")


@pytest.fixture(scope="module")
def measured(plain: Results, distance: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(SCENARIO, out=tmp_path_factory.mktemp("measured") / "run")


def distance_of(y: np.ndarray, scores: np.ndarray) -> float:
    return float(ks_2samp(scores[y == 1], scores[y == 0]).statistic)


def references(results: Results) -> tuple[np.ndarray, np.ndarray, float]:
    """scikit-learn's AUC of the trained global model: of each client (NaN where it has one class), their rows, and over all rows."""
    test, model = prepare(parse(SCENARIO), Path()).federation.test, results.model("fed_avg")
    with torch.no_grad():
        scores = model(torch.from_numpy(test.x))
    scores = (scores[:, 1] - scores[:, 0]).numpy()
    own = [test.rows(client) for client in range(30)]
    values = [distance_of(test.y[rows], scores[rows]) if len(set(test.y[rows])) == 2 else np.nan for rows in own]
    return np.array(values), test.counts, distance_of(test.y, scores)


def test_each_client_has_the_distance_of_scipy_and_null_where_it_has_one_class(measured: Results) -> None:
    expected, _, _ = references(measured)
    clients = measured.frame("clients")
    last = clients[(clients["strategy"] == "fed_avg") & (clients["round"] == 3)]
    np.testing.assert_allclose(last["test_distance"].to_numpy(), expected, rtol=1e-12)
    assert 0 < np.isnan(expected).sum() < 30


def test_rounds_and_summary_have_the_one_over_all_rows_of_three_actors(measured: Results) -> None:
    expected, _, pooled = references(measured)
    known = np.sort(expected[~np.isnan(expected)])
    last = measured.rounds.to_pylist()[-1]
    entry = measured.summary["strategies"]["fed_avg"]
    for found in (last, entry):
        assert found["test_distance_pooled"] == pytest.approx(pooled, rel=1e-12)
        assert found["test_distance"] == pytest.approx(known.mean(), rel=1e-12)
        assert found["test_distance_worst_decile"] == pytest.approx(known[: max(1, len(known) // 10)].mean(), rel=1e-12)
    assert len(known) // 10 == 2
    assert known[1] < known[-2]  # the lowest are the worst
    assert abs(pooled - known.mean()) > 1e-3


def test_measuring_one_metric_more_changes_no_result(plain: Results, measured: Results) -> None:
    hashes = [{name: entry["result_hash"] for name, entry in run.summary["strategies"].items()} for run in (plain, measured)]
    assert hashes[0] == hashes[1]
    assert verify(measured.directory).difference is None
    assert verify(plain.directory, rounds=2).difference is None  # a run of before the metric


def test_the_final_table_shows_it(measured: Results, plain: Results) -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(final_table(measured.summary))
    assert "distance" in shown.get()
    with console.capture() as shown:
        console.print(final_table(plain.summary))
    assert "distance" not in shown.get()


def test_a_run_with_an_unknown_metric_can_be_read_and_verified(measured: Results) -> None:
    METRICS.unregister("distance")
    try:
        assert "test_distance" in Results.load(measured.directory).clients.column_names
        assert verify(measured.directory).difference is None
    finally:
        METRICS.register(Distance)


def test_in_a_regression_it_is_null(distance: None, tmp_path: Path) -> None:
    regression = {"source": {"kind": "shifted_regression", "samples_per_client": 8}, "clients": 3}
    run = simulate(SCENARIO | {"data": regression, "model": {"kind": "linear"}, "rounds": 1}, out=tmp_path / "run")
    assert run.clients["test_distance"].null_count == run.clients.num_rows
    assert run.summary["strategies"]["fed_avg"]["test_distance_pooled"] is None
