"""A report on scarcity, played: its numbers against the tables of its runs, and that it can be cut anywhere."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate, verify
from scarcity_ray.report.scarcity_in_words import in_words
from scarcity_ray.runtime import scarcity_report
from scarcity_ray.runtime.actor_group import ActorGroup
from scarcity_ray.runtime.observers import Plots
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.plan_in_words import plan_in_words
from scarcity_ray.runtime.session import Session
from scarcity_ray.runtime.simulation import Interrupted, RunFailed
from scarcity_ray.scenario import parse

CONTENT = scenario(
    repeats=2,
    data={"source": {"kind": "digits"}, "clients": 5, "partition": {"kind": "iid"}},
    model={"kind": "linear"},
    strategies=[{"kind": "fed_avg"}, {"kind": "local_only"}],
    scarcity={"compute": {"speed": 1e-3, "jitter": 0.2}, "deadline": 1.5, "energy": {}},
    evaluation={"scarcity_report": True},
)
FURTHER = ["free", "only_compute", "only_deadline", "more_deadline"]


class Played:
    """A report that is interrupted in the second of its further runs, and resumed."""

    def __init__(self, directory: Path) -> None:
        self.launched, self.runs = 0, list[tuple[str, bool]]()
        with pytest.MonkeyPatch.context() as patched:
            self._watch(patched)
            with pytest.MonkeyPatch.context() as interrupting:
                interrupting.setattr(Plots, "on_round", self._interrupt)
                with pytest.raises(Interrupted) as cut:
                    simulate(CONTENT, out=directory)
            assert cut.value.directory == directory  # what `scarcity-ray resume` takes
            self.results, self.before = resume(directory), self.runs.copy()
            resume(directory)

    @staticmethod
    def _interrupt(plots: Plots, run: Any, round: Any) -> None:
        if plots.directory.name == "only_compute" and run.seed == 4:
            raise KeyboardInterrupt

    def _watch(self, patched: pytest.MonkeyPatch) -> None:
        """Notes the runs that are played, whether from a checkpoint, and each start of actors."""
        launch, play = ActorGroup._launch, Session.play

        def launched(group: ActorGroup) -> None:
            self.launched += 1
            launch(group)

        def played(session: Session, *given: Any) -> list[str]:
            self.runs.append((given[2].name, given[5] is not None))
            return play(session, *given)

        patched.setattr(ActorGroup, "_launch", launched)
        patched.setattr(Session, "play", played)
        patched.setattr(scarcity_report, "_draw", lambda *_: None)  # tests/report has the picture


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def reported(played: Played) -> Results:
    return played.results


def test_a_report_that_was_cut_goes_on_where_it_was(played: Played) -> None:
    first, cut = [("run", False), ("free", False), ("only_compute", False)], ("only_compute", True)
    assert played.runs == played.before == [*first, cut, ("only_deadline", False), ("more_deadline", False)]
    assert played.launched == 2  # once before the interruption, and once after
    assert verify(played.results.directory / "scarcity" / "only_compute", rounds=2).difference is None  # as if nothing had happened


def last(directory: Path, strategy: str) -> Any:
    """Each client's accuracy after the last round, by seed."""
    rows = Results.load(directory).frame("clients")
    rows = rows[rows.strategy == strategy]
    return rows[rows["round"] == rows.groupby("seed")["round"].transform("max")].set_index(["seed", "client_id"]).test_accuracy


def test_the_run_itself_is_as_without_a_report(reported: Results, tmp_path: Path) -> None:
    assert sorted(path.name for path in (reported.directory / "scarcity").iterdir()) == sorted(FURTHER)
    told = dict(plan_in_words(prepare(parse(CONTENT), Path())))["report"]
    assert told == f"5 runs, each with all seeds and strategies: all, {', '.join(FURTHER)}"
    plain = simulate(CONTENT | {"evaluation": {}}, out=tmp_path / "plain")
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
            assert (cost["clients"], cost["seeds"]) == (10, 2)
    fed_avg = found["costs"]["fed_avg"]
    # Slow devices cost nothing where there is time, nor a deadline where work takes none: all that they cost is their interaction.
    assert [fed_avg["alone"][part]["mean"] for part in ("compute", "deadline")] == [0, 0]
    assert fed_avg["interaction"]["mean"] == pytest.approx(fed_avg["together"]["mean"])
    assert fed_avg["together"]["mean"] > 0
    with (reported.directory / "scarcity.csv").open() as file:
        rows = {(row["strategy"], row["quantity"], row["of"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * (2 * 2 + 2 + 1)
    assert float(rows["fed_avg", "beside_the_others", "compute"]["high"]) == fed_avg["beside_the_others"]["compute"]["high"]


def test_the_page_of_the_run_is_drawn_again_with_the_report(reported: Results) -> None:
    assert reported.scarcity is not None
    text = (reported.directory / "report.html").read_text(encoding="utf-8")
    sentence = in_words(reported.scarcity)
    assert f"<p>{sentence[0].upper()}{sentence[1:]}</p>" in text


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
    joules = reported.frame("rounds").groupby(["strategy", "seed"]).joules.sum()
    assert mine["joules"] == pytest.approx(joules["fed_avg"].mean() / 5)
    assert rows["free"]["strategies"]["fed_avg"]["joules"] is None


def test_clients_that_are_tested_on_other_rows_are_not_compared(tmp_path: Path) -> None:
    rows = "".join(f"{shop},{size},{'' if size == 3 else 5},{size + 0.5}\n" for shop in "ab" for size in range(8))
    (tmp_path / "shops.csv").write_text(f"shop,size,mbit,price\n{rows}")
    source = {"kind": "table", "path": "shops.csv", "client": "shop", "label": "price", "task": "regression", "missing": "drop"}
    scarcity = {"network": {"downlink": {"column": "mbit"}}}
    content = CONTENT | {"data": {"source": source}, "repeats": 1, "rounds": 1, "scarcity": scarcity}
    with pytest.raises(
        RunFailed, match=r"scarcity/free: data\.source\.missing is 'drop': without the columns .* leave incomplete rows out"
    ):
        simulate(content, base_dir=tmp_path, out=tmp_path / "run")
