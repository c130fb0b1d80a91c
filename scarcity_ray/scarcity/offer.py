"""An offer: what a turn of a round takes of each client, and which of them can take it when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.scarcity.availability import SECOND, Mask
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.ledger import Ledger
from scarcity_ray.scarcity.played import Asked
from scarcity_ray.scarcity.world import Turn


@dataclass(frozen=True)
class Offer:
    """Of clients `ids [n]`, rising: their turns, and what these charge by name of BUDGETS, `[n]` each."""

    ledger: Ledger
    round: int
    ids: Ids
    turn: Turn
    charge: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, ledger: Ledger, known: RoundInput, asked: Asked) -> Offer:
        """The offer of a round to `known.clients`."""
        ids = known.clients
        up, down = asked.up[ids], asked.down[ids]
        turn = ledger.world.turn(known.round, ids, asked.flops(ids, known.steps[ids]), down, up)
        charge: dict[str, NDArray[Any]] = {
            "uplink_bytes": up,
            "downlink_bytes": down,
            "joules": turn.joules(down + up),
            "seconds": turn.total / SECOND,
            "rounds": np.ones(len(ids), dtype=np.int64),
        }
        return cls(ledger, known.round, ids, turn, charge)

    def only(self, places: NDArray[np.int64]) -> Offer:
        """The same offer to the clients at some places of `ids`."""
        turn = Turn(*(part[places] for part in vars(self.turn).values()))
        return Offer(self.ledger, self.round, self.ids[places], turn, {name: part[places] for name, part in self.charge.items()})

    def usable(self) -> Mask:
        """Which of the clients are there, have nothing else to do and can pay, `[n]`. Who never will is excluded."""
        ledger, joules = self.ledger, self.charge["joules"]
        ledger.exclude_who_cannot_pay(self.ids, self.charge)
        ledger.exclude_who_stays_empty(self.ids, joules)
        ready = np.flatnonzero(self._ready())
        usable = np.zeros(len(self.ids), dtype=np.bool_)
        usable[ready[ledger.world.presence.at(self.ids[ready], ledger.clock, self.round)]] = True
        ledger.met[self.ids[usable]] = True
        return usable

    def next_time(self) -> int | None:
        """A later time at which somebody may be usable; the clock itself where only another round helps; None if nobody ever will."""
        ledger = self.ledger
        world, free = ledger.world, ledger.excluded[self.ids] == 0
        ids, joules = self.ids[free], self.charge["joules"][free]
        coming = world.presence.next(self.ids[self._ready()], ledger.clock)
        busy = ledger.busy_until[ids]
        times = [] if coming is None else [coming]
        times += busy[busy > ledger.clock].tolist()
        empty = joules > ledger.battery[ids]
        rate = world.recharge[ids] - world.idle[ids]
        filling = empty & (rate > 0)
        missing = joules[filling] - ledger.battery[ids][filling]
        times += (ledger.clock + np.ceil(missing / rate[filling] * SECOND) + 1).astype(np.int64).tolist()
        later = [time for time in times if time > ledger.clock]
        return min(later) if later else min(times, default=None)

    def _ready(self) -> Mask:
        """Which clients are not excluded, have nothing else to do, and enough in their battery."""
        ledger, ids = self.ledger, self.ids
        idle = (ledger.busy_until[ids] <= ledger.clock) & (ledger.late_since[ids] == 0)
        ready: Mask = idle & (ledger.excluded[ids] == 0) & (self.charge["joules"] <= ledger.battery[ids])
        return ready
