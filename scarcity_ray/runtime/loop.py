"""A run, from seed to seed, strategy to strategy and round to round, with one group of actors."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import RoundResult, Server
from scarcity_ray.actors.validation import cause
from scarcity_ray.core import insights, tables
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.strategy import Guidance, InsightStrategy, Strategy
from scarcity_ray.ensemble.calibration import reliability
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.strangers import judge, judge_one
from scarcity_ray.report.progress import Progress
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.environment import environment
from scarcity_ray.results.files import Unwritable, held
from scarcity_ray.results.hashing import fingerprint
from scarcity_ray.results.imported import sources
from scarcity_ray.results.log import get_logger, log_to
from scarcity_ray.results.rebuild import imports, metadata_of
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.results import ENSEMBLE, Results
from scarcity_ray.results.summary import Status, Tally
from scarcity_ray.runtime.actor_group import start_actor_group
from scarcity_ray.runtime.fleet import ActorLost, WorkerError, describe_error, remedy
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.scenario import Scenario, resolved
from scarcity_ray.training.problem import Problem

_CALIBRATED_ROWS = 20_000
"""Test rows on which the reliability of class probabilities is told."""

_ATTEMPTS = 5
"""How often in a row a round is begun again, after actors died, before the run gives up."""

_CHECKPOINT_SHARE = 20
"""Where checkpoints are `auto`, so many times what one takes passes until the next: they cost a twentieth at most."""


class RunFailed(RuntimeError):
    """The run ended before its end; `directory` keeps what was done (None: nothing was)."""

    def __init__(self, message: str, directory: Path | None) -> None:
        super().__init__(message, directory)
        self.message, self.directory = message, directory

    def __str__(self) -> str:
        return self.message


class Run:
    """One run, seed by seed and strategy by strategy, with one group of actors. last: the checkpoint it goes on from."""

    def __init__(self, scenario: Scenario, base_dir: Path, directory: Path, last: Checkpoint | None = None) -> None:
        self.scenario, self.base_dir, self.directory = scenario, base_dir, directory
        self.log = get_logger(Server)
        self.diverged: dict[str, str] = {}
        self.last, self.recorded = last, 0

    def play(self, plan: RunPlan, progress: Progress) -> list[str]:
        """Plays everything; returns a sentence for each strategy that diverged. Raises SpecError before anything is written, RunFailed."""
        self.progress = progress
        self.tally = Tally(self.scenario.name, plan.federation.task, plan.federation.clients)
        facts, schema = facts_of(self.scenario, plan), tables.insights(insights.SCHEMA, insights.PAYLOADS)
        try:
            self.actor_group = start_actor_group(plan, progress.message)  # first: where there is no room for it, nothing is written
        except WorkerError as error:
            raise RunFailed(describe_error(error), self.directory) from error
        try:
            with held(self.directory), log_to(self.directory / "logs" / "scarcity.log", anew=self.last is None):
                self.recorder = Recorder(self.directory, resolved(_anchored(self.scenario, self.base_dir)), facts, schema, self.last)
                self._play_all(plan)
        except OSError as error:
            told = error if isinstance(error, Unwritable) else Unwritable(self.directory, error)
            raise RunFailed(str(told), self.directory) from error
        finally:
            self.actor_group.join()
        return list(self.diverged.values())

    def _play_all(self, plan: RunPlan) -> None:
        scenario = self.scenario
        try:
            if self.last is not None:
                self._recall(self.last)
            for seed in range(scenario.seed, scenario.seed + scenario.repeats):
                self._seed(plan if seed == plan.seed else prepare(scenario, self.base_dir, seed))
        except Exception as error:  # whatever it is, what was computed is kept, and the log has the details
            self.log.error("%s\n%s", error, error.details if isinstance(error, WorkerError) else traceback.format_exc())
            raise RunFailed("\n".join(filter(None, (describe_error(error), remedy(error)))), self.directory) from error
        finally:
            self.actor_group.leave()
            self._conclude(failed=sys.exc_info()[1] is not None)

    def _recall(self, last: Checkpoint) -> None:
        """What the summary is made of, from the checkpoint and the tables."""
        self.tally.restore(last.tally)
        for name, runs in last.tally["runs"].items():
            for seed in map(int, runs):
                for row in self.recorder.rows("rounds", name, seed).to_pylist():
                    self.tally.round(row)
                found = self.recorder.rows("clients", name, seed)
                found = found.filter(pc.equal(found["round"], pc.max(found["round"])))
                if len(found):
                    columns = {column: found[column].to_numpy() for column in ("client_id", "num_test", "test_loss", "test_accuracy")}
                    self.tally.clients({"strategy": name, "seed": seed, **columns})
                if runs[str(seed)]["status"] == "diverged":
                    self.diverged[name] = f"{name} diverged: every update of a round was rejected (logs/scarcity.log says why)"

    def _seed(self, plan: RunPlan) -> None:
        ended = self.tally.ended(plan.seed)
        left = [strategy for strategy in self.scenario.strategies if strategy.title not in ended]
        if left:
            self._again("the clients' data", lambda: self.actor_group.open(plan), lambda: self.actor_group.recover(plan))
        for strategy in left:
            self._strategy(plan, strategy)

    def _again(self, what: str, work: Callable[[], Any], recover: Callable[[], Any]) -> None:
        """Does the work, and once more after each death of an actor, while something is gained by it."""
        attempts, reached = 0, self.recorded
        while True:
            try:
                if attempts:
                    recover()
                work()
                return
            except ActorLost as error:
                attempts = attempts + 1 if self.recorded == reached else 1
                reached = self.recorded
                self.log.warning("%s: %s; attempt %d\n%s", what, error, attempts, error.details)
                if attempts == _ATTEMPTS:
                    raise type(error)(error.worker, error.method, f"{error.cause} ({attempts} times in a row)", error.details) from error
                self.progress.message(f"{what}: {error}; its work is done again")
                self.tally.recovered += 1

    def _strategy(self, plan: RunPlan, strategy: Strategy) -> None:
        name, seed, rounds = strategy.title, plan.seed, plan.rounds(strategy)
        if self.last is None or (self.last.strategy, self.last.seed) != (name, seed):
            self.tally.begin(name, strategy.kind, seed)
            self.last = Checkpoint(name, seed)
        self.progress.begin(name, seed, rounds, repeats=self.scenario.repeats)
        self.log.info("%s: seed %d, at most %d rounds", name, seed, rounds)
        self.recorded = self.last.round
        self.due = 0.0
        status: Status = "interrupted"
        try:
            self._again(name, lambda: self._play(plan, strategy), lambda: self.actor_group.recover(plan))
            status = self.status
        finally:
            self._ended(name, seed, status)
        self._keep(Checkpoint(name, seed, self.recorded, status=status, tally=self.tally.held()))

    def _play(self, plan: RunPlan, strategy: Strategy) -> None:
        """Rounds from the last checkpoint on, and what has been trained."""
        last, rounds, every = self.last, plan.rounds(strategy), self.scenario.evaluation.every
        assert last is not None
        self.actor_group.begin(strategy, last, lambda: self._history(plan, strategy, last.round))
        evaluated, server = evaluated_of(plan), self.actor_group.server
        ahead = range(last.round + 1, rounds + 1)
        self.status: Status = "finished"

        def start(round: int) -> Any:
            return server.start(Server.play, {0: (round, evaluated, round == rounds or round % every == 0, self._is_due(round))})

        going = [start(round) for round in ahead[:2]]
        started = time.perf_counter()
        for round in ahead:
            result: RoundResult = server.wait(going.pop(0))[0]
            now = time.perf_counter()
            if round + 2 <= rounds:
                going.append(start(round + 2))  # one is always waiting: the next goes on while this one is written down
            if round > self.recorded:
                self._record(plan, strategy, result, now - started)
            started = now
            if round < rounds and not result.done:
                self.actor_group.look()
            if result.diverged:
                self.status = "diverged"
            if result.diverged or result.done:
                break
        for ticket in going:  # played by nobody: the strategy was over
            server.wait(ticket)
        if self.status == "diverged":
            self.diverged[strategy.title] = all_rejected(strategy, result)
            self.log.error("%s; stopped", self.diverged[strategy.title])
        self._save(plan, strategy, plan.federation.at(self.recorded))

    def _history(self, plan: RunPlan, strategy: Strategy, round: int) -> dict[int, pa.RecordBatch]:
        return history_of(self.recorder.rows("insights", strategy.title, plan.seed), strategy, plan.problems[strategy.title], round)

    def _is_due(self, round: int) -> bool:
        every = self.scenario.execution.checkpoint_every
        return time.perf_counter() >= self.due if every == "auto" else round % every == 0

    def _keep(self, checkpoint: Checkpoint, seconds: float = 0.0) -> None:
        """The point that the run goes on from, should anything die. seconds: what it took to make."""
        self.last = checkpoint
        auto = self.scenario.execution.checkpoint_every == "auto"
        self.recorder.checkpoint(checkpoint, _CHECKPOINT_SHARE if auto else 0)
        self.due = time.perf_counter() + _CHECKPOINT_SHARE * seconds

    def _record(self, plan: RunPlan, strategy: Strategy, result: RoundResult, seconds: float) -> None:
        row, columns = rows_of(plan, strategy, result, seconds)
        self.recorder.round(row)
        self.tally.round(row, result.steps)
        self.recorded = row["round"]
        if columns is not None:
            self.recorder.clients(columns)
            self.tally.clients(columns)
        if result.insights is not None:
            self.recorder.insights(result.insights, strategy.title, plan.seed)
        if result.learned:
            self.tally.learned(strategy.title, plan.seed, result.learned)
        for client, why in result.rejected:
            self.log.warning("%s: round %d: client %s is rejected: %s", strategy.title, row["round"], client, why)
        updates, took = self.tally.seconds(strategy.title, plan.seed)
        self.progress.update(row, updates / took if took > 0 else 0.0)
        if result.held is not None and not (result.done or result.diverged):
            point = Checkpoint(strategy.title, plan.seed, self.recorded, result.held, result.memory, self.tally.held())
            self._keep(point, result.kept_seconds)

    def _save(self, plan: RunPlan, strategy: Strategy, federation: Federation) -> None:
        """Saves what a strategy has trained, and tells how it fares on what the clients hold at its end."""
        problem, seed = plan.problems[strategy.title], plan.seed
        clients, server = self.actor_group.clients, self.actor_group.server
        answer = server.map(Server.answer, {0: ()})[0]
        tensors = strategy.saved(problem, answer)
        sent = answer.sent() if isinstance(answer, Guidance) else answer
        parts = clients.map(Client.personal, dict.fromkeys(range(clients.size), ()), shared=(sent,))
        ids = np.concatenate([part[0] for part in parts.values() if part is not None] or [np.zeros(0, dtype=np.int64)])
        if len(ids):
            rows = np.concatenate([part[1] for part in parts.values() if part is not None])
            order = np.argsort(ids)
            tensors |= problem.layout.state_dicts(torch.from_numpy(rows[order]))
            tensors["client_id"] = torch.from_numpy(ids[order])
        if tensors:
            told = metadata_of(strategy, strategy.model or self.scenario.model, problem, federation.encoding)
            self.recorder.model(strategy.title, tensors, told, seed=seed)
            self.tally.learned(strategy.title, seed, _tried(federation, strategy.module(problem, answer), tensors))

    def _ended(self, name: str, seed: int, status: Status) -> None:
        digest = self.recorder.result_hash(name, seed)
        self.tally.end(name, seed, status, digest)
        self.progress.end(status)
        self.log.info("%s: seed %d %s, result hash %s", name, seed, status, digest)

    def _conclude(self, failed: bool) -> None:
        """Whatever happened: all rows on disk, the summary of what there is, and the plot of it. failed: what has ended the run
        is being told, and is not hidden by what fails here."""
        try:
            try:
                self.recorder.finish(self.tally.summary())
            finally:
                self.recorder.close()
        except OSError as error:
            if not failed:
                raise
            self.log.error("%s", error)
            return
        from scarcity_ray.report.curves import draw_curves  # here, because matplotlib takes a second to import
        from scarcity_ray.report.experts_plot import draw_experts

        for draw, name in ((draw_curves, "curves.png"), (draw_experts, "experts.png")):
            try:
                draw(Results.load(self.directory), self.directory / name)
            except Exception as error:  # all that it shows is in the tables
                self.log.warning("%s: %s\n%s", name, error, traceback.format_exc())
                self.progress.message(f"{self.directory / name} could not be drawn: {describe_error(error)}")


def evaluated_of(plan: RunPlan) -> NDArray[np.int64]:
    """Whom to test: all, or a fixed sample by the seed."""
    clients, asked = np.arange(plan.federation.clients), plan.scenario.evaluation.clients
    return clients if asked == "all" else np.sort(np.argsort(hash64(plan.seed, "evaluation", clients))[:asked])


def rows_of(plan: RunPlan, strategy: Strategy, result: RoundResult, seconds: float) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the tables are to say of a round: its row of `rounds`, and the columns of `clients` where it was evaluated."""
    who, round = {"strategy": strategy.title, "seed": plan.seed}, result.row["round"]
    row = {**who, **result.row, "seconds": seconds}
    if result.clients is None:
        return row, None
    group = plan.federation.at(round).group[result.clients["client_id"]]
    return row, {**who, "round": round, "group": group, **result.clients}


