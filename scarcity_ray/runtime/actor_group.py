"""The actors of one or several runs: started, given their work, and started again after some of them have died."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.hashing import fingerprint
from scarcity_ray.runtime.fleet import ActorLost, Fleet, Launcher, LocalFleet, LocalLauncher
from scarcity_ray.runtime.placement import NodeResources
from scarcity_ray.runtime.plan import RunPlan

REVIVED_SECONDS = 60.0
"""How long dead actors may take to be back where they were; after that all are started again, where there is room."""

_START_SECONDS = 300.0
_CHECK_SECONDS = 1.0  # between two checks of what the actors run on
_REVIVE_SECONDS = 5.0  # between two such checks while the group waits for dead actors
_CALLS = 10  # more than the calls that the Server makes one after the other in a round; its own timeout is that many times theirs


@dataclass(frozen=True)
class TrainedModels:
    """What a strategy has trained: `tensors` as they are saved (personal models `[clients, ...]` with `client_id`), and a module that
    those of the server load into."""

    tensors: dict[str, Tensor]
    module: nn.Module


class ActorGroup:
    """Client actors, and a Server that drives them; a MetaLearner and Experts where a strategy has insights.

    It serves one scenario after the other (`prepare_for`), and puts their data once where they are the same. notify: takes a line for
    the user. Raises SpecError where the cluster has no room.
    """

    def __init__(self, launcher: Launcher, plan: RunPlan, notify: Callable[[str], None]) -> None:
        self.launcher, self.plan, self.notify, self._next_check = launcher, plan, notify, 0.0
        self._data: tuple[RunPlan, Any] | None = None  # whose federation is in the object store, and the reference to it
        self._leaving: threading.Thread | None = None
        self._launch()

    def prepare_for(self, plan: RunPlan, notify: Callable[[str], None]) -> None:
        """Gets the group ready for another scenario: the same actors where it needs as many, on as many CPUs, and the same timeout."""
        self.plan, self.notify = plan if self.nodes is None else plan.on(self.nodes), notify
        if self._size() == self._launched:
            self._launch_learners()
        else:
            self._close_fleets()
            self._launch()

    def load_federation(self, plan: RunPlan) -> None:
        """Gives all actors the federation of a seed."""
        self.plan = plan if self.nodes is None else plan.on(self.nodes)
        if self._data is None or not _same_data(self._data[0], plan):
            self._data = None  # there is never more than one copy that this group keeps
            self._data = plan, self.launcher.put(plan.federation)
        self.clients.map(Client.load_federation, {actor: (home,) for actor, home in enumerate(self.plan.blocks)}, shared=(self._data[1],))
        self.server.map(Server.load_federation, {0: (self.clients, self.meta, self.experts)})

    def set_strategy(self, strategy: Strategy, last: Checkpoint, history: Callable[[], Mapping[int, pa.RecordBatch]]) -> None:
        """Starts a strategy, or continues it after the round that `last` is of. history: reads its insights until then."""
        plan = self.plan
        problem, setup = plan.problems[strategy.title], strategy.setup_traffic(plan.federation)
        self.server.map(Server.set_strategy, {0: (strategy, problem, plan.scenario.name, setup, plan.federation.drift_round, plan.world)})
        if last.round:
            self.server.map(Server.load_state_dict, {0: (last.server, last.client_state, history())})

    def start_round(self, round: int, evaluated: NDArray[np.int64], test: bool, keep: bool, last: bool) -> Any:
        """Orders a round, and returns at once a ticket for `finish_round`. See Server.run_ordered_round."""
        return self.server.start(Server.run_ordered_round, {0: (round, evaluated, test, keep, last)})

    def finish_round(self, ticket: Any) -> RoundResult | None:
        """Waits for a round; None where it was not played, as the strategy was over before it. Raises WorkerError, ActorLost."""
        result: RoundResult | None = self.server.wait(ticket)[0]
        return result

    def trained_models(self, strategy: Strategy) -> TrainedModels:
        """What the strategy has trained until now, from the Server and the Clients. Raises WorkerError, ActorLost."""
        problem = self.plan.problems[strategy.title]
        state: ServerState = self.server.map(Server.current_state, {0: ()})[0]
        tensors = strategy.saved(problem, state)
        parts = self.clients.map(Client.personal, dict.fromkeys(range(self.clients.size), ()), shared=(state.sent(),))
        ids = np.concatenate([part[0] for part in parts.values() if part is not None] or [np.zeros(0, dtype=np.int64)])
        if len(ids):
            rows = np.concatenate([part[1] for part in parts.values() if part is not None])
            order = np.argsort(ids)
            tensors |= problem.layout.state_dicts(torch.from_numpy(rows[order]))
            tensors["client_id"] = torch.from_numpy(ids[order])
        return TrainedModels(tensors, strategy.module(problem, state))

    def check(self) -> None:
        """Raises ActorLost where the run must continue with other actors: Ray has died, or the cluster has room for more of them."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if self.launcher.is_dead():
            raise ActorLost("Ray", "check", "Ray itself died")
        if self.nodes is not None and self.plan.cpus < self.plan.wanted and _cpus(self.launcher.nodes()) > _cpus(self.nodes):
            raise ActorLost("ActorGroup", "check", "the cluster has grown")

    def recover(self, plan: RunPlan) -> None:
        """Starts dead actors again, and gives all of them the federation; call `set_strategy` next.

        Raises ActorLost where one dies meanwhile.
        """
        self._data = None  # it may be lost with what has died
        deadline = time.monotonic() + REVIVED_SECONDS
        while not (dead := self.launcher.is_dead()):
            back = all(fleet.revive(_REVIVE_SECONDS) for fleet in self._fleets())
            changed = self.launcher.nodes() != self.nodes
            if back or changed or time.monotonic() > deadline:
                break
        if dead:
            self.launcher.restart()
            self._launch()
        elif changed or not back:
            self._close_fleets()
            self._launch()
        self.load_federation(plan)

    def leave(self) -> None:
        """Begins to end all actors, in a thread, as Ray takes a second for it. A second call does nothing."""
        if self._leaving is None:
            self._leaving = threading.Thread(target=self.launcher.close)
            self._leaving.start()

    def join(self) -> None:
        """Ends all actors, and waits until they have ended."""
        self.leave()
        assert self._leaving is not None
        self._leaving.join()

    def _launch(self) -> None:
        """Starts all actors, as many as there is room for now."""
        execution = self.plan.scenario.execution
        self.nodes = self.launcher.nodes(self.plan.wanted, execution.wait_for_cluster, self.notify)
        if self.nodes is not None:
            self.plan = self.plan.on(self.nodes)
            offered, wanted = self.plan.cpus, self.plan.wanted
            if offered < wanted:
                self.notify(f"the cluster offers {offered:,} of the {wanted:,} CPUs that the run can use: the run takes those")
        self._launched = actors, cpus, timeout_s = self._size()
        launch = self.launcher.launch
        # Ray keeps an actor's arguments for as long as it may start the actor again, and cannot start it where they are lost with a
        # node: so they are next to nothing, and `load_federation` sends the rest.
        nobody: list[int] = []
        self.clients: Fleet = launch(Client, [(nobody,)] * actors, cpus=cpus, timeout_s=timeout_s, nodes=self.nodes)
        self.server: Fleet = launch(Server, [(0, LocalFleet([]))], timeout_s=_CALLS * timeout_s)
        self.meta: Fleet | None = None
        self.experts: Fleet | None = None
        self._launch_learners()
        for fleet in self._fleets():
            fleet.revive(_START_SECONDS)  # importing torch takes time on a busy machine, which must not count against the timeout

    def _launch_learners(self) -> None:
        """Starts the MetaLearner and the Experts, where the scenario's strategies need them and they are not there."""
        strategies, timeout_s = self.plan.scenario.strategies, self.plan.scenario.execution.give_up_after
        if self.meta is None and any(strategy.sends_insights for strategy in strategies):
            self.meta = self.launcher.launch(MetaLearner, [(None, None, "", *self.launcher.store)], timeout_s=timeout_s)
        if self.experts is None and any(strategy.most_experts for strategy in strategies):
            self.experts = self.launcher.launch(Expert, [(0,)], timeout_s=timeout_s)

    def _size(self) -> tuple[int, float, float]:
        """Client actors, the CPUs that each holds, and the seconds without an answer after which one is given up."""
        return len(self.plan.blocks), self.plan.share, self.plan.scenario.execution.give_up_after

    def _fleets(self) -> list[Fleet]:
        return [fleet for fleet in (self.server, self.clients, self.meta, self.experts) if fleet is not None]

    def _close_fleets(self) -> None:
        for fleet in self._fleets():
            fleet.close()


def _same_data(one: RunPlan, other: RunPlan) -> bool:
    """Whether two plans hold the same rows. Their content is compared where their settings are equal: a file may have changed."""
    if one.federation is other.federation:
        return True
    settings = [(plan.seed, plan.scenario.data) for plan in (one, other)]
    return settings[0] == settings[1] and fingerprint(one.federation) == fingerprint(other.federation)


def _cpus(nodes: Sequence[NodeResources] | None) -> int:
    return sum(node.cpus for node in nodes or ())


def start_actor_group(plan: RunPlan, notify: Callable[[str], None]) -> ActorGroup:
    """The actors of a plan, with Ray or without, as its scenario says. Raises SpecError where no cluster answers, or has no room;
    WorkerError where Ray does not start."""
    execution = plan.scenario.execution
    if not execution.ray:
        return ActorGroup(LocalLauncher(), plan, notify)
    from scarcity_ray.runtime.ray_fleet import RayLauncher

    launcher = RayLauncher(plan.cpus, execution.address)
    try:
        return ActorGroup(launcher, plan, notify)
    except BaseException:
        launcher.close()
        raise
