"""The simulated clock of a run: who is there, who is on time, who is lost and what it costs, decided before any work is done.

A round is a pure function of the world, the ledger and what the strategy plans. Actors then train the clients that are heard, and no
others. The server's own time counts as 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from scarcity_ray.core.schedule import RoundInput, Schedule
from scarcity_ray.core.selection import Costs
from scarcity_ray.scarcity import buffered, collecting, synchronous
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import SECOND, Mask
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.ledger import REASONS, Ledger
from scarcity_ray.scarcity.offer import Offer
from scarcity_ray.scarcity.played import Asked, Played
from scarcity_ray.scarcity.world import Turn, World


class Simulation:
    """The clock of one strategy. uplink, downlink: bytes of each client so far, `[clients]`, as the Server counts them."""

    def __init__(self, world: World, uplink: Ids, downlink: Ids) -> None:
        self.world, self.ledger = world, Ledger(world, uplink, downlink)
        self._joules = 0.0

    def plan(self, known: RoundInput, schedule: Schedule, answer: Answer, asked: Asked, tried: Played | None = None) -> Played:
        """What becomes of a round whose clients the schedule plans among those that are there and can pay. known: as without
        scarcity. tried: attempts at the same round in which nobody was heard. The ledger is charged."""
        if tried is not None:  # by other draws
            return self.plan(replace(known, round=known.round + (tried.attempts << 32)), schedule, answer, asked).after(tried)
        world, ledger = self.world, self.ledger
        ledger.excluded[(ledger.excluded == 0) & (world.memory < asked.memory)] = REASONS.index("memory")
        if answer.collects is not None:
            return collecting.plan(self, known, answer.collects, asked)
        if answer.concurrency is not None:
            return buffered.plan(self, known, answer, asked)
        return synchronous.plan(self, known, schedule, answer, asked)

    def pass_to(self, time: int) -> bool:
        """Moves the clock to a time, or to the run's deadline if that comes first; False then."""
        deadline = self.world.deadline
        if deadline is not None and time > deadline:
            self.ledger.advance(deadline)
            return False
        self.ledger.advance(max(time, self.ledger.clock))
        return True

    # -- who is there --------------------------------------------------------------------------------------------------

    def wait(self, known: RoundInput, asked: Asked) -> Ids:
        """The clients that are there and can pay, after waiting for the first where there is none; empty if nobody came."""
        offer, nobody = Offer.of(self.ledger, known, asked), np.zeros(0, dtype=np.int64)
        while True:
            usable = offer.ids[offer.usable()]
            if len(usable) or not self.somebody(known.clients):
                return usable
            time = offer.next_time()
            if time is None or time <= self.ledger.clock:
                return nobody
            if self.world.deadline is not None and time >= self.world.deadline:
                self.ledger.advance(self.world.deadline)
                return nobody
            self.ledger.advance(time)

    def next_time(self, known: RoundInput, asked: Asked) -> int | None:
        """As Offer.next_time, of this round's."""
        return Offer.of(self.ledger, known, asked).next_time()

    def somebody(self, ids: Ids) -> bool:
        """Whether any of clients `[n]` is not excluded."""
        return bool((self.ledger.excluded[ids] == 0).any())

    def out_of_time(self) -> bool:
        """Whether the run's deadline has come."""
        return self.world.deadline is not None and self.ledger.clock >= self.world.deadline

    def selected(self, known: RoundInput, asked: Asked) -> RoundInput:
        """What is known to the schedule, once clients are selected by what they are expected to cost."""
        if asked.select is None:
            return known
        ids, steps = known.clients, known.steps[known.clients]
        none, all = (self.turn(None, ids, part, asked) for part in (np.zeros_like(steps), steps))
        each, moved = np.maximum(steps, 1), asked.down[ids] + asked.up[ids]
        costs = Costs(
            none.total / SECOND,
            (all.work - none.work) / SECOND / each,
            none.joules(moved),
            (all.work_joules - none.work_joules) / each,
            self.ledger.joules_left(ids),
        )
        return asked.select(known, costs)

    # -- what becomes of them ------------------------------------------------------------------------------------------

    def begin(self, known: RoundInput, ids: Ids, asked: Asked, turn: Turn | None = None) -> tuple[Ids, Mask]:
        """Charges clients `[n]` for turns that start now: when each would finish, and whether it is lost. turn: theirs, if it is known."""
        turn = turn or self.turn(known.round, ids, known.steps[ids], asked)
        before, after = self.world.dropped(known.round, ids)
        finish = self.ledger.clock + turn.total
        lost: Mask = before | after | ~self.world.presence.at(ids, finish, known.round)
        self.charge(ids, turn, asked, before, ~lost)
        return finish, lost

    def turn(self, round: int | None, ids: Ids, steps: Ids, asked: Asked) -> Turn:
        """What a round's turn with so many steps each `[n]` takes."""
        return self.world.turn(round, ids, asked.flops(ids, steps), asked.down[ids], asked.up[ids])

    def charge(self, ids: Ids, turn: Turn, asked: Asked, before: Mask, uploads: Mask) -> None:
        """A client that is lost before the work has downloaded; one that is lost after it has not sent. Nothing is given back."""
        time = turn.download + np.where(before, 0, turn.work) + np.where(uploads, turn.upload, 0)
        moved = asked.down[ids] + np.where(uploads, asked.up[ids], 0)
        joules = np.where(before, 0.0, turn.work_joules) + turn.per_byte * moved
        self.ledger.charge(ids, time, joules)

    def receivers(self, ids: Ids, down: Ids) -> Ids:
        """Those of clients `[n]` that can pay for a message down outside a turn; its energy is charged. It comes when they are there."""
        may = self.ledger.may_receive(ids, down)
        self.ledger.receive(ids[may], down[may])
        return ids[may]

    # -- what tables say -----------------------------------------------------------------------------------------------

    def columns(self, columns: dict[str, Any], known: RoundInput) -> dict[str, Any]:
        """Columns of the rounds table: those of a planner, with the clock and how many clients are excluded."""
        excluded = int((self.ledger.excluded[known.clients] > 0).sum())
        return {"clock_seconds": self.ledger.clock / SECOND, **columns, "excluded": excluded}

    def joules(self) -> float:
        """Energy of all clients since the last call."""
        before, self._joules = self._joules, float(self.ledger.joules.sum())
        return self._joules - before

    def client_columns(self, ids: Ids) -> dict[str, Any]:
        """Columns of the clients table for clients `[n]`."""
        ledger = self.ledger
        return {
            "rounds_joined": ledger.joined[ids],
            "busy_seconds": ledger.busy[ids] / SECOND,
            "joules": ledger.joules[ids],
            "battery": np.where(np.isinf(self.world.battery[ids]), np.nan, ledger.battery[ids]),
            "excluded_by": np.array([REASONS[code] or None for code in ledger.excluded[ids].tolist()], dtype=object),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"ledger": self.ledger.state_dict(), "joules": self._joules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.ledger.load_state_dict(state["ledger"])
        self._joules = state["joules"]
