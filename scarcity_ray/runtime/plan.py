"""What a run will do, worked out and checked before anything starts: data dealt, models built, actors sized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.actors.asked import upload_bytes
from scarcity_ray.baselines.measure import Baseline, baselines
from scarcity_ray.baselines.trained_alone import LocalTraining
from scarcity_ray.core import tables
from scarcity_ray.core.exchange import ServerState, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import Metric, Shown, headline
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.data import deal
from scarcity_ray.metrics.predictions import Predictions
from scarcity_ray.metrics.tested_rows import deciding
from scarcity_ray.models import Linear, build
from scarcity_ray.runtime import evaluation
from scarcity_ray.runtime.placement import NodeResources, blocks, cpus_each, spread
from scarcity_ray.runtime.refusals import impossible
from scarcity_ray.runtime.remarks import remarks
from scarcity_ray.scarcity.availability import Population
from scarcity_ray.scarcity.samples import scarce
from scarcity_ray.scarcity.world import World
from scarcity_ray.scenario import ScarcityRuns, Scenario, SpecErrors, cores, scarcity_runs, unavailable
from scarcity_ray.strategies.local_only import LocalOnly
from scarcity_ray.training.problem import Problem, make_problem

ACTOR_BYTES = 190 * 10**6
"""Private memory of an idle Client actor, measured with Ray 2.60 and torch 2.13: 172 to 188 MB, nearly all of it torch."""


@dataclass(frozen=True)
class RunPlan:
    """One seed's part of a run.

    problems: by strategy title. metrics: what is measured. blocks: the clients that each Client actor keeps. cpus: cores the run takes.
    slots: the nodes it runs on; none where that is a cluster not yet asked what it offers; None where that is this machine.
    """

    scenario: Scenario
    seed: int
    federation: Federation
    problems: dict[str, Problem]
    metrics: tuple[Metric, ...]
    blocks: list[NDArray[np.int64]]
    cpus: int
    slots: tuple[NodeResources, ...] | None = None

    def rounds(self, strategy: Strategy) -> int:
        """The most rounds a strategy plays."""
        return strategy.rounds or self.scenario.rounds

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """The clients that are tested: all, or a fixed sample by the seed."""
        clients, asked = np.arange(self.federation.clients), self.scenario.evaluation.clients
        return clients if asked == "all" else np.sort(np.argsort(hash64(self.seed, "evaluation", clients))[:asked])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the rows and of what the run can tell, a sentence each."""
        return (*self.federation.notes, *remarks(self.scenario, self.federation, self.evaluated))

    @property
    def last(self) -> int:
        """The last round of any strategy."""
        return max(self.rounds(strategy) for strategy in self.scenario.strategies)

    @cached_property
    def world(self) -> World | None:
        """What is scarce for the clients; None if nothing is. Raises SpecError for values that cannot be."""
        scarcity, federation = self.scenario.scarcity, self.federation
        if scarcity is None:
            return None
        world = World.of(scarcity, _population(federation, self.seed))
        for strategy in self.scenario.strategies:
            for name, spent in zip(("uplink_bytes", "downlink_bytes"), strategy.setup_traffic(federation), strict=True):
                problem, limit = self.problems[strategy.title], world.budgets.get(name)
                if limit is not None and problem.population == federation.clients and (spent > limit).any():
                    lacking, most = int((spent > limit).sum()), int(spent.max())
                    message = f"preparing the data takes {most:,} bytes of a client, and {lacking:,} clients have less: allow as much"
                    raise SpecError(("scarcity", "budget", name), float(limit.min()), message)
        return world

    def groups(self, round: int) -> NDArray[np.int64] | None:
        """The group of each client in a round, `[clients]`: of the data, or else of those that come and go together; None without any."""
        group = self.federation.at(round).group
        if (group != group[0]).any():
            return group
        return None if self.world is None else self.world.presence.group

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """What the strategies are compared with, on the clients' data of the last round."""
        problem, every = next(iter(self.problems.values())), self.scenario.evaluation.every
        local = next((one for one in self.scenario.strategies if isinstance(one, LocalOnly)), None)
        training = None if local is None else LocalTraining(local, self.problems[local.title], self.rounds(local), every)
        return baselines(problem.base or problem, self.federation.at(self.last), self.scenario.strategies, self.evaluated, training)

    @property
    def scarcity_runs(self) -> ScarcityRuns:
        """The runs that say what each scarcity costs."""
        encoding = self.federation.encoding
        return scarcity_runs(self.scenario, () if encoding is None else encoding.columns)

    @property
    def wanted(self) -> int:
        """How many CPUs the run can use: one for each client, or for each actor that the scenario asks for, or `execution.cpus`."""
        execution = self.scenario.execution
        actors = _asked_actors(self.scenario, self.federation) or self.federation.clients
        return actors if execution.cpus == "auto" else min(actors, execution.cpus)

    @property
    def share(self) -> float:
        """The CPUs that each Client actor holds: the run takes no more than its own, and all actors fit on their nodes."""
        actors, together = len(self.blocks), [NodeResources("", self.cpus)]
        return min(cpus_each(actors, together), cpus_each(actors, self.slots or together))

    def sized(self, cpus: int) -> RunPlan:
        """The same plan with blocks for that many CPUs, or as many of them as it can use."""
        cpus = min(cpus, self.wanted)
        return replace(self, blocks=_blocks(self.scenario, self.federation, cpus), cpus=cpus)

    def on(self, slots: Sequence[NodeResources]) -> RunPlan:
        """The same plan for the nodes of a cluster. Raises SpecError where there are none, or one has too little memory."""
        if not slots:
            waited = self.scenario.execution.wait_for_cluster
            message = "no node of the cluster offers a CPU: see `ray status` on its head, or wait longer"
            raise SpecError(("execution", "wait_for_cluster"), waited, message)
        plan = replace(self.sized(sum(slot.cpus for slot in slots)), slots=tuple(slots))
        for slot, parts in plan.by_node():
            if slot.memory and parts:
                plan._refuse_more_than(slot.memory, plan.bytes_of(parts, len(parts)), len(parts), slot.cpus, f" on node {slot.node}")
        return plan

    def headline(self) -> Shown:
        """The metric that decides between strategies."""
        return headline(self.federation.task, self.scenario.evaluation.metric)

    def prediction_schema(self) -> pa.Schema | None:
        """Of the table of predictions; None where none is asked for."""
        asked = self.scenario.evaluation.predictions
        return tables.predictions(self.federation.task, self.federation.outputs) if asked else None

    def bytes_a_client(self, strategy: Strategy) -> tuple[float, float] | None:
        """Bytes up and down before round 1 and in a round, a mean over clients; the most, where what is sent is transformed.

        None for a strategy without weights: what its clients send may differ from round to round.
        """
        if strategy.server_half == "meta_learner":
            return None
        problem, clients = self.problems[strategy.title], self.federation.clients
        before = sum(int(part.sum()) for part in strategy.setup_traffic(self.federation))
        state = strategy.init_server(problem)
        packed = np.array([upload_bytes(strategy, problem, state)]), np.array([state.down_bytes(problem.layout)])
        up, down = (int(part[0]) for part in strategy.traffic(problem, *packed))
        up += strategy.said_bytes(problem, self.rounds(strategy))
        return before / clients, (up + down) * strategy.sampled(len(problem.samples)) / clients

    def memory_bytes(self) -> int:
        """What the run is expected to take on one machine: its processes, the shards once, and the clients' personal models."""
        experts = max(strategy.most_experts for strategy in self.scenario.strategies)
        return self.bytes_of(self.blocks, len(self.blocks) + 2 + experts)

    def refuse_what_does_not_fit(self) -> None:
        """Raises SpecError where the run takes more memory than this machine has."""
        self._refuse_more_than(available(), self.memory_bytes(), len(self.blocks), self.cpus, "")

    def bytes_of(self, parts: Sequence[NDArray[np.int64]], processes: int) -> int:
        """What some of the blocks take on the machine they share."""
        federation = self.federation
        shards = sum(
            part.x.nbytes + part.y.nbytes for part in (federation.train, federation.validation, federation.test, federation.unseen)
        )
        models = max(sum(value.nbytes for value in self._client_state(strategy).values()) for strategy in self.scenario.strategies)
        return shards + models * sum(len(part) for part in parts) + (processes * ACTOR_BYTES if self.scenario.execution.ray else 0)

    def _client_state(self, strategy: Strategy) -> State:
        problem = self.problems[strategy.title]
        return strategy.first_client_state(problem, strategy.init_server(problem) if strategy.uplink else ServerState())

    def _refuse_more_than(self, available: int, needed: int, actors: int, cpus: int, where: str) -> None:
        if needed <= available:
            return
        execution = self.scenario.execution
        if execution.ray and actors > cpus:
            one_by_one = execution.clients_per_actor != "auto"
            field = "clients_per_actor" if one_by_one else "actors"
            value = execution.clients_per_actor if one_by_one else execution.actors
            raise SpecError(
                ("execution", field),
                value,
                f"{actors:,} Client actors of {ACTOR_BYTES / 1e6:.0f} MB each, with the data, take {needed / 1e9:,.1f} GB{where}, and "
                f"{available / 1e9:,.1f} GB are available: leave it out (auto hosts all clients in {cpus} actors, with the same results)",
            )
        raise SpecError(
            ("data", "clients"),
            self.federation.clients,
            f"the data and the clients' personal models take {needed / 1e9:,.1f} GB{where}, and {available / 1e9:,.1f} GB are "
            "available: fewer clients, fewer rows or a smaller model",
        )

    def by_node(self) -> list[tuple[NodeResources, list[NDArray[np.int64]]]]:
        """The blocks on each node."""
        slots, parts = self.slots or (), iter(self.blocks)
        return [(slot, [next(parts) for _ in range(dealt)]) for slot, dealt in zip(slots, spread(len(self.blocks), slots), strict=True)]


