"""The simulated clock of a run: who is there, who is on time, who is lost and what it costs, decided before any work is done.

A round is a pure function of the world, the ledger and what the strategy plans. Actors then train the clients that are heard, and no
others. The server's own time counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.schedule import RoundInput, RoundPlan, Schedule
from scarcity_ray.core.selection import Costs
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import SECOND, Mask
from scarcity_ray.scarcity.buffered import play
from scarcity_ray.scarcity.draws import Floats, Ids
from scarcity_ray.scarcity.ledger import REASONS, Ledger
from scarcity_ray.scarcity.world import Turn, World

ATTEMPTS = 1000
"""Times that a round which lasts until somebody is heard is tried."""
_SUMMED = ("available", "selected", "late", "dropped", "wasted_bytes")


@dataclass(frozen=True)
class Asked:
    """What a round asks of clients, values `[clients]`. flops: of so many local steps `(ids [n], steps [n]) -> [n]`. down, up: bytes.
    memory: bytes that its work needs. message: what they send, by name, where rounds collect it. select: narrows a round to the clients
    selected, with their steps; None: its schedule draws them."""

    flops: Callable[[Ids, Ids], Floats]
    down: Ids
    up: Ids
    memory: float = 0.0
    message: str = ""
    select: Callable[[RoundInput, Costs], RoundInput] | None = None


@dataclass(frozen=True)
class Played:
    """A planned round. plan: what clients are to do. columns: of the rounds table, without energy. over: nothing can follow it: nobody is
    left, or the run's time is up. attempts: at the round, of which this is the last."""

    plan: RoundPlan
    columns: dict[str, Any]
    over: bool = False
    attempts: int = 1

    def again(self, answer: Answer) -> bool:
        """Whether another attempt at the round follows, as nobody was heard in this one."""
        return answer.until_heard and not self.over and bool(self.plan.lost.all())

    def after(self, before: Played) -> Played:
        """The same as the last attempt at a round. before: those until now. After ATTEMPTS in vain it is over."""
        sums = {name: self.columns[name] + before.columns[name] for name in _SUMMED}
        attempts = before.attempts + 1
        over = self.over or (attempts >= ATTEMPTS and bool(self.plan.lost.all()))
        return replace(self, columns={**self.columns, **sums}, over=over, attempts=attempts)


