"""What a run will do, worked out and checked before anything starts: data dealt, models built, actors sized."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scarcity_ray import insights
from scarcity_ray.cohort import blocks
from scarcity_ray.data import deal, describe
from scarcity_ray.federation import Federation
from scarcity_ray.models import Linear, build
from scarcity_ray.scenario import Scenario, SpecErrors, cores, unavailable
from scarcity_ray.spec import SpecError
from scarcity_ray.strategies.strategy import InsightStrategy, Strategy, WeightStrategy
from scarcity_ray.training.problem import Problem, make_problem

ACTOR_BYTES = 190 * 10**6
"""Private memory of an idle Client actor, measured with Ray 2.60 and torch 2.13: 172 to 188 MB, nearly all of it torch."""


@dataclass(frozen=True)
class Plan:
    """One seed's part of a run.

    problems: by strategy title. homes: the clients at home in each Client actor. cpus: cores the run takes.
    """

    scenario: Scenario
    seed: int
    federation: Federation
    problems: dict[str, Problem]
    homes: list[NDArray[np.int64]]
    cpus: int

    def rounds(self, strategy: Strategy) -> int:
        """The most rounds a strategy plays."""
        return strategy.rounds or self.scenario.rounds

    def describe(self) -> list[tuple[str, str]]:
        """The plan in rows of (what, how much): data, actors, memory, and the bytes each strategy is expected to move."""
        facts, scenario = describe(self.federation), self.scenario
        smallest, median, largest = (facts[f"{size}_shard"] for size in ("smallest", "median", "largest"))
        where = "Ray actors" if scenario.execution.ray else "in this process, no Ray"
        rows = [
            ("data", f"{facts['task']}, inputs {facts['shape']}, {facts['outputs']} outputs"),
            ("clients", f"{facts['clients']:,} with {smallest:,} to {largest:,} training rows (median {median:g})"),
            *([("held out", f"{facts['strangers']:,} clients with {facts['stranger_rows']:,} rows")] if facts["strangers"] else []),
            ("rows", f"{facts['train_rows']:,} to train, {facts['validation_rows']:,} to validate, {facts['test_rows']:,} to test"),
            ("actors", f"{len(self.homes)} Client ({where}) on {self.cpus} cores"),
            ("memory", f"about {self.memory_bytes() / 2**20:,.0f} MiB of {_available() / 2**20:,.0f} MiB available"),
            ("seeds", ", ".join(str(scenario.seed + i) for i in range(scenario.repeats))),
        ]
        return rows + [(strategy.title, self._traffic(strategy)) for strategy in scenario.strategies]

    def memory_bytes(self) -> int:
        """What the run is expected to take: its processes, the shards once, and the clients' personal models."""
        federation = self.federation
        shards = sum(
            part.x.nbytes + part.y.nbytes for part in (federation.train, federation.validation, federation.test, federation.strangers)
        )
        models = max(
            sum(value.nbytes for value in strategy.memory(self.problems[strategy.title]).values()) for strategy in self.scenario.strategies
        )
        experts = max(strategy.most_experts for strategy in self.scenario.strategies)
        processes = (len(self.homes) + 2 + experts) * ACTOR_BYTES if self.scenario.execution.ray else 0
        return shards + models * federation.clients + processes

    def _traffic(self, strategy: Strategy) -> str:
        problem, rounds = self.problems[strategy.title], self.rounds(strategy)
        if isinstance(strategy, InsightStrategy):
            up = insights.wire_bytes(strategy.payload(problem, rounds))
            prepared = strategy.preparation(problem)
            weights = "no weights up" if prepared is None else f"after {prepared[2]} rounds of {prepared[0].title}, whose weights travel"
            return f"at most {rounds} rounds; an insight of up to {up:,} bytes from each client, {weights}"
        assert isinstance(strategy, WeightStrategy)
        population = len(problem.samples)
        sampled = strategy.sampled(population)
        up, down = strategy.traffic(problem)
        before = sum(int(part.sum()) for part in strategy.setup_traffic(self.federation))
        each = ((up + down) * rounds * sampled + before) / self.federation.clients
        model = f"a model of {problem.layout.num_parameters:,} parameters"
        return f"{rounds} rounds of {sampled:,} of {population:,} clients, {model}; {each / 1024:,.1f} KiB a client in all"