def all_rejected(strategy: Strategy, result: RoundResult) -> str:
    """What is to be said of a strategy that ended because nothing that clients sent in a round could be used."""
    why, grown = cause([why for _, why in result.rejected])
    ended, advice = (" diverged", " (try a smaller lr)") if grown else ("", "")
    sent = "update" if result.insights is None else "insight"
    return f"{strategy.title}{ended}: every {sent} of round {result.row['round']} was rejected: {why}{advice}"


def history_of(rows: pa.Table, strategy: Strategy, problem: Problem, until: int) -> dict[int, pa.RecordBatch]:
    """The insights of a strategy by round, as the MetaLearner kept them, from their rows of the insight table."""
    assert isinstance(strategy, InsightStrategy)
    rounds = sorted(round for round in set(rows["round"].to_pylist()) if round <= until)
    return {round: insights.of_table(rows.filter(pc.equal(rows["round"], round)), strategy.payload(problem, round)) for round in rounds}


def facts_of(scenario: Scenario, plan: RunPlan) -> dict[str, Any]:
    """The content of environment.json: what results depend on, here and now."""
    # Where a table lies is written differently in a run's own folder; what is in it is in `data`.
    told = scenario.model_dump(mode="json", exclude={"execution": True, "output": True, "data": {"source": {"path"}}})
    return {**environment(scenario.seed), "scenario": told, "imports": sources(imports(told)), "data": fingerprint(plan.federation)}


