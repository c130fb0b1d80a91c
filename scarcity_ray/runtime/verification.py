"""Verification: a run repeated on this machine, whole or some rounds of it, and compared with what it left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core import insights, tables
from scarcity_ray.core.randomness import stream
from scarcity_ray.data.arrays import Held
from scarcity_ray.report.progress import Progress
from scarcity_ray.results.checkpoints import Checkpoint, Checkpoints
from scarcity_ray.results.environment import differences
from scarcity_ray.results.reading import refuse_links
from scarcity_ray.results.recorder import model_file
from scarcity_ray.results.results import TABLES, Results
from scarcity_ray.results.stored_table import read_table
from scarcity_ray.runtime.actor_group import ActorGroup
from scarcity_ray.runtime.fleet import WorkerError, describe_error
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.loop import rounds as play_rounds
from scarcity_ray.runtime.observers import Round, StrategyRun
from scarcity_ray.runtime.observers.checkpoints import History, history_of
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.runtime.session import Session, facts_of
from scarcity_ray.scenario import Scenario, load, with_arrays


@dataclass(frozen=True)
class Difference:
    """The first entry of a run that came out different. client: by its name in the user's table or else its id; None where the column
    is of a round."""

    strategy: str
    seed: int
    round: int | None
    client: str | None
    column: str
    then: Any
    now: Any

    def __str__(self) -> str:
        where = [self.strategy, f"seed {self.seed}"]
        where += [] if self.round is None else [f"round {self.round}"]
        where += [] if self.client is None else [f"client {self.client}"]
        return f"{', '.join(where)}, {self.column}: {self.then!r} then, {self.now!r} now"


@dataclass(frozen=True)
class Verdict:
    """What repeating a run showed. rounds: how many were repeated. difference: None where all is the same to the bit.
    changed: what its results may depend on and is different here, a line each."""

    rounds: int
    difference: Difference | None
    changed: list[str]


def verify(
    run_dir: str | Path,
    rounds: int | None = None,
    progress: Progress | None = None,
    *,
    imports: bool = False,
    arrays: Mapping[str, Any] | None = None,
) -> Verdict:
    """Repeats a run, or so many of its rounds, drawn from those that follow a kept checkpoint or begin a strategy.

    An unfinished run is compared as far as it came. imports, arrays: as for `resume`.
    Raises RunError, ScenarioError, SpecError, RunFailed, and ValueError
    where `rounds` is below 1.
    """
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1")
    before = Results.load(run_dir, imports=imports)
    refuse_links(before.directory)
    loaded = load(before.runnable(), before.added_settings())
    base_dir, here = loaded.base_dir, loaded.scenario.execution.model_copy(update={"address": "local"})
    scenario = loaded.scenario if arrays is None else with_arrays(loaded.scenario, Held.of(**arrays))
    scenario = scenario.model_copy(update={"execution": here})  # whatever cluster it ran on
    plan = prepare(scenario, base_dir)
    changed = differences(before.environment, facts_of(scenario, plan))
    progress = progress or Progress(False)
    with Session(once=True) as session:
        if rounds is None:
            with tempfile.TemporaryDirectory(prefix="scarcity-verify-") as folder:
                session.play(scenario, base_dir, Path(folder), plan, progress)
                return Verdict(before.table("rounds").num_rows, _first(before, Results(Path(folder)), scenario), changed)
        chosen = _chosen(before, scenario, rounds)
        try:
            actor_group = session.group(plan, progress.message)
            for number, last in enumerate(chosen, start=1):
                seeded = plan if last.seed == plan.seed else prepare(scenario, base_dir, last.seed)
                if (found := _repeated(before, actor_group, seeded, last)) is not None:
                    return Verdict(number, found, changed)
            return Verdict(len(chosen), None, changed)
        except WorkerError as error:
            raise RunFailed(describe_error(error), None) from error


def _repeated(before: Results, actor_group: ActorGroup, plan: RunPlan, last: Checkpoint) -> Difference | None:
    """Plays the round after a checkpoint, and compares it with the tables."""
    strategy = plan.scenario.strategy(last.strategy)
    run = StrategyRun(plan, strategy, last.round + 1)
    who = [("strategy", "=", run.name), ("seed", "=", run.seed)]
    actor_group.load_federation(plan)

    def history() -> History:
        return history_of(lambda: before.table("insights", filters=who), strategy, run.problem, last.round)

    (result,) = play_rounds(plan, actor_group, last, history, last=run.first)
    round, schema, clients = Round.of(run, result), tables.insights(insights.SCHEMA, insights.PAYLOADS), tables.clients(plan.metrics)
    sent = [] if result.insights is None else [tables.insight_rows(result.insights, schema, run.name, run.seed)]
    now = {
        "rounds": pa.Table.from_batches([tables.batch(tables.rounds(plan.metrics), round.row)]),
        "clients": pa.Table.from_batches([] if round.clients is None else [tables.batch(clients, round.clients)], clients),
        "insights": pa.Table.from_batches(sent, schema),
    }
    return _of_round(before, now, run.name, run.seed, round.number)


def _chosen(before: Results, scenario: Scenario, count: int) -> list[Checkpoint]:
    """Where to begin: points before rounds that the run has rows of, drawn without replacement by its seed, in its order."""
    rows = before.table("rounds", ["strategy", "seed", "round"])
    played = set(zip(*(rows[name].to_pylist() for name in ("strategy", "seed", "round")), strict=True))
    kept = Checkpoints(before.directory)
    points: list[tuple[str, int, Path | None]] = []
    for seed in range(scenario.seed, scenario.seed + scenario.repeats):
        for strategy in scenario.strategies:
            paths: dict[int, Path | None] = {1: None, **kept.before(strategy.title, seed)}
            points += [(strategy.title, seed, path) for round, path in sorted(paths.items()) if (strategy.title, seed, round) in played]
    drawn = stream(scenario.seed, "verify").permutation(len(points))[:count]
    return [Checkpoint(name, seed) if path is None else Checkpoint.of(path) for name, seed, path in (points[i] for i in np.sort(drawn))]


def _first(before: Results, again: Results, scenario: Scenario) -> Difference | None:
    """The first difference in the order of the run: by seed, strategy and round, then that of the models."""
    for seed in range(scenario.seed, scenario.seed + scenario.repeats):
        for name in (GUESS, ALONE, *(strategy.title for strategy in scenario.strategies)):
            who = [("strategy", "=", name), ("seed", "=", seed)]
            ends = {round for table in ("rounds", "clients") for round in before.table(table, ["round"], who)["round"].to_pylist()}
            for round in sorted(ends):  # baselines have rows of clients alone
                now = {table: again.table(table, filters=_rows(name, seed, round)) for table in TABLES}
                if (found := _of_round(before, now, name, seed, round)) is not None:
                    return found
            hashes = [_hash(results, name, seed) for results in (before, again)]
            if hashes[0] is not None and hashes[0] != hashes[1]:
                return Difference(name, seed, None, None, "the trained model (result hash)", *hashes)
            file = model_file(name, None if seed == scenario.seed else seed)
            if hashes[0] is not None and (differs := _of_model(before, again, file.removesuffix(".safetensors"))) is not None:
                return Difference(name, seed, None, None, f"models/{file}{differs[0]}", *differs[1:])
    return None


def _of_model(before: Results, again: Results, model: str) -> tuple[str, str, str] | None:
    """The first part of a saved model that differs, in words: which, then, now. The summary has the hash of what was saved, and not
    of what the file holds by now."""
    if model not in again.models:
        return None
    if model not in before.models:
        return "", "missing", "there"
    (then, metadata), (now, other) = before.saved(model), again.saved(model)
    if then.keys() != now.keys():
        return "", ", ".join(then), ", ".join(now)
    for name in now:
        old, new = then[name], now[name]
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            return f", {name}", f"{old.dtype}, {list(old.shape)}", f"{new.dtype}, {list(new.shape)}"
        places = (old != new) & ~((old != old) & (new != new))  # NaN is itself here
        if places.any():
            return f", {name}", str(old[places][0].item()), str(new[places][0].item())
    return None if metadata == other else (", its metadata", "another", "this")


def _hash(results: Results, name: str, seed: int) -> str | None:
    """The result hash of a strategy that came to its end."""
    try:
        entry = results.summary["strategies"].get(name, {})
    except ValueError:
        return None
    entry = entry.get("seeds", {}).get(str(seed), entry)
    return entry.get("result_hash") if entry.get("status") not in (None, "interrupted") else None


def _of_round(before: Results, again: Mapping[str, pa.Table], strategy: str, seed: int, round: int) -> Difference | None:
    """The first difference of a round: its own numbers, then those of its clients, then their insights."""
    for name in TABLES:
        then = read_table(before.directory, name, filters=_rows(strategy, seed, round), complete=False)  # what it has, and no more
        now = again[name]
        for row, column, old, new in _unequal(then, now):
            client = _called(before, then["client_id"][row].as_py()) if "client_id" in then.column_names and row < len(then) else None
            return Difference(strategy, seed, round, client, f"{name}.{column}", old, new)
    return None


def _called(before: Results, client: int) -> str:
    """What the run calls a client: its name in the user's table or else its id."""
    names = before.table("clients", ["client"], [("client_id", "=", client)])["client"].drop_null()
    return names[0].as_py() if len(names) else str(client)


def _rows(strategy: str, seed: int, round: int) -> list[tuple[str, str, Any]]:
    return [("strategy", "=", strategy), ("seed", "=", seed), ("round", "=", round)]


def _unequal(then: pa.Table, now: pa.Table) -> Iterator[tuple[int, str, Any, Any]]:
    """Entries of columns that both have that differ, the first row first: row, column, both values."""
    if len(then) != len(now):
        yield min(len(then), len(now)), "rows", len(then), len(now)
        return
    found = []
    for place, column in enumerate(then.column_names):
        if column not in now.column_names or tables.is_wall_clock(now.field(column)) or then[column].equals(now[column]):
            continue
        old, new = then[column].to_pylist(), now[column].to_pylist()
        row = next((i for i, (one, other) in enumerate(zip(old, new, strict=True)) if one != other), None)
        if row is not None:
            found.append((row, place, column, old[row], new[row]))
    for row, _, column, old, new in sorted(found, key=lambda one: one[:2]):
        yield row, column, old, new