def prepare(scenario: Scenario, base_dir: Path, seed: int | None = None) -> Plan:
    """Deals the data of a seed (the scenario's first if left out), builds every model, sizes the actors.

    Raises SpecError, or SpecErrors with all of several, for whatever cannot work.
    """
    if missing := unavailable(scenario):
        raise SpecErrors(missing)
    seed = scenario.seed if seed is None else seed
    federation = deal(scenario.data, seed, base_dir)
    problems, errors = {}, []
    for place, strategy in enumerate(scenario.strategies):
        try:
            problems[strategy.title] = _problem(scenario, strategy, place, federation, seed)
        except SpecError as error:
            errors.append(error)
    errors += _impossible(scenario, federation)
    if errors:
        raise SpecErrors(errors) if len(errors) > 1 else errors[0]
    cpus = cores() if scenario.execution.cpus == "auto" else scenario.execution.cpus
    plan = Plan(scenario, seed, federation, problems, _homes(scenario, federation, cpus), cpus)
    _refuse_what_does_not_fit(plan)
    return plan


def _problem(scenario: Scenario, strategy: Strategy, place: int, federation: Federation, seed: int) -> Problem:
    own = strategy.model is not None
    model = strategy.model or scenario.model or Linear()  # a strategy that brings its own model takes no more than shapes
    samples = strategy.trains_on(federation.train).counts
    try:
        problem = make_problem(
            build(model, federation.shape, federation.outputs, seed),
            local=strategy.local or scenario.local,
            task=federation.task,
            outputs=federation.outputs,
            shape=federation.shape,
            samples=samples,
            groups=federation.group if len(samples) == federation.clients else None,  # clients of a strategy's making have none
            seed=seed,
        )
        return strategy.problem(problem)
    except SpecError as error:
        at = ("strategies", place, *error.field) if own and error.field[0] == "model" else error.field
        raise SpecError(at, error.value, error.message) from None


def _impossible(scenario: Scenario, federation: Federation) -> list[SpecError]:
    """What only shows once the number of clients is known."""
    clients, found = federation.clients, []
    for place, strategy in enumerate(scenario.strategies):
        sampled = getattr(strategy, "clients_per_round", None)
        if sampled is not None and sampled > clients:
            found.append(
                SpecError(("strategies", place, "clients_per_round"), sampled, f"there are {clients:,} clients; at most that many")
            )
    sample, actors = scenario.evaluation.clients, scenario.execution.actors
    if sample != "all" and sample > clients:
        found.append(SpecError(("evaluation", "clients"), sample, f"there are {clients:,} clients; allowed: all, or at most that many"))
    if actors != "auto" and actors > clients:
        found.append(SpecError(("execution", "actors"), actors, f"there are {clients:,} clients; allowed: auto, or at most one actor each"))
    return found


def _homes(scenario: Scenario, federation: Federation, cpus: int) -> list[NDArray[np.int64]]:
    execution, clients = scenario.execution, federation.clients
    if execution.clients_per_actor != "auto":
        actors = -(-clients // execution.clients_per_actor)
    elif execution.actors != "auto":
        actors = execution.actors
    else:
        actors = min(cpus, clients) if execution.ray else 1
    return blocks(federation.train.counts, actors)


def _refuse_what_does_not_fit(plan: Plan) -> None:
    needed, available, execution = plan.memory_bytes(), _available(), plan.scenario.execution
    if needed <= available:
        return
    actors = len(plan.homes)
    if execution.ray and actors > plan.cpus:
        one_by_one = execution.clients_per_actor != "auto"
        field = "clients_per_actor" if one_by_one else "actors"
        value = execution.clients_per_actor if one_by_one else execution.actors
        raise SpecError(
            ("execution", field),
            value,
            f"{actors:,} Client actors of {ACTOR_BYTES / 1e6:.0f} MB each, with the data, take {needed / 1e9:,.1f} GB, and "
            f"{available / 1e9:,.1f} GB are available: leave it out (auto hosts all clients in {plan.cpus} actors, with the same results)",
        )
    raise SpecError(
        ("data", "clients"),
        plan.federation.clients,
        f"the data and the clients' personal models take {needed / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB are available: "
        "fewer clients, fewer rows or a smaller model",
    )


def _available() -> int:
    """Memory that can be had without swapping, in bytes."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
