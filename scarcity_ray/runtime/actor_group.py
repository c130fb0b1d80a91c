"""The actors of a run: launched, told what to do, and brought back when some of them die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.server import Server
from scarcity_ray.core.strategy import InsightStrategy, Strategy
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.runtime.fleet import ActorLost, Fleet, Launcher, LocalFleet, LocalLauncher
from scarcity_ray.runtime.placement import NodeResources
from scarcity_ray.runtime.plan import RunPlan

REVIVED_SECONDS = 60.0
"""How long dead actors may take to come back where they were; after that all are launched anew, where there is room."""

_START_SECONDS = 300.0
_LOOK_SECONDS = 1.0  # from one look at what the actors stand on to the next
_REVIVE_SECONDS = 5.0  # from one such look to the next while dead ones are waited for
_CALLS = 10  # more than the Server makes one after the other in a round: so much longer than they it may be silent


class ActorGroup:
    """Client actors, and a Server that drives them; a MetaLearner and Experts where a strategy has insights.

    tell: takes a line for the user. Raises SpecError where the cluster has no room.
    """

    def __init__(self, launcher: Launcher, plan: RunPlan, tell: Callable[[str], None]) -> None:
        self.launcher, self.plan, self.tell, self._next_look = launcher, plan, tell, 0.0
        self._leaving: threading.Thread | None = None
        self._launch()

    def open(self, plan: RunPlan) -> None:
        """Everybody meets the federation of a seed."""
        self.plan = plan if self.slots is None else plan.on(self.slots)
        shards = self.launcher.put(plan.federation)
        self.clients.map(Client.open, {actor: (home,) for actor, home in enumerate(self.plan.homes)}, shared=(shards,))
        self.server.map(Server.open, {0: (self.clients, self.meta, self.experts)})

    def begin(self, strategy: Strategy, last: Checkpoint, history: Callable[[], Mapping[int, pa.RecordBatch]]) -> None:
        """Starts a strategy, or goes on with it after the round that `last` is of. history: its insights until then."""
        plan = self.plan
        problem, setup = plan.problems[strategy.title], strategy.setup_traffic(plan.federation)
        self.server.map(Server.begin, {0: (strategy, problem, plan.scenario.name, setup, plan.federation.drift_round)})
        if last.round:
            told = history() if isinstance(strategy, InsightStrategy) else {}
            self.server.map(Server.restore, {0: (last.held, last.memory, told)})

    def look(self) -> None:
        """Raises ActorLost where the run is to go on with other actors: Ray has died under these, or the cluster has room for more."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        if self.launcher.fallen():
            raise ActorLost("Ray", "look", "Ray itself died")
        if self.slots is not None and self.plan.cpus < self.plan.wanted and _cpus(self.launcher.nodes()) > _cpus(self.slots):
            raise ActorLost("ActorGroup", "look", "the cluster has grown")

    def recover(self, plan: RunPlan) -> None:
        """Brings back whoever died, who meets the federation anew: `begin` comes next. Raises ActorLost where somebody dies meanwhile."""
        deadline = time.monotonic() + REVIVED_SECONDS
        while not (fallen := self.launcher.fallen()):
            back = all(fleet.revive(_REVIVE_SECONDS) for fleet in self._fleets())
            changed = self.launcher.nodes() != self.slots
            if back or changed or time.monotonic() > deadline:
                break
        if fallen:
            self.launcher.restart()
            self._launch()
        elif changed or not back:
            for fleet in self._fleets():
                fleet.close()
            self._launch()
        self.open(plan)

    def leave(self) -> None:
        """Ends all, in a thread of its own: Ray takes a second for it. A second call does nothing."""
        if self._leaving is None:
            self._leaving = threading.Thread(target=self.launcher.close)
            self._leaving.start()

    def join(self) -> None:
        """Waits until all has ended."""
        self.leave()
        assert self._leaving is not None
        self._leaving.join()

    def _launch(self) -> None:
        """All anew, as many as there is room for now."""
        execution, strategies = self.plan.scenario.execution, self.plan.scenario.strategies
        self.slots = self.launcher.nodes(self.plan.wanted, execution.wait_for_cluster, self.tell)
        if self.slots is not None:
            self.plan = self.plan.on(self.slots)
            if self.plan.cpus < self.plan.wanted:
                self.tell(f"the cluster offers {self.plan.cpus:,} of the {self.plan.wanted:,} CPUs that the run can use: it goes on those")
        launch, patience = self.launcher.launch, execution.give_up_after
        learners = any(isinstance(strategy, InsightStrategy) for strategy in strategies)
        experts = any(strategy.most_experts for strategy in strategies)
        # Ray keeps what an actor is made of for as long as it may start it again, and cannot where that is lost with a node: so
        # they are made of next to nothing, and told the rest by `open`.
        nobody: list[int] = []
        self.clients: Fleet = launch(Client, [(nobody,)] * len(self.plan.homes), cpus=self.plan.share, patience=patience, slots=self.slots)
        self.meta = launch(MetaLearner, [(None, None, "", *self.launcher.store)], patience=patience) if learners else None
        self.experts = launch(Expert, [(0,)], patience=patience) if experts else None
        self.server: Fleet = launch(Server, [(0, LocalFleet([]))], patience=_CALLS * patience)
        for fleet in self._fleets():
            fleet.revive(_START_SECONDS)  # importing torch takes a busy machine its time: no patience is lost on it

    def _fleets(self) -> list[Fleet]:
        return [fleet for fleet in (self.server, self.clients, self.meta, self.experts) if fleet is not None]


def _cpus(slots: Sequence[NodeResources] | None) -> int:
    return sum(slot.cpus for slot in slots or ())


def start_actor_group(plan: RunPlan, tell: Callable[[str], None]) -> ActorGroup:
    """The actors of a plan, with Ray or without, as its scenario says. Raises SpecError where no cluster answers, or has no room;
    WorkerError where Ray does not start."""
    execution = plan.scenario.execution
    if not execution.ray:
        return ActorGroup(LocalLauncher(), plan, tell)
    from scarcity_ray.runtime.ray_fleet import RayLauncher

    launcher = RayLauncher(plan.cpus, execution.address)
    try:
        return ActorGroup(launcher, plan, tell)
    except BaseException:
        launcher.close()
        raise
