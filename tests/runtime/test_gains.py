"""Each client's gain over itself alone, by hand; and what a resumed or packed run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario
from sklearn.metrics import r2_score, roc_auc_score

from scarcity_ray import resume, simulate
from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.metrics.tested_rows import TestedRows, TestedRowsStat
from scarcity_ray.runtime.gains import gain_columns
from scarcity_ray.runtime.observers import Plots
from scarcity_ray.runtime.simulation import Interrupted

IDS, COUNTS = np.array([2, 5]), np.array([6, 4])
ACCURACY, RMSE = headline("classification"), headline("regression")


def rows(shown: Shown, values: Any, scale: float = 1.0, counts: Any = COUNTS) -> TestedRowsStat:
    """What a metric takes from the rows of two clients."""
    stat = TestedRows(shown.metric).start(IDS, scale)
    assert isinstance(stat, TestedRowsStat)
    numbers = np.asarray(values, dtype=float).reshape(sum(counts), -1 if sum(counts) else 1)
    stat.parts, stat.counts = [(np.repeat([0, 1], counts), numbers)], np.asarray(counts)
    return stat


def test_a_gain_in_accuracy_is_the_mean_difference_and_its_halves_make_it_up() -> None:
    one, other = rows(ACCURACY, [1, 0, 0, 1, 0, 0, 1, 1, 1, 1]), rows(ACCURACY, [1, 1, 0, 1, 1, 0, 1, 1, 1, 0])
    found = gain_columns(ACCURACY, one, other, np.arange(7), seed=3)
    assert found["gain"][[2, 5]].tolist() == pytest.approx([2 / 6, -1 / 4])
    assert np.isnan(np.delete(found["gain"], [2, 5])).all()
    for client in (2, 5):
        assert (found["gain_0"] + found["gain_1"])[client] / 2 == pytest.approx(found["gain"][client])
    assert (found["gain_error"][[2, 5]] > 0).all()


def test_a_gain_of_a_regression_is_in_the_root_of_the_error_and_the_labels_unit() -> None:
    one, other = rows(RMSE, [4.0] * 6 + [9.0] * 4, 10.0), rows(RMSE, [1.0] * 6 + [16.0] * 4, 10.0)
    found = gain_columns(RMSE, one, other, IDS, seed=3)
    assert found["gain"].tolist() == pytest.approx([10.0, -10.0])
    mae = headline("regression", "mae")
    found = gain_columns(mae, rows(mae, [4.0] * 10, 10.0), rows(mae, [1.0] * 10, 10.0), IDS, seed=3)
    assert found["gain"].tolist() == pytest.approx([30.0, 30.0])


@pytest.mark.parametrize(("task", "metric"), [("classification", "auc"), ("classification", None), ("regression", "r2")])
def test_clients_without_a_single_test_row_have_no_gain(task: str, metric: str | None) -> None:
    shown = headline(task, metric)
    none = rows(shown, [], counts=[0, 0])
    assert all(np.isnan(column).all() for column in gain_columns(shown, none, none, IDS, seed=3).values())


def test_a_gain_in_r2_is_the_difference_of_two_r2() -> None:
    r2, rng = headline("regression", "r2"), np.random.default_rng(1)
    y = rng.standard_normal((40, 1))
    counts, parts = [25, 15], (slice(0, 25), slice(25, 40))
    predicted = [y + size * rng.standard_normal((40, 1)) for size in (0.9, 0.4)]
    one, other = (rows(r2, np.hstack([(guess - y) ** 2, y, y**2]), 3.0, counts) for guess in predicted)
    found = gain_columns(r2, one, other, IDS, seed=3)
    wanted = [r2_score(y[part], predicted[1][part]) - r2_score(y[part], predicted[0][part]) for part in parts]
    assert found["gain"].tolist() == pytest.approx(wanted)
    assert (found["gain_error"] > 0).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_gain_in_auc_is_the_difference_of_two_areas(classes: int) -> None:
    auc, rng = headline("classification", "auc"), np.random.default_rng(classes)
    y = rng.integers(0, classes, 60)
    counts, parts = [35, 25], (slice(0, 35), slice(35, 60))
    width = 1 if classes == 2 else classes
    scores = [(np.eye(classes)[y][:, -width:] * size + rng.standard_normal((60, width))).astype(np.float32) for size in (0.5, 1.5)]
    one, other = (rows(auc, np.hstack([found, y[:, None]]), counts=counts) for found in scores)
    found = gain_columns(auc, one, other, IDS, seed=3)

    def area(score: Any, labels: Any) -> float:
        chosen = [1] if classes == 2 else range(classes)
        return float(np.mean([roc_auc_score(labels == c, score[:, place]) for place, c in enumerate(chosen)]))

    wanted = [area(scores[1][part], y[part]) - area(scores[0][part], y[part]) for part in parts]
    assert found["gain"].tolist() == pytest.approx(wanted)
    assert (found["gain_error"] > 0).all()


def test_a_client_of_one_class_has_no_gain_in_auc() -> None:
    auc = headline("classification", "auc")
    numbers = np.column_stack([np.arange(10.0), [0, 0, 1, 1, 0, 1, 0, 0, 0, 0]])
    broken = np.where(np.arange(10)[:, None] == 2, np.nan, numbers)
    assert np.isnan(gain_columns(auc, rows(auc, numbers), rows(auc, numbers), IDS, seed=3)["gain"]).tolist() == [False, True]
    assert np.isnan(gain_columns(auc, rows(auc, numbers), rows(auc, broken), IDS, seed=3)["gain"]).all()


def test_a_model_that_is_not_finite_or_not_there_has_no_gain() -> None:
    one = rows(RMSE, [1.0] * 10)
    found = gain_columns(RMSE, one, rows(RMSE, [np.inf] * 6 + [0.5] * 4), IDS, seed=3)
    assert np.isnan(found["gain"]).tolist() == [True, False]
    none = TestedRowsStat(TestedRows(RMSE.metric), IDS, 1.0)
    for other in (none, None):
        assert np.isnan(gain_columns(RMSE, one, other, IDS, seed=3)["gain"]).all()


def test_gains_are_those_of_the_tables_for_any_packing_and_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = scenario(execution={"ray": False, "checkpoint_every": 1}, repeats=2)
    whole = simulate(content, out=tmp_path / "whole")
    clients = whole.frame("clients")
    last = clients[clients.gain.notna() & (clients.strategy == "fed_avg")].set_index(["seed", "client_id"])
    own = clients[clients.strategy == "alone"].set_index(["seed", "client_id"])
    np.testing.assert_allclose(last.gain, (last.test_accuracy - own.test_accuracy).loc[last.index], atol=1e-12)
    assert (last["round"] == 3).all()
    entry = whole.summary["strategies"]["fed_avg"]["gain"]
    assert entry["mean"] == pytest.approx(last.gain.groupby("seed").mean().mean())
    assert entry["low"] < entry["mean"] < entry["high"]

    def interrupt(_: Plots, run: Any, round: Any) -> None:
        if run.name == "fed_avg" and run.seed == 4 and round.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Plots, "on_round", interrupt)
        with pytest.raises(Interrupted):
            simulate(content, out=tmp_path / "cut")
    cut, packed = resume(tmp_path / "cut"), simulate(content | {"execution": {"ray": False, "actors": 4}}, out=tmp_path / "packed")
    for other in (cut, packed):
        assert other.summary["best"] == whole.summary["best"]
        for name, found in other.summary["strategies"].items():
            assert found.get("gain") == whole.summary["strategies"][name].get("gain")
            assert found["result_hash"] == whole.summary["strategies"][name]["result_hash"]
