"""A scenario to a finished run: seeds, strategies and rounds, with everything written down as it comes."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from scarcity_ray import insights, tables
from scarcity_ray.actors.client import Client
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.server import RoundResult, Server
from scarcity_ray.ensemble.calibration import reliability
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.strangers import judge, judge_one
from scarcity_ray.federation import Federation
from scarcity_ray.fleet import Fleet, Launcher, LocalLauncher, WorkerError, in_words
from scarcity_ray.plan import Plan, prepare
from scarcity_ray.randomness import hash64
from scarcity_ray.reporting.environment import environment
from scarcity_ray.reporting.final_table import show_final
from scarcity_ray.reporting.log import get_logger, log_to
from scarcity_ray.reporting.progress import Progress
from scarcity_ray.reporting.rebuild import metadata_of
from scarcity_ray.reporting.recorder import Recorder
from scarcity_ray.reporting.results import ENSEMBLE, Results
from scarcity_ray.reporting.summary import Status, Tally
from scarcity_ray.scenario import Scenario, load, parse, resolved
from scarcity_ray.strategies.strategy import Guidance, InsightStrategy, Strategy

__all__ = ["Interrupted", "OutputExists", "Plan", "RunFailed", "prepare", "simulate"]


class OutputExists(RuntimeError):
    """The directory that results were asked into holds a run already."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


class RunFailed(RuntimeError):
    """The run ended before its end; `directory` keeps what was done (None: nothing was)."""

    def __init__(self, message: str, directory: Path | None) -> None:
        super().__init__(message, directory)
        self.message, self.directory = message, directory

    def __str__(self) -> str:
        return self.message