def prepare(scenario: Scenario, base_dir: Path, seed: int | None = None) -> RunPlan:
    """Deals the data of a seed (the scenario's first if left out), builds every model, sizes the actors.

    On a cluster, `RunPlan.on` sizes them, once it is known what the cluster offers. Raises SpecError, or SpecErrors with all of
    several, for whatever cannot work.
    """
    if not _on_a_cluster(scenario) and (missing := unavailable(scenario)):
        raise SpecErrors(missing)
    seed = scenario.seed if seed is None else seed
    scarcity = scenario.scarcity
    federation = deal(scenario.data, seed, base_dir, () if scarcity is None else scarcity.columns, scenario.seed)
    if scarcity is not None:
        federation = scarce(scarcity, federation, seed, base_dir)
    return planned(scenario, federation, seed)


def planned(scenario: Scenario, federation: Federation, seed: int) -> RunPlan:
    """The plan for data that have been dealt already. Raises as `prepare`."""
    metrics, errors = evaluation.metrics_of(scenario.evaluation, federation)
    problems = {}
    for place, strategy in enumerate(scenario.strategies):
        try:
            problems[strategy.title] = _problem(scenario, strategy, place, federation, seed, metrics)
        except SpecError as error:
            errors.append(error)
    errors += impossible(scenario, federation, problems)
    if errors:
        raise SpecErrors(errors) if len(errors) > 1 else errors[0]
    if _on_a_cluster(scenario):
        plan = RunPlan(scenario, seed, federation, problems, metrics, [], 0, slots=())
        plan.world  # noqa: B018 - it refuses values that cannot be
        return plan.sized(plan.wanted)
    cpus = cores() if scenario.execution.cpus == "auto" else scenario.execution.cpus
    plan = RunPlan(scenario, seed, federation, problems, metrics, _blocks(scenario, federation, cpus), cpus)
    plan.refuse_what_does_not_fit()
    plan.world  # noqa: B018 - it refuses values that cannot be
    return plan


