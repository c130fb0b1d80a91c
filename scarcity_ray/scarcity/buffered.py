"""Asynchronous rounds: an event queue of clients that start and finish by themselves, cut into versions of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import Mask
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.offer import Offer
from scarcity_ray.scarcity.played import Asked, Played

if TYPE_CHECKING:
    from scarcity_ray.scarcity.simulation import Simulation


_BLOCK = 16
"""Clients whose turn it is that are looked at together, at least."""


@dataclass
class Version:
    """What has ended in a version so far, by client: in time with the age of its model, too old, or lost."""

    heard: dict[int, int] = field(default_factory=dict)
    stale: dict[int, int] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    over: bool = False

    @property
    def ended(self) -> Ids:
        """All of them, by rising id."""
        return np.array(sorted([*self.heard, *self.stale, *self.lost]), dtype=np.int64)

    def plan(self, known: RoundInput, time: int, up: Ids) -> RoundPlan:
        """A round of those that ended. up: bytes that each client sends, `[clients]`."""
        ids = self.ended
        ages = {**self.heard, **self.stale, **self.lost}
        lost = np.array([client not in self.heard for client in ids.tolist()], dtype=np.bool_)
        vain = np.array([client in self.stale for client in ids.tolist()], dtype=np.bool_)
        age = np.where(lost, 0, [ages[client] for client in ids.tolist()]).astype(np.int64)
        return RoundPlan(ids, known.steps[ids], lost, age, time, np.where(vain, up[ids], 0))


def plan(simulation: Simulation, known: RoundInput, answer: Answer, asked: Asked) -> Played:
    """A round whose clients work at their own pace."""
    ledger, offer = simulation.ledger, Offer.of(simulation.ledger, known, asked)
    available = int(offer.usable().sum())
    version = _play(simulation, offer, known, answer, asked)
    made = version.plan(known, ledger.clock, asked.up)
    ledger.joined[made.ids[~made.lost]] += 1
    assert made.wasted_up is not None
    waste = int((asked.down[made.ids] + made.wasted_up)[made.lost].sum())
    counts = {"late": len(version.stale), "dropped": len(version.lost), "wasted_bytes": waste}
    return Played(made, simulation.columns({"available": available, "selected": len(made.ids), **counts}, known), version.over)


def _play(simulation: Simulation, offer: Offer, known: RoundInput, answer: Answer, asked: Asked) -> Version:
    """Plays events until `known.count` updates are in time, or nothing more can happen.

    Whenever fewer than `answer.concurrency` clients work, the next ones start that are there and can pay, by a hash of the version and
    their ids. The earliest to finish comes next, the lowest id of several. A client that has ended in a version waits for the next one.
    offer: of this round, to all clients.
    """
    ledger, world, version = simulation.ledger, simulation.world, Version()
    assert answer.concurrency is not None
    queue = np.argsort(hash64(known.seed, "cohort", known.clients, known.round), kind="stable")
    idle = np.ones(len(queue), dtype=np.bool_)  # of the queue: who neither works nor has ended in this version
    idle &= ledger.late_since[known.clients[queue]] == 0
    flying = np.flatnonzero(ledger.late_since > 0).tolist()
    events = [(int(ledger.busy_until[client]), client) for client in flying]
    heapify(events)
    while len(version.heard) < known.count:
        if (room := answer.concurrency - len(events)) > 0:
            for client, end in _start(simulation, offer, known, asked, queue, idle, room):
                heappush(events, (end, client))
        time = events[0][0] if events else None
        if len(events) < answer.concurrency:  # somebody may come before the next one ends
            coming = offer.only(np.sort(queue[idle])).next_time()
            if coming is not None and coming > ledger.clock and (time is None or coming < time):
                if not simulation.pass_to(coming):
                    version.over = True
                    break
                continue
        if time is None:
            version.over = not len(version.ended)
            break
        if not simulation.pass_to(time):
            version.over = True
            break
        _, client = heappop(events)
        age = known.round - int(ledger.late_since[client])
        ledger.late_since[client] = 0
        if ledger.failing[client]:
            version.lost[client] = age
        elif age > min(answer.stalest, known.oldest):
            version.stale[client] = age
        else:
            version.heard[client] = age
    if version.over and world.deadline is not None:
        version.stale |= version.heard  # the version was not made in time
        version.heard = {}
    return version


def _start(
    simulation: Simulation, offer: Offer, known: RoundInput, asked: Asked, queue: NDArray[np.int64], idle: Mask, room: int
) -> list[tuple[int, int]]:
    """Starts up to `room` of the clients at places `queue` of the offer, the first in it that can: each with the time at which its turn
    ends. They are idle no more. Their turns are charged, and lost where the ledger says so."""
    ledger, waiting, begun = simulation.ledger, np.flatnonzero(idle), np.zeros(0, dtype=np.int64)
    for start in range(0, len(waiting), size := max(_BLOCK, 2 * room)):  # few of them are asked, as few start at a time
        block = waiting[start : start + size]
        begun = np.append(begun, block[offer.only(queue[block]).usable()])
        if len(begun) >= room:
            break
    begun = begun[:room]
    idle[begun] = False
    places = np.sort(queue[begun])
    part = offer.only(places)
    _, lost = simulation.begin(known, part.ids, asked, part.turn)
    ledger.failing[part.ids], ledger.late_since[part.ids] = lost, known.round
    return list(zip(part.ids.tolist(), ledger.busy_until[part.ids].tolist(), strict=True))
