"""Actors, nodes and drivers die or hang in the middle of a run, as a seed says: it ends with the results of one that nothing befell."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.chaos import ACTORS, GROUNDS, OWN, ROUNDS, Outcome, disturbed, play, schedule
from helpers.clock import wall_clock
from helpers.side_by_side import side_by_side

from scarcity_ray import Results, simulate

IN_THE_SUITE, IN_ALL = 3, 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The run in this process, where nobody dies."""
    results = simulate(disturbed(ray=False), out=tmp_path_factory.mktemp("undisturbed") / "run")
    assert {name: entry["rounds"] for name, entry in results.summary["strategies"].items()} == {"guess": 0, "alone": 0, **ROUNDS}
    return results


def lasting(told: Any) -> Any:
    """What a summary says beside times, and beside what the run survived."""
    if isinstance(told, dict):
        return {name: lasting(value) for name, value in told.items() if name != "recovered" and not wall_clock(name)}
    return told


def rows(results: Results, name: str) -> pa.Table:
    """A table with all that a payload holds, without times."""
    table = pq.read_table(results.directory / f"{name}.parquet")
    return table.drop_columns([column for column in table.column_names if wall_clock(column)])


def survived(seed: int, outcome: Outcome, undisturbed: Results) -> None:
    plan = schedule(seed)
    assert outcome.code == 0, f"{plan}: {outcome.said}"
    ended = Results.load(outcome.directory)
    assert lasting(ended.summary) == lasting(undisturbed.summary), plan  # result hashes are in it
    for name in ("rounds", "clients", "insights"):  # none lost, none twice, and in their order
        ours, theirs = (rows(results, name) for results in (ended, undisturbed))
        assert ours.equals(theirs), f"{plan}: {name}"
    assert ended.summary["recovered"] >= outcome.noticed, plan


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Future[Outcome]]:
    return side_by_side(lambda seed: play(schedule(seed), tmp_path_factory.mktemp("disturbed")), range(IN_THE_SUITE))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(IN_THE_SUITE))
def test_a_disturbed_run_ends_as_if_nothing_had_happened(seed: int, undisturbed: Results, played: dict[int, Future[Outcome]]) -> None:
    survived(seed, played[seed].result(), undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(IN_ALL))
def test_so_does_every_other(seed: int, undisturbed: Results, tmp_path: Path) -> None:
    survived(seed, play(schedule(seed), tmp_path), undisturbed)


def test_a_seed_is_a_schedule() -> None:
    plans = [schedule(seed) for seed in range(IN_ALL)]
    assert plans == [schedule(seed) for seed in range(IN_ALL)]
    assert len({plan.faults for plan in plans}) == IN_ALL
    certain = {*ACTORS, *(kind for ground in GROUNDS for kind in ground)}
    assert {fault.kind for plan in plans[:IN_THE_SUITE] for fault in plan.faults} == certain
    assert {fault.kind for plan in plans for fault in plan.faults} == {*certain, *OWN, "driver"}
    assert {plan.checkpoint_every for plan in plans} == {"auto", "1", "3", "7"}