def _population(federation: Federation, seed: int) -> Population:
    """What the rules of scarcity may know of the clients."""
    train, labels = federation.train, None
    if federation.task == "classification":
        last = max(federation.outputs - 1, 1)
        labels = np.array([train.y[train.rows(i)].min(initial=last) / last for i in range(federation.clients)])
    return Population(seed, federation.clients, labels, federation.facts, federation.spans)


def _on_a_cluster(scenario: Scenario) -> bool:
    if not scenario.execution.ray:
        return False
    from scarcity_ray.runtime.ray_nodes import cluster_address  # here, because Ray takes a second to import

    return cluster_address(scenario.execution.address) is not None


def _problem(scenario: Scenario, strategy: Strategy, place: int, federation: Federation, seed: int, metrics: tuple[Metric, ...]) -> Problem:
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
        # The scenario's own problem too: rounds that prepare a strategy with its own model are evaluated with it.
        rows = deciding(headline(federation.task, scenario.evaluation.metric).metric)
        gathered = (*metrics, *rows, *([Predictions(federation.task)] if scenario.evaluation.predictions else []))
        encoding = None if federation.encoding is None else federation.encoding.model_copy(update={"clients": None})
        return replace(strategy.problem(replace(problem, metrics=gathered, encoding=encoding)), metrics=gathered, encoding=encoding)
    except SpecError as error:
        first = error.field[0]  # a strategy does not know its place in the list, and names its own field
        own = strategy.model is not None if first == "model" else first in type(strategy).model_fields
        raise SpecError(("strategies", place, *error.field) if own else error.field, error.value, error.message) from None


def _blocks(scenario: Scenario, federation: Federation, cpus: int) -> list[NDArray[np.int64]]:
    unasked = min(cpus, federation.clients) if scenario.execution.ray else 1
    return blocks(federation.train.counts, _asked_actors(scenario, federation) or unasked)


def _asked_actors(scenario: Scenario, federation: Federation) -> int | None:
    """How many Client actors the scenario asks for; None: as many as there are CPUs."""
    execution = scenario.execution
    if execution.clients_per_actor != "auto":
        return -(-federation.clients // execution.clients_per_actor)
    return None if execution.actors == "auto" else execution.actors


def available() -> int:
    """Memory that can be had without swapping, in bytes."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
