"""Observers of the user: they see each round and the end, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate
from scarcity_ray.runtime.simulation import Interrupted


class Meddler:
    def __init__(self) -> None:
        self.rounds: list[tuple[str, int]] = []
        self.ends: list[Results] = []

    def on_round(self, row: dict[str, Any]) -> None:
        self.rounds.append((row["strategy"], row["round"]))
        row.clear()

    def on_end(self, results: Results) -> None:
        self.ends.append(results)


class Fails:
    calls = 0

    def on_round(self, row: dict[str, Any]) -> None:
        self.calls += 1
        raise ValueError("mine")


class Stops:
    def on_round(self, row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt


def test_observers_see_all_and_change_nothing(tmp_path: Path) -> None:
    undisturbed = simulate(scenario(), out=tmp_path / "alone")
    meddler, fails = Meddler(), Fails()
    with pytest.warns(RuntimeWarning, match=r"on_round of the observer .*Fails.* failed, and it is not called again: ValueError\('mine'\)"):
        watched = simulate(scenario(), out=tmp_path / "watched", observers=[fails, meddler])
    rows = undisturbed.rounds
    assert meddler.rounds == list(zip(rows["strategy"].to_pylist(), rows["round"].to_pylist(), strict=True))
    assert [one.directory for one in meddler.ends] == [tmp_path / "watched"]
    assert fails.calls == 1
    hashes = [{name: entry["result_hash"] for name, entry in run.summary["strategies"].items()} for run in (undisturbed, watched)]
    assert hashes[0] == hashes[1]


def test_an_interrupt_passes_and_says_how_to_continue(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"(?s)^interrupted\nkept in .*\nto continue: scarcity-ray resume ") as left:
        simulate(scenario(), out=tmp_path / "run", observers=[Stops()])
    assert left.value.directory == tmp_path / "run"
    meddler = Meddler()
    resume(tmp_path / "run", observers=[meddler])
    assert meddler.rounds[-1] == ("fed_avg", 3)
    assert len(meddler.ends) == 1


def test_an_object_without_hooks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"has neither of the methods on_round\(row\) and on_end\(results\)"):
        simulate(scenario(), out=tmp_path / "run", observers=[print])
    assert not (tmp_path / "run").exists()
