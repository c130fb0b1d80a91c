"""The loop of a run: the time of each round, the order of what observers see, and how often a loss is retried."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.actors.server import Server
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.runtime.actor_group import ActorGroup, start_actor_group
from scarcity_ray.runtime.fleet import ActorLost
from scarcity_ray.runtime.loop import rounds
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.runtime.simulation import RunFailed
from scarcity_ray.scenario import parse


def test_the_seconds_of_a_round_are_those_of_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray too, and from the first round on: each lasts at least as long as the server was at work on it."""
    inside: dict[int, float] = {}
    play = Server.run_ordered_round

    def timed(server: Server, round: int, *order: Any) -> Any:
        began = time.perf_counter()
        time.sleep(0.02 * round)
        result = play(server, round, *order)
        inside[round] = time.perf_counter() - began
        return result

    monkeypatch.setattr(Server, "run_ordered_round", timed)
    began = time.perf_counter()
    rows = simulate(scenario(rounds=5), out=tmp_path / "run").frame("rounds").set_index("round")
    whole = time.perf_counter() - began
    assert sorted(inside) == [1, 2, 3, 4, 5]
    assert all(rows.seconds[round] >= seconds for round, seconds in inside.items())
    assert rows.seconds.sum() <= whole


def planned(**changes: Any) -> RunPlan:
    return prepare(parse(scenario(**changes)), Path())


@pytest.fixture
def group() -> Iterator[ActorGroup]:
    group = start_actor_group(planned(), print)
    yield group
    group.join()


def test_rounds_are_a_generator_that_writes_nothing(group: ActorGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state in a result is all that the rounds after it need, and one round alone comes out as among the others."""
    monkeypatch.chdir(tmp_path)
    plan, start = planned(), Checkpoint("fed_avg", 3)
    group.load_federation(plan)
    whole = list(rounds(plan, group, start, dict, keep=lambda round: round == 2))
    assert [result.row["round"] for result in whole] == [1, 2, 3]
    assert [result.server is not None for result in whole] == [False, True, False]
    middle = Checkpoint("fed_avg", 3, 2, whole[1].server or {}, whole[1].client_state)
    (third,) = rounds(plan, group, middle, dict)
    assert third.row == whole[2].row
    first = next(rounds(plan, group, start, dict, keep=lambda round: True, last=1))
    (second,) = rounds(plan, group, Checkpoint("fed_avg", 3, 1, first.server or {}), dict, last=2)
    assert second.row == whole[1].row
    assert not list(tmp_path.iterdir())


def test_a_round_is_recorded_before_its_checkpoint_and_models_before_the_result_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watched(name: str) -> None:
        method = getattr(Recorder, name)

        def call(recorder: Recorder, *arguments: Any, **more: Any) -> Any:
            calls.append(name)
            return method(recorder, *arguments, **more)

        monkeypatch.setattr(Recorder, name, call)

    for name in ("round", "clients", "insights", "checkpoint", "model", "finish"):
        watched(name)
    monkeypatch.setattr(Recorder, "result_hash", lambda *_: calls.append("hash") or "0" * 64)
    execution = {"ray": False, "checkpoint_every": 1}
    simulate(scenario(rounds=2, strategies=[{"kind": "insight_exchange"}], execution=execution), out=tmp_path / "run")
    once = [name for place, name in enumerate(calls) if name != calls[place - 1] or not place]  # the log asks for the hash too
    baselines = ["clients", "hash"] * 2
    assert once == [*baselines, *["round", "clients", "insights", "checkpoint"] * 2, "model", "hash", "checkpoint", "finish"]


@pytest.mark.parametrize(("losses", "ends"), [(4, True), (5, False)])
def test_losses_in_a_row_are_retried_from_the_checkpoint(losses: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, play = [losses], Server.run_ordered_round

    def dies(server: Server, round: int, *order: Any) -> Any:
        if round == 3 and left[0]:
            left[0] -= 1
            raise ActorLost("Client", "local_train", "an actor died")
        return play(server, round, *order)

    content = scenario(rounds=4, execution={"ray": False, "checkpoint_every": 2})
    whole = simulate(content, out=tmp_path / "whole")
    monkeypatch.setattr(Server, "run_ordered_round", dies)
    if not ends:
        with pytest.raises(RunFailed, match=r"^an actor died \(5 times in a row\) \(in Client.local_train\)\nwhere actors die"):
            simulate(content, out=tmp_path / "run")
        return
    run = simulate(content, out=tmp_path / "run")
    assert run.summary["recovered"] == 4
    assert run.rounds["round"].to_pylist() == [1, 2, 3, 4]
    assert run.summary["strategies"]["fed_avg"]["result_hash"] == whole.summary["strategies"]["fed_avg"]["result_hash"]
    assert (tmp_path / "run/logs/scarcity.log").read_text().count("; attempt ") == 4
