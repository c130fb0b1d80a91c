"""Asynchronous rounds: an event queue of clients that start and finish by themselves, cut into versions of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.played import Asked, Played

if TYPE_CHECKING:
    from scarcity_ray.scarcity.simulation import Simulation


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
    ledger = simulation.ledger
    available = len(simulation.usable(known, asked))
    version = _play(simulation, known, answer, asked)
    made = version.plan(known, ledger.clock, asked.up)
    ledger.joined[made.ids[~made.lost]] += 1
    assert made.wasted_up is not None
    waste = int((asked.down[made.ids] + made.wasted_up)[made.lost].sum())
    counts = {"late": len(version.stale), "dropped": len(version.lost), "wasted_bytes": waste}
    return Played(made, simulation.columns({"available": available, "selected": len(made.ids), **counts}, known), version.over)


def _play(simulation: Simulation, known: RoundInput, answer: Answer, asked: Asked) -> Version:
    """Plays events until `known.count` updates are in time, or nothing more can happen.

    Whenever fewer than `answer.concurrency` clients work, the next ones start that are there and can pay, by a hash of the version and
    their ids. The earliest to finish comes next, the lowest id of several. A client that has ended in a version waits for the next one.
    """
    ledger, world, version = simulation.ledger, simulation.world, Version()
    assert answer.concurrency is not None
    while len(version.heard) < known.count:
        flying = np.flatnonzero(ledger.late_since > 0)
        room = answer.concurrency - len(flying)
        if room > 0:
            usable = np.setdiff1d(simulation.usable(known, asked), version.ended)
            order = np.argsort(hash64(known.seed, "cohort", usable, known.round), kind="stable")[:room]
            simulation.start(known, np.sort(usable[order]), asked)
            flying = np.flatnonzero(ledger.late_since > 0)
        ends = ledger.busy_until[flying]
        time = int(ends.min()) if len(ends) else None
        if len(flying) < answer.concurrency:  # somebody may come before the next one ends
            coming = simulation.coming(known, asked, version.ended)
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
        client = int(flying[ends.argmin()])
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