class Interrupted(RuntimeError):
    """The run was interrupted (Ctrl-C); `directory` keeps what was done."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(directory)
        self.directory = directory


def simulate(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    *,
    base_dir: Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    show: bool = False,
) -> Results:
    """Runs a scenario (checked, as plain data, or a file's path) and returns what it left.

    base_dir: where relative paths in it start; the file's folder, or the working directory. out: where results go, in
    place of the scenario's directory; force replaces a run there. show: progress and final table on the terminal.
    Raises ScenarioError or SpecError before anything starts, OutputExists, RunFailed, Interrupted.
    """
    if isinstance(scenario, str | Path):
        loaded = load(scenario)
        scenario, base_dir = loaded.scenario, base_dir or loaded.base_dir
    elif isinstance(scenario, Mapping):
        scenario = parse(scenario)
    base_dir = base_dir or Path()
    directory = _directory(scenario, out, force)
    plan = prepare(scenario, base_dir)
    console = Console()
    with _one_thread(), Progress(show, console) as progress:
        try:
            diverged = _Run(scenario, base_dir, directory, progress).play(plan)
        except KeyboardInterrupt:
            raise Interrupted(directory if directory.is_dir() else None) from None
    results = Results.load(directory)
    if show:
        show_final(console, results.summary, directory)
    if diverged:
        raise RunFailed(f"{', '.join(diverged)} diverged: every update of a round was rejected (try a smaller lr)", directory)
    return results


_CALIBRATED_ROWS = 20_000
"""Test rows on which the reliability of class probabilities is told."""


class _Run:
    """One run, seed by seed and strategy by strategy, in one set of actors."""

    def __init__(self, scenario: Scenario, base_dir: Path, directory: Path, progress: Progress) -> None:
        self.scenario, self.base_dir, self.directory, self.progress = scenario, base_dir, directory, progress
        self.log = get_logger(Server)
        self.diverged: list[str] = []
        self.closing: threading.Thread | None = None

    def play(self, plan: Plan) -> list[str]:
        """Plays everything and returns the names of strategies that diverged."""
        scenario = self.scenario
        self.tally = Tally(scenario.name, plan.federation.task, plan.federation.clients)
        facts, schema = environment(scenario.seed), tables.insights(insights.SCHEMA, insights.PAYLOADS)
        with log_to(self.directory / "logs" / "scarcity.log"):
            self.recorder = Recorder(self.directory, resolved(_anchored(scenario, self.base_dir)), facts, schema)
            try:
                with self._actors(plan) as (clients, server):
                    for seed in range(scenario.seed, scenario.seed + scenario.repeats):
                        if seed != plan.seed:
                            plan = prepare(scenario, self.base_dir, seed)
                        self._seed(plan, clients, server)
            except Exception as error:  # whatever it is, what was computed is kept, and the log has the details
                self.log.error("%s\n%s", error, error.details if isinstance(error, WorkerError) else traceback.format_exc())
                raise RunFailed(in_words(error), self.directory) from error
            finally:
                self._conclude()
        return list(dict.fromkeys(self.diverged))

    @contextmanager
    def _actors(self, plan: Plan) -> Iterator[tuple[Fleet, Fleet]]:
        execution, strategies = self.scenario.execution, self.scenario.strategies
        self.launcher: Launcher = LocalLauncher()
        if execution.ray:
            from scarcity_ray.ray_fleet import RayLauncher

            self.launcher = RayLauncher(plan.cpus, execution.address)
        self.closing = threading.Thread(target=self.launcher.close)  # Ray takes a second to end: the plot is drawn meanwhile
        try:
            share = np.floor(1e4 * min(1.0, plan.cpus / len(plan.homes))) / 1e4  # so that no run takes more than its cpus
            clients = self.launcher.launch(Client, [(home,) for home in plan.homes], cpus=share)
            learners = any(isinstance(strategy, InsightStrategy) for strategy in strategies)
            meta = self.launcher.launch(MetaLearner, [(None, None, "", *self.launcher.store)]) if learners else None
            experts = self.launcher.launch(Expert, [(0,)]) if any(strategy.most_experts for strategy in strategies) else None
            server = self.launcher.launch(Server, [(plan.federation.clients, clients, meta, experts)])
            yield clients, server
        finally:
            self.closing.start()

    def _seed(self, plan: Plan, clients: Fleet, server: Fleet) -> None:
        shards = self.launcher.put(plan.federation)
        clients.map(Client.open, {actor: (home,) for actor, home in enumerate(plan.homes)}, shared=(shards,))
        server.map(Server.open, {0: ()})
        for strategy in self.scenario.strategies:
            self._strategy(plan, strategy, clients, server)

    def _strategy(self, plan: Plan, strategy: Strategy, clients: Fleet, server: Fleet) -> None:
        name, seed, rounds = strategy.title, plan.seed, plan.rounds(strategy)
        problem = plan.problems[name]
        status: Status = "interrupted"
        self.tally.begin(name, strategy.kind, seed)
        self.progress.begin(name, seed, rounds, repeats=self.scenario.repeats)
        self.log.info("%s: seed %d, at most %d rounds", name, seed, rounds)
        evaluated = self._evaluated(plan)
        started = time.perf_counter()
        setup, drift = strategy.setup_traffic(plan.federation), plan.federation.drift_round
        server.map(Server.begin, {0: (strategy, problem, self.scenario.name, setup, drift)})

        def start(round: int) -> Any:
            return server.start(Server.play, {0: (round, evaluated, round == rounds or round % self.scenario.evaluation.every == 0)})

        try:
            going = [start(round) for round in range(1, min(rounds, 2) + 1)]
            for round in range(1, rounds + 1):
                result: RoundResult = server.wait(going.pop(0))[0]
                now = time.perf_counter()
                if round + 2 <= rounds:
                    going.append(start(round + 2))  # one is always waiting: the next goes on while this one is written down
                self._record(plan, strategy, result, now - started)
                started = now
                if result.diverged or result.done:
                    break
            for ticket in going:  # played by nobody: the strategy was over
                server.wait(ticket)
            status = "diverged" if result.diverged else "finished"
            if result.diverged:
                self.diverged.append(name)
                self.log.error("%s: every update of round %d was rejected; stopped", name, result.row["round"])
            self._save(plan, strategy, plan.federation.at(result.row["round"]), clients, server)
        finally:
            self._ended(name, seed, status)

    def _evaluated(self, plan: Plan) -> NDArray[np.int64]:
        """Whom to test: all, or a fixed sample by the seed."""
        clients, asked = np.arange(plan.federation.clients), self.scenario.evaluation.clients
        return clients if asked == "all" else np.sort(np.argsort(hash64(plan.seed, "evaluation", clients))[:asked])

    def _record(self, plan: Plan, strategy: Strategy, result: RoundResult, seconds: float) -> None:
        who = {"strategy": strategy.title, "seed": plan.seed}
        row = {**who, **result.row, "seconds": seconds}
        self.recorder.round(row)
        self.tally.round(row, result.steps)
        if result.clients is not None:
            columns = {
                **who,
                "round": row["round"],
                "group": plan.federation.at(row["round"]).group[result.clients["client_id"]],
                **result.clients,
            }
            self.recorder.clients(columns)
            self.tally.clients(columns)
        if result.insights is not None:
            self.recorder.insights(result.insights, strategy.title, plan.seed)
        if result.learned:
            self.tally.learned(strategy.title, plan.seed, result.learned)
        for client, why in result.rejected.items():
            self.log.warning("%s: round %d: client %s is rejected: %s", strategy.title, row["round"], client, why)
        updates, took = self.tally.seconds(strategy.title, plan.seed)
        self.progress.update(row, updates / took if took > 0 else 0.0)

    def _save(self, plan: Plan, strategy: Strategy, federation: Federation, clients: Fleet, server: Fleet) -> None:
        """Saves what a strategy has trained, and tells how it fares on what the clients hold at its end."""
        problem, seed = plan.problems[strategy.title], plan.seed
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

    def _conclude(self) -> None:
        """Whatever happened: all rows on disk, the summary of what there is, and the plot of it."""
        try:
            self.recorder.finish(self.tally.summary())
        finally:
            self.recorder.close()
        from scarcity_ray.reporting.curves import draw_curves  # here, because matplotlib takes a second to import
        from scarcity_ray.reporting.experts_plot import draw_experts

        draw_curves(Results.load(self.directory), self.directory / "curves.png")
        draw_experts(Results.load(self.directory), self.directory / "experts.png")
        if self.closing is not None:
            self.closing.join()


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


def _directory(scenario: Scenario, out: str | Path | None, force: bool) -> Path:
    """Where the run goes: `out`, or the scenario's directory, or that with -2, -3, ... where it holds a run."""
    if out is not None:
        path = Path(out)
        if not force and _holds_a_run(path):
            raise OutputExists(path)
        return path
    first = scenario.directory
    path, number = first, 1
    while _holds_a_run(path):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _anchored(scenario: Scenario, base_dir: Path) -> Scenario:
    """The same scenario with the path of its table, if it has one, made absolute: it is written into another folder."""
    path = getattr(scenario.data.source, "path", None)
    if path is None:
        return scenario
    source = scenario.data.source.model_copy(update={"path": str((base_dir / path).resolve())})
    return scenario.model_copy(update={"data": scenario.data.model_copy(update={"source": source})})


def _holds_a_run(path: Path) -> bool:
    return (path / "scenario.yaml").exists()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread, as in every actor, and as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
