"""A report on scarcity, played: its numbers against the tables of its runs, and that it can be cut anywhere."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate, verify
from scarcity_ray.runtime.actor_group import ActorGroup
from scarcity_ray.runtime.observers import Plots
from scarcity_ray.runtime.session import Session
from scarcity_ray.runtime.simulation import Interrupted

CONTENT = scenario(
    repeats=2,
    rounds=6,
    strategies=[{"kind": "fed_avg", "fraction": 0.5}, {"kind": "local_only"}],
    scarcity={"compute": {"speed": 1e-3, "jitter": 0.2}, "deadline": 1.5},
    evaluation={"every": 6, "scarcity_report": True},
)
FURTHER = ["free", "only_compute", "only_deadline", "more_deadline"]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Results:
    with pytest.MonkeyPatch.context() as patched:
        launched, launch = list[int](), ActorGroup._launch
        patched.setattr(ActorGroup, "_launch", lambda group: launched.append(1) or launch(group))  # type: ignore[func-returns-value]
        found = simulate(CONTENT, out=tmp_path_factory.mktemp("report") / "run")
    assert len(launched) == 1  # all runs share the actors
    return found


def last(directory: Path, strategy: str) -> Any:
    """Each client's accuracy after the last round, by seed."""
    rows = Results.load(directory).frame("clients")
    rows = rows[rows.strategy == strategy]
    return rows[rows["round"] == rows.groupby("seed")["round"].transform("max")].set_index(["seed", "client_id"]).test_accuracy


def test_the_run_itself_is_as_without_a_report(reported: Results, tmp_path: Path) -> None:
    assert sorted(path.name for path in (reported.directory / "scarcity").iterdir()) == sorted(FURTHER)
    plain = simulate(CONTENT | {"evaluation": {"every": 6}}, out=tmp_path / "plain")
    for name, entry in plain.summary["strategies"].items():
        assert reported.summary["strategies"][name]["result_hash"] == entry["result_hash"]
    assert plain.scarcity is None
    assert Results.load(plain.directory).environment["scenario"] == reported.environment["scenario"]


def test_costs_are_differences_of_the_tables(reported: Results) -> None:
    found, folder = reported.scarcity, reported.directory / "scarcity"
    assert found is not None
    for name, costs in found["costs"].items():
        value = {run: last(folder / run, name) for run in FURTHER} | {"all": last(reported.directory, name)}
        for one, other, cost in (
            ("free", "only_compute", costs["alone"]["compute"]),
            ("only_compute", "all", costs["beside_the_others"]["deadline"]),  # all but the deadline
            ("free", "all", costs["together"]),
            ("more_deadline", "all", costs["worth_of_more"]["deadline"]),
        ):
            differences = (value[one] - value[other]).groupby("seed").mean()
            assert cost["mean"] == pytest.approx(differences.mean(), abs=1e-12)
            assert cost["low"] <= cost["mean"] <= cost["high"]
            assert (cost["clients"], cost["seeds"]) == (24, 2)
    fed_avg = found["costs"]["fed_avg"]
    # Slow devices cost nothing where there is time, nor a deadline where work takes none: all that they cost is their interaction.
    assert [fed_avg["alone"][part]["mean"] for part in ("compute", "deadline")] == [0, 0]
    assert fed_avg["interaction"]["mean"] == pytest.approx(fed_avg["together"]["mean"])
    assert fed_avg["together"]["mean"] > 0
    with (reported.directory / "scarcity.csv").open() as file:
        rows = {(row["strategy"], row["quantity"], row["of"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * (2 * 2 + 2 + 1)
    assert float(rows["fed_avg", "beside_the_others", "compute"]["high"]) == fed_avg["beside_the_others"]["compute"]["high"]


def test_rows_say_what_was_reached_and_spent(reported: Results) -> None:
    assert reported.scarcity is not None
    rows = reported.scarcity["runs"]
    assert {row: one["run"] for row, one in rows.items()} == {name: name for name in (*FURTHER, "all")} | {
        "all_but_deadline": "only_compute",
        "all_but_compute": "only_deadline",
    }
    clock = reported.frame("rounds").groupby(["strategy", "seed"]).clock_seconds.max()
    mine = rows["all"]["strategies"]["fed_avg"]
    assert mine["hours"] == pytest.approx(clock["fed_avg"].mean() / 3600)
    assert mine["bytes"] == reported.summary["strategies"]["fed_avg"]["bytes_per_client"]
    assert [rows[row]["strategies"]["fed_avg"]["hours"] for row in ("free", "only_deadline")] == [None, None]
    assert mine["joules"] is None  # energy is not counted


def test_a_run_of_the_report_is_a_usual_run(reported: Results) -> None:
    assert verify(reported.directory / "scarcity" / "only_compute").difference is None


def test_a_report_that_was_cut_goes_on_where_it_was(reported: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(plots: Plots, run: Any, round: Any) -> None:
        if plots.directory.name == "only_compute" and run.seed == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Plots, "on_round", interrupt)
        with pytest.raises(Interrupted) as cut:
            simulate(CONTENT, out=tmp_path / "run")
    assert cut.value.directory == tmp_path / "run"  # what `scarcity-ray resume` takes
    played, play = list[tuple[str, bool]](), Session.play

    def noted(session: Session, *given: Any) -> list[str]:
        played.append((given[2].name, given[5] is not None))
        return play(session, *given)

    monkeypatch.setattr(Session, "play", noted)
    again = resume(tmp_path / "run")
    assert played == [("only_compute", True), ("only_deadline", False), ("more_deadline", False)]
    assert again.scarcity == reported.scarcity
    played.clear()
    resume(tmp_path / "run")
    assert played == []
    np.testing.assert_equal(again.scarcity, reported.scarcity)