class Simulation:
    """The clock of one strategy. uplink, downlink: bytes of each client so far, `[clients]`, as the Server counts them."""

    def __init__(self, world: World, uplink: Ids, downlink: Ids) -> None:
        self.world, self.ledger = world, Ledger(world, uplink, downlink)
        self._joules = 0.0

    def plan(self, known: RoundInput, schedule: Schedule, answer: Answer, asked: Asked, tried: Played | None = None) -> Played:
        """What becomes of a round whose clients the schedule selects among those that are there and can pay. known: as without
        scarcity. tried: attempts at the same round in which nobody was heard. The ledger is charged."""
        if tried is not None:  # by other draws
            return self.plan(replace(known, round=known.round + (tried.attempts << 32)), schedule, answer, asked).after(tried)
        world, ledger = self.world, self.ledger
        ledger.excluded[(ledger.excluded == 0) & (world.memory < asked.memory)] = REASONS.index("memory")
        if answer.collects is not None:
            return self._collected(known, answer.collects, asked)
        if answer.concurrency is not None:
            return self._buffered(known, answer, asked)
        candidates = self._wait(known, asked)
        if not len(candidates):
            over = self._out_of_time() or not self._somebody(known.clients) or self._next(known, asked) is None
            return self._nobody(known, over)
        needed = min(known.count, len(candidates))
        wanted = min(math.ceil(answer.over_selection * needed), len(candidates))
        plan = schedule.next(self._selected(replace(known, clients=candidates, count=wanted), asked))
        ids = plan.ids
        steps, turn = self._fitted(known.round, ids, plan.steps, answer, asked)
        late_at = math.inf if answer.deadline is None else ledger.clock + round(answer.deadline * SECOND)
        before, after = world.dropped(known.round, ids)
        after |= plan.lost & ~before
        finish = ledger.clock + turn.total
        away = ~before & ~after & ~world.presence.at(ids, finish, known.round)
        dropped = before | after | away
        late = ~dropped & (finish > late_at)
        order = np.lexsort((ids, finish))
        accepted = np.zeros(len(ids), dtype=np.bool_)
        accepted[[place for place in order.tolist() if not dropped[place] and not late[place]][:needed]] = True
        end = self._end(ids, finish, accepted, dropped, min(needed, len(ids)), late_at, before, turn)
        void = int(accepted.sum()) < math.ceil(answer.minimum * known.count)
        void |= world.deadline is not None and end > world.deadline
        end, over = max(end, ledger.clock + _micro(answer.interval)), False
        if world.deadline is not None and end >= world.deadline:
            end, over = world.deadline, True
        heard = accepted & (not void)
        uploads = ~dropped
        stale, age = self._arrived(known, answer, end, ids) if not void else (np.zeros(0, dtype=np.int64),) * 2
        self._charge(ids, turn, asked, before, uploads)
        if answer.late == "stale" and not over:
            ledger.late_since[ids[late]] = known.round
        ledger.joined[ids[heard]] += 1
        ledger.joined[stale] += 1
        ledger.advance(max(end, ledger.clock))
        waste = np.where(heard | (late if answer.late == "stale" else False), 0, asked.down[ids] + np.where(uploads, asked.up[ids], 0))
        columns = {
            "available": len(candidates),
            "selected": len(ids),
            "late": int(late.sum()),
            "dropped": int(dropped.sum()),
            "wasted_bytes": int(waste.sum()),
        }
        made = _with_stale(
            RoundPlan(ids, steps, ~heard, plan.staleness, ledger.clock, np.where(heard | ~uploads, 0, asked.up[ids])),
            stale,
            known.steps[stale],
            age,
        )
        return Played(made, self._columns(columns, known), over)

    def _collected(self, known: RoundInput, share: float, asked: Asked) -> Played:
        """A round that takes the message of each client that has not sent it, when it comes, until enough have, or nobody is left."""
        world, ledger = self.world, self.ledger
        sent = ledger.sent.setdefault(asked.message, np.zeros(world.clients, dtype=np.bool_))
        needed, end = max(1, math.ceil(share * len(known.clients))), ledger.clock
        left = known.clients[~sent[known.clients]]
        waves: list[tuple[Ids, Mask, Mask]] = []  # who started, who was heard, and who has sent
        while sum(int(heard.sum()) for _, heard, _ in waves) < needed:
            ids = self._wait(replace(known, clients=left), asked)
            if not len(ids):
                break
            finish, lost = self._begin(known, ids, asked)
            late = finish > (np.inf if world.deadline is None else world.deadline)
            waves.append((ids, ~lost & ~late, ~lost))
            end, left = max(end, int(ledger.busy_until[ids].max())), np.setdiff1d(left, ids)
        nobody = np.zeros(0, dtype=np.int64)
        ids = np.concatenate([nobody, *(wave[0] for wave in waves)])
        heard, uploads = (np.concatenate([nobody.astype(np.bool_), *(wave[part] for wave in waves)]) for part in (1, 2))
        order = np.argsort(ids)
        ids, heard, uploads = ids[order], heard[order], uploads[order]
        sent[ids[heard]] = True
        ledger.joined[ids[heard]] += 1
        ledger.advance(max(ledger.clock, end if world.deadline is None else min(end, world.deadline)))
        remain = known.clients[(ledger.excluded[known.clients] == 0) & ~sent[known.clients]]
        more = len(remain) > 0 and not self._out_of_time() and self._next(replace(known, clients=remain), asked) is not None
        up = np.where(heard | ~uploads, 0, asked.up[ids])
        waste = int((asked.down[ids] + up)[~heard].sum())
        columns = {"available": len(ids), "selected": len(ids), "late": int((uploads & ~heard).sum()), "dropped": int((~uploads).sum())}
        plan = RoundPlan(ids, known.steps[ids], ~heard, np.zeros(len(ids), dtype=np.int64), ledger.clock, up, more=more)
        over = self._out_of_time() or (not len(ids) and not more)
        return Played(plan, self._columns({**columns, "wasted_bytes": waste}, known), over)

    def _buffered(self, known: RoundInput, answer: Answer, asked: Asked) -> Played:
        """A round whose clients work at their own pace, see scarcity.buffered."""
        ledger = self.ledger
        available = len(self.usable(known, asked))
        version = play(self, known, answer, asked)
        plan = version.plan(known, ledger.clock, asked.up)
        ledger.joined[plan.ids[~plan.lost]] += 1
        assert plan.wasted_up is not None
        waste = int((asked.down[plan.ids] + plan.wasted_up)[plan.lost].sum())
        counts = {"late": len(version.stale), "dropped": len(version.lost), "wasted_bytes": waste}
        return Played(plan, self._columns({"available": available, "selected": len(plan.ids), **counts}, known), version.over)

    def start(self, known: RoundInput, ids: Ids, asked: Asked) -> None:
        """Starts clients `[n]`: their turns are charged, and end at `busy_until`, lost where the ledger says so."""
        ledger = self.ledger
        _, lost = self._begin(known, ids, asked)
        ledger.failing[ids], ledger.late_since[ids] = lost, known.round

    def coming(self, known: RoundInput, asked: Asked, ended: Ids) -> int | None:
        """When somebody may be there who neither works nor is among the clients `ended`; None if nobody will."""
        idle = np.setdiff1d(known.clients[self.ledger.late_since[known.clients] == 0], ended)
        return self._next(replace(known, clients=idle), asked)

    def pass_to(self, time: int) -> bool:
        """Moves the clock to a time, or to the run's deadline if that comes first; False then."""
        deadline = self.world.deadline
        if deadline is not None and time > deadline:
            self.ledger.advance(deadline)
            return False
        self.ledger.advance(max(time, self.ledger.clock))
        return True

    # -- who is there --------------------------------------------------------------------------------------------------

    def _wait(self, known: RoundInput, asked: Asked) -> Ids:
        """The clients that are there and can pay, after waiting for the first where there is none; empty if nobody came."""
        while True:
            usable = self.usable(known, asked)
            if len(usable) or not self._somebody(known.clients):
                return usable
            time = self._next(known, asked)
            if time is None or time <= self.ledger.clock:
                return usable
            if self.world.deadline is not None and time >= self.world.deadline:
                self.ledger.advance(self.world.deadline)
                return usable
            self.ledger.advance(time)

    def usable(self, known: RoundInput, asked: Asked) -> Ids:
        """The clients that are there, have nothing else to do and can pay. Who never will is excluded."""
        ledger, world = self.ledger, self.world
        free, turn = self._free(known, asked)
        joules = _joules(turn, asked.down[free] + asked.up[free])
        charge: dict[str, NDArray[Any] | int] = {
            "uplink_bytes": asked.up[free],
            "downlink_bytes": asked.down[free],
            "joules": joules,
            "seconds": turn.total / SECOND,
            "rounds": 1,
        }
        ledger.exclude_who_cannot_pay(free, charge)
        ledger.exclude_who_stays_empty(free, joules)
        ready = (ledger.excluded[free] == 0) & self._ready(free, joules) & world.presence.at(free, ledger.clock, known.round)
        usable: Ids = free[ready]
        ledger.met[usable] = True
        return usable

    def _free(self, known: RoundInput, asked: Asked) -> tuple[Ids, Turn]:
        """The clients that are not excluded, and what a turn of this round would be."""
        free = known.clients[self.ledger.excluded[known.clients] == 0]
        return free, self._turn(known.round, free, known.steps[free], asked)

    def _ready(self, ids: Ids, joules: Floats) -> Mask:
        """Which of clients `[n]` have nothing else to do, and enough in their battery."""
        ledger = self.ledger
        free = (ledger.busy_until[ids] <= ledger.clock) & (ledger.late_since[ids] == 0)
        ready: Mask = free & (joules <= ledger.battery[ids])
        return ready

    def _next(self, known: RoundInput, asked: Asked) -> int | None:
        """A later time at which somebody may be usable; the clock itself where only another round helps; None if nobody ever will."""
        ledger, world = self.ledger, self.world
        free, turn = self._free(known, asked)
        joules = _joules(turn, asked.down[free] + asked.up[free])
        coming = world.presence.next(free[self._ready(free, joules)], ledger.clock)
        busy = ledger.busy_until[free]
        times = [] if coming is None else [coming]
        times += busy[busy > ledger.clock].tolist()
        empty = joules > ledger.battery[free]
        rate = world.recharge[free] - world.idle[free]
        filling = empty & (rate > 0)
        missing = joules[filling] - ledger.battery[free][filling]
        times += (ledger.clock + np.ceil(missing / rate[filling] * SECOND) + 1).astype(np.int64).tolist()
        later = [time for time in times if time > ledger.clock]
        return min(later) if later else min(times, default=None)

    def _somebody(self, ids: Ids) -> bool:
        return bool((self.ledger.excluded[ids] == 0).any())

    def _out_of_time(self) -> bool:
        return self.world.deadline is not None and self.ledger.clock >= self.world.deadline

    def _selected(self, known: RoundInput, asked: Asked) -> RoundInput:
        """What is known to the schedule, once clients are selected by what they are expected to cost."""
        if asked.select is None:
            return known
        ids, steps = known.clients, known.steps[known.clients]
        none, all = (self._turn(None, ids, part, asked) for part in (np.zeros_like(steps), steps))
        each, moved = np.maximum(steps, 1), asked.down[ids] + asked.up[ids]
        costs = Costs(
            none.total / SECOND,
            (all.work - none.work) / SECOND / each,
            _joules(none, moved),
            (all.work_joules - none.work_joules) / each,
            self.ledger.joules_left(ids),
        )
        return asked.select(known, costs)

    # -- what becomes of them ------------------------------------------------------------------------------------------

    def _fitted(self, round: int, ids: Ids, steps: Ids, answer: Answer, asked: Asked) -> tuple[Ids, Turn]:
        """Steps and turn of each client; where late means partial, only the steps that it can do in time, if that is one at least."""
        turn = self._turn(round, ids, steps, asked)
        if answer.late != "partial" or answer.deadline is None:
            return steps, turn
        before = self._turn(round, ids, np.zeros_like(steps), asked).work
        spare, work = _micro(answer.deadline) - turn.download - turn.upload - before, turn.work - before
        with np.errstate(divide="ignore", invalid="ignore"):
            possible = np.where(work > 0, np.floor(np.maximum(spare, 0) / (work / np.maximum(steps, 1))), steps).astype(np.int64)
        fewer = np.where(possible >= 1, np.minimum(steps, possible), steps)
        turn = self._turn(round, ids, fewer, asked)
        # Minibatches differ in size: a client may need one step less than their mean says.
        over = (turn.total > _micro(answer.deadline)) & (fewer < steps) & (fewer > 1)
        if over.any():
            fewer = np.where(over, fewer - 1, fewer)
            turn = self._turn(round, ids, fewer, asked)
        return fewer, turn

    def _end(self, ids: Ids, finish: Ids, accepted: Mask, dropped: Mask, needed: int, late_at: float, before: Mask, turn: Turn) -> int:
        """When the round is over: with the last client that is needed; at the round's deadline; or once all have come or are lost."""
        clock = self.ledger.clock
        if accepted.sum() >= needed:
            return int(finish[accepted].max(initial=clock))
        if late_at < math.inf:
            return int(late_at)
        gone = np.where(before, clock + turn.download, finish - np.where(dropped, turn.upload, 0))
        return int(gone.max(initial=clock))

    def _arrived(self, known: RoundInput, answer: Answer, end: int, ids: Ids) -> tuple[Ids, Ids]:
        """Late clients of rounds before whose updates arrive in this one, and how many rounds old these are."""
        ledger = self.ledger
        came = np.flatnonzero((ledger.late_since > 0) & (ledger.busy_until <= end))
        age = known.round - ledger.late_since[came]
        ledger.late_since[came] = 0
        kept = (age <= min(answer.stalest, known.oldest)) & ~np.isin(came, ids)
        return came[kept], age[kept]

    def _begin(self, known: RoundInput, ids: Ids, asked: Asked) -> tuple[Ids, Mask]:
        """Charges clients `[n]` for turns that start now: when each would finish, and whether it is lost."""
        world = self.world
        turn = self._turn(known.round, ids, known.steps[ids], asked)
        before, after = world.dropped(known.round, ids)
        finish = self.ledger.clock + turn.total
        lost: Mask = before | after | ~world.presence.at(ids, finish, known.round)
        self._charge(ids, turn, asked, before, ~lost)
        return finish, lost

    def _turn(self, round: int | None, ids: Ids, steps: Ids, asked: Asked) -> Turn:
        """What a round's turn with so many steps each `[n]` takes."""
        return self.world.turn(round, ids, asked.flops(ids, steps), asked.down[ids], asked.up[ids])

    def _charge(self, ids: Ids, turn: Turn, asked: Asked, before: Mask, uploads: Mask) -> None:
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

    def _nobody(self, known: RoundInput, over: bool) -> Played:
        nothing = np.zeros(0, dtype=np.int64)
        plan = RoundPlan(nothing, nothing, nothing.astype(np.bool_), nothing, self.ledger.clock, nothing)
        columns = dict.fromkeys(_SUMMED, 0)
        return Played(plan, self._columns(columns, known), over)

    def _columns(self, columns: dict[str, Any], known: RoundInput) -> dict[str, Any]:
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


def _joules(turn: Turn, moved: Ids) -> Floats:
    joules: Floats = turn.work_joules + turn.per_byte * moved
    return joules


def _micro(seconds: float) -> int:
    return round(seconds * SECOND)


def _with_stale(plan: RoundPlan, ids: Ids, steps: Ids, age: Ids) -> RoundPlan:
    """The plan with clients whose late updates arrive now, by rising id."""
    order = np.argsort(np.concatenate([plan.ids, ids]))
    nothing = np.zeros(len(ids), dtype=np.int64)

    def joined(mine: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([mine, other])[order]

    wasted = None if plan.wasted_up is None else joined(plan.wasted_up, nothing)
    return RoundPlan(
        joined(plan.ids, ids),
        joined(plan.steps, steps),
        joined(plan.lost, nothing.astype(np.bool_)),
        joined(plan.staleness, age),
        plan.time_us,
        wasted,
        joined(np.zeros(len(plan.ids), dtype=np.bool_), np.ones(len(ids), dtype=np.bool_)),
    )