def _tried(federation: Federation, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What summary.json says of a trained model beyond metrics: whether an ensemble's probabilities hold, and how the clients
    that never took part fare by it, or by a model that answers everybody."""
    told: dict[str, Any] = {}
    strangers, unit = federation.strangers, federation.label_scale
    if f"{ENSEMBLE}heads" in tensors:
        ensemble = Ensemble.of(module.get_submodule("representation"), federation.task, tensors)
        if federation.task == "classification" and len(federation.test.x):
            told["calibration"] = reliability(*ensemble.own_answers(federation.test, _CALIBRATED_ROWS)).told()
        if len(strangers.x):
            group = np.repeat(federation.stranger_group, strangers.counts)
            told["strangers"], load = judge(ensemble, strangers.x, strangers.y, group, federation.group, unit)
            told["load"] = {str(k): share for k, share in enumerate(load.tolist())}
    elif len(strangers.x) and all(name in tensors and tensors[name].shape == value.shape for name, value in module.state_dict().items()):
        module.load_state_dict(dict(tensors))
        told["strangers"] = {"global": judge_one(module, strangers.x, strangers.y, unit)}
    return told


def _anchored(scenario: Scenario, base_dir: Path) -> Scenario:
    """The same scenario with the path of its table, if it has one, made absolute: it is written into another folder."""
    path = getattr(scenario.data.source, "path", None)
    if path is None:
        return scenario
    source = scenario.data.source.model_copy(update={"path": str((base_dir / path).resolve())})
    return scenario.model_copy(update={"data": scenario.data.model_copy(update={"source": source})})
