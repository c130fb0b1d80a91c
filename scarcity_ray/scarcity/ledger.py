"""The ledger: where the clock stands, and what each client has spent. No budget is ever exceeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.scarcity.availability import SECOND, Mask
from scarcity_ray.scarcity.draws import Floats, Ids
from scarcity_ray.scarcity.world import BUDGETS, World

REASONS = ("", "memory", "battery", *BUDGETS)
"""Why a client takes part in no more rounds, by the number that `excluded` holds; 0 for clients that may."""

_NEVER = 1e9  # seconds, 32 years: a battery that needs more never fills


@dataclass
class Ledger:
    """What is so far, values `[clients]`.

    clock: microseconds. uplink, downlink: bytes. joules: all energy. busy: microseconds of its own in turns. turns: rounds that it was
    selected for. joined: those in which it was heard. battery: joules left. busy_until: the clock at which its turn ends. excluded: a
    place in REASONS. late_since: the round that it started an update in which has not arrived yet, 0 without one. late_steps:
    its steps. sent: by message, who has sent it, where rounds collect it. failing: whose turn, which has not ended yet, will be lost.
    met: who could have been selected once. work: floating-point operations of turns that were heard.
    """

    world: World
    uplink: Ids
    downlink: Ids
    clock: int = 0
    joules: Floats = field(init=False)
    battery: Floats = field(init=False)
    busy: Ids = field(init=False)
    turns: Ids = field(init=False)
    joined: Ids = field(init=False)
    busy_until: Ids = field(init=False)
    late_since: Ids = field(init=False)
    late_steps: Ids = field(init=False)
    excluded: Ids = field(init=False)
    failing: Mask = field(init=False)
    met: Mask = field(init=False)
    work: Floats = field(init=False)
    sent: dict[str, Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clients = self.world.clients
        self.joules, self.battery = np.zeros(clients), self.world.battery.copy()
        for name in ("busy", "turns", "joined", "busy_until", "late_since", "late_steps", "excluded"):
            setattr(self, name, np.zeros(clients, dtype=np.int64))
        self.failing, self.met, self.work = np.zeros(clients, dtype=np.bool_), np.zeros(clients, dtype=np.bool_), np.zeros(clients)

    def state_dict(self) -> dict[str, Any]:
        """All of it, but the world and the bytes, which the Server keeps."""
        return {one.name: _copy(getattr(self, one.name)) for one in fields(self) if one.name not in ("world", "uplink", "downlink")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, _copy(value))

    def spent(self, ids: Ids) -> dict[str, NDArray[Any]]:
        """What clients `[n]` have spent of each of BUDGETS."""
        return {
            "uplink_bytes": self.uplink[ids],
            "downlink_bytes": self.downlink[ids],
            "joules": self.joules[ids],
            "seconds": self.busy[ids] / SECOND,
            "rounds": self.turns[ids],
        }

    def joules_left(self, ids: Ids) -> Floats:
        """What the batteries of clients `[n]` and their budgets of joules still hold; infinite without a limit."""
        limit = self.world.budgets.get("joules")
        left: Floats = self.battery[ids] if limit is None else np.minimum(self.battery[ids], limit[ids] - self.joules[ids])
        return left

    def exclude_who_cannot_pay(self, ids: Ids, charge: Mapping[str, NDArray[Any]]) -> None:
        """Ends the part of clients `[n]` whose next charge would pass one of their budgets: they draw nothing from now on."""
        budgets = self.world.budgets
        spent = self.spent(ids) if budgets else {}
        for name, limit in budgets.items():
            over = (spent[name] + charge.get(name, 0) > limit[ids]) & (self.excluded[ids] == 0)
            self.excluded[ids[over]] = REASONS.index(name)

    def exclude_who_stays_empty(self, ids: Ids, joules: Floats) -> None:
        """Ends the part of clients `[n]` whose battery has less than a turn takes, and never will have as much."""
        world = self.world
        if not world.has_batteries:
            return
        rate = world.recharge[ids] - world.idle[ids]
        fills = (joules <= world.battery[ids]) & (joules - self.battery[ids] <= rate * _NEVER)
        empty = (joules > self.battery[ids]) & ~fills & (self.excluded[ids] == 0)
        self.excluded[ids[empty]] = REASONS.index("battery")

    def advance(self, time: int) -> None:
        """Moves the clock on, and charges what passes with time: idle power, and batteries that fill. A client whose idle energy would
        pass its budget is excluded first."""
        seconds, world = (time - self.clock) / SECOND, self.world
        self.clock = time
        if not seconds or not (world.idle.any() or world.recharge.any()):
            return
        active = np.flatnonzero(self.excluded == 0)
        idle = world.idle * seconds
        self.exclude_who_cannot_pay(active, {"joules": idle[active]})
        active = active[self.excluded[active] == 0]
        filled = self.battery[active] + world.recharge[active] * seconds
        drawn = np.minimum(idle[active], filled)
        self.joules[active] += drawn
        self.battery[active] = np.minimum(filled - drawn, world.battery[active])

    def charge(self, ids: Ids, microseconds: Ids, joules: Floats) -> None:
        """Charges clients `[n]` for a turn that starts now."""
        self.joules[ids] += joules
        self.battery[ids] -= joules
        self.busy[ids] += microseconds
        self.turns[ids] += 1
        self.busy_until[ids] = self.clock + microseconds

    def may_receive(self, ids: Ids, down: Ids) -> Mask:
        """Which of the clients `[n]` have enough left for one more message down, outside a turn."""
        spent, world = self.spent(ids), self.world
        may: Mask = self.excluded[ids] == 0
        for name, amount in (("downlink_bytes", down), ("joules", world.per_byte[ids] * down)):
            if name in world.budgets:
                may &= spent[name] + amount <= world.budgets[name][ids]
        return may & (world.per_byte[ids] * down <= self.battery[ids])

    def receive(self, ids: Ids, down: Ids) -> None:
        """Charges the energy of such a message; its bytes are the Server's to count."""
        joules = self.world.per_byte[ids] * down
        self.joules[ids] += joules
        self.battery[ids] -= joules


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(one) for name, one in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value
