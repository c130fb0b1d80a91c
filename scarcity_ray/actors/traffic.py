"""Traffic: the bytes that each client has sent and received in a run, and what is new to it in the server's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.actors.report import Ids, Report, report_of
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.problem import Problem


class Traffic:
    """Bytes of each client so far, `[clients]`: uplink and downlink. They begin with what preparing the data cost."""

    def __init__(self, uplink: Ids, downlink: Ids) -> None:
        self.uplink, self.downlink = uplink.copy(), downlink.copy()
        self._counted = 0, 0  # so that round 1 counts what came before it
        self.start(ServerState())

    def start(self, state: ServerState) -> None:
        """A strategy starts with a state, of which clients have received nothing."""
        # Bytes that states have brought so far, and how many of them each client has received.
        self._released, self._received = state.new_bytes or 0, np.zeros(len(self.uplink), dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "uplink": self.uplink.copy(),
            "downlink": self.downlink.copy(),
            "counted": self._counted,
            "released": self._released,
            "received": self._received.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.uplink[:], self.downlink[:] = state["uplink"], state["downlink"]
        self._counted = tuple(state["counted"])
        self._released, self._received = state["released"], np.array(state["received"])

    def release(self, state: ServerState) -> None:
        """The server has a new state, which clients have not received."""
        self._released += state.new_bytes or 0

    def due(self, problem: Problem, state: ServerState, ids: Ids) -> Ids:
        """Bytes that go down to each of clients `[n]` next: the whole broadcast, or what it has not received yet."""
        if state.new_bytes is None:
            return np.full(len(ids), state.down_bytes(problem.layout))
        due: Ids = self._released - self._received[ids]
        return due

    def receive(self, problem: Problem, state: ServerState, ids: Ids) -> Ids:
        """The same, for clients that receive it now."""
        due = self.due(problem, state, ids)
        self._received[ids] = self._released
        return due

    def start_round(self, problem: Problem, state: ServerState, plan: RoundPlan) -> Ids:
        """Bytes that go down to each client of a plan, `[n]`: all of them download, except those whose messages were counted before."""
        down, now = np.zeros(len(plan.ids), dtype=np.int64), _now(plan)
        down[now] = self.receive(problem, state, plan.ids[now])
        return down

    def count(self, strategy: Strategy, problem: Problem, plan: RoundPlan, report: Report, down: Ids) -> None:
        """Counts a round; of its lost clients only what they sent in vain is counted up. down: as `start_round` returned."""
        if problem.population != len(self.uplink):
            return  # clients of the strategy's own making: setup_traffic says what they cost the real ones
        up = np.zeros(len(plan.ids), dtype=np.int64)
        up[~plan.lost] = report.up_bytes
        up, down = strategy.traffic(problem, up, down)
        sent = ~plan.lost & _now(plan)
        self.uplink[plan.ids[sent]] += up[sent]
        if plan.wasted_up is not None:
            self.uplink[plan.ids] += plan.wasted_up
        now = _now(plan)
        self.downlink[plan.ids[now]] += down[now]

    def count_lost(self, strategy: Strategy, problem: Problem, state: ServerState, plan: RoundPlan) -> None:
        """Counts an attempt at a round in which nobody was heard, and another one follows."""
        self.count(strategy, problem, plan, report_of([]), self.start_round(problem, state, plan))

    def of_round(self) -> dict[str, int]:
        """Bytes up and down of all clients since the last call."""
        sent = int(self.uplink.sum()), int(self.downlink.sum())
        new = {"uplink_bytes": sent[0] - self._counted[0], "downlink_bytes": sent[1] - self._counted[1]}
        self._counted = sent
        return new


def _now(plan: RoundPlan) -> NDArray[np.bool_]:
    """Clients of a plan whose messages count in this round."""
    return np.ones(len(plan.ids), dtype=np.bool_) if plan.counted is None else ~plan.counted
