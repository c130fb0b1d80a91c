"""Each client's gain over itself alone, by hand; and what a resumed or packed run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario

from scarcity_ray import resume, simulate
from scarcity_ray.runtime.gains import gain_columns
from scarcity_ray.runtime.observers import Plots
from scarcity_ray.runtime.simulation import Interrupted
from scarcity_ray.training.evaluate import RowValues

IDS, COUNTS = np.array([2, 5]), np.array([6, 4])


def rows(values: list[float]) -> RowValues:
    return RowValues(IDS, COUNTS, np.array(values))


def test_a_gain_in_accuracy_is_the_mean_difference_and_its_halves_make_it_up() -> None:
    one, other = rows([1, 0, 0, 1, 0, 0, 1, 1, 1, 1]), rows([1, 1, 0, 1, 1, 0, 1, 1, 1, 0])
    found = gain_columns("classification", 1.0, one, other, np.arange(7), seed=3)
    assert found["gain"][[2, 5]].tolist() == pytest.approx([2 / 6, -1 / 4])
    assert np.isnan(np.delete(found["gain"], [2, 5])).all()
    for client in (2, 5):
        assert (found["gain_0"] + found["gain_1"])[client] / 2 == pytest.approx(found["gain"][client])
    assert (found["gain_error"][[2, 5]] > 0).all()


def test_a_gain_of_a_regression_is_in_the_root_of_the_error_and_the_labels_unit() -> None:
    one, other = rows([4.0] * 6 + [9.0] * 4), rows([1.0] * 6 + [16.0] * 4)
    found = gain_columns("regression", 10.0, one, other, IDS, seed=3)
    assert found["gain"].tolist() == pytest.approx([10.0, -10.0])


def test_a_model_that_is_not_finite_or_not_there_has_no_gain() -> None:
    one = rows([1.0] * 10)
    found = gain_columns("regression", 1.0, one, rows([np.inf] * 6 + [0.5] * 4), IDS, seed=3)
    assert np.isnan(found["gain"]).tolist() == [True, False]
    none = RowValues(IDS[:0], COUNTS[:0], np.zeros(0))
    assert np.isnan(gain_columns("regression", 1.0, one, none, IDS, seed=3)["gain"]).all()


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
