"""Synchronous rounds: clients start together, and the round lasts until those that it needs have come, or its time is up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.schedule import RoundInput, RoundPlan, Schedule
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import SECOND, Mask
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.ledger import Ledger
from scarcity_ray.scarcity.played import SUMMED, Asked, Played
from scarcity_ray.scarcity.world import Turn

if TYPE_CHECKING:
    from scarcity_ray.scarcity.simulation import Simulation


def plan(simulation: Simulation, known: RoundInput, schedule: Schedule, answer: Answer, asked: Asked) -> Played:
    """What becomes of a round whose clients the schedule plans among those that are there and can pay. The ledger is charged."""
    world, ledger = simulation.world, simulation.ledger
    candidates = simulation.wait(known, asked)
    if not len(candidates):
        over = simulation.out_of_time() or not simulation.somebody(known.clients) or simulation.next_time(known, asked) is None
        return _nobody(simulation, known, over)
    needed = min(known.count, len(candidates))
    wanted = min(math.ceil(answer.over_selection * needed), len(candidates))
    planned = schedule.next(simulation.selected(replace(known, clients=candidates, count=wanted), asked))
    ids = planned.ids
    steps, turn = fitted(simulation, known.round, ids, planned.steps, answer, asked)
    late_at = math.inf if answer.deadline is None else ledger.clock + _micro(answer.deadline)
    before, after = world.dropped(known.round, ids)
    after |= planned.lost & ~before
    finish = ledger.clock + turn.total
    away = ~before & ~after & ~world.presence.at(ids, finish, known.round)
    dropped = before | after | away
    late = ~dropped & (finish > late_at)
    order = np.lexsort((ids, finish))
    accepted = np.zeros(len(ids), dtype=np.bool_)
    accepted[[place for place in order.tolist() if not dropped[place] and not late[place]][:needed]] = True
    end = _end(ledger.clock, ids, finish, accepted, dropped, min(needed, len(ids)), late_at, before, turn)
    void = int(accepted.sum()) < math.ceil(answer.minimum * known.count)
    void |= world.deadline is not None and end > world.deadline
    end, over = max(end, ledger.clock + _micro(answer.interval)), False
    if world.deadline is not None and end >= world.deadline:
        end, over = world.deadline, True
    heard = accepted & (not void)
    uploads = ~dropped
    stale, age = _arrived(ledger, known, answer, end, ids) if not void else (np.zeros(0, dtype=np.int64),) * 2
    simulation.charge(ids, turn, asked, before, uploads)
    if answer.late == "stale" and not over:
        ledger.late_since[ids[late]], ledger.late_steps[ids[late]] = known.round, steps[late]
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
        RoundPlan(ids, steps, ~heard, planned.staleness, ledger.clock, np.where(heard | ~uploads, 0, asked.up[ids])),
        stale,
        ledger.late_steps[stale],
        age,
    )
    return Played(made, simulation.columns(columns, known), over)


def _nobody(simulation: Simulation, known: RoundInput, over: bool) -> Played:
    nothing = np.zeros(0, dtype=np.int64)
    plan = RoundPlan(nothing, nothing, nothing.astype(np.bool_), nothing, simulation.ledger.clock, nothing)
    columns = dict.fromkeys(SUMMED, 0)
    return Played(plan, simulation.columns(columns, known), over)


def fitted(simulation: Simulation, round: int, ids: Ids, steps: Ids, answer: Answer, asked: Asked) -> tuple[Ids, Turn]:
    """Steps and turn of each client; where late means partial, only the steps that it can do in time, if that is one at least."""
    turn = simulation.turn(round, ids, steps, asked)
    if answer.late != "partial" or answer.deadline is None:
        return steps, turn
    before = simulation.turn(round, ids, np.zeros_like(steps), asked).work
    spare, work = _micro(answer.deadline) - turn.download - turn.upload - before, turn.work - before
    with np.errstate(divide="ignore", invalid="ignore"):
        possible = np.where(work > 0, np.floor(np.maximum(spare, 0) / (work / np.maximum(steps, 1))), steps).astype(np.int64)
    fewer = np.where(possible >= 1, np.minimum(steps, possible), steps)
    turn = simulation.turn(round, ids, fewer, asked)
    # Minibatches differ in size: a client may need one step less than their mean says.
    over = (turn.total > _micro(answer.deadline)) & (fewer < steps) & (fewer > 1)
    if over.any():
        fewer = np.where(over, fewer - 1, fewer)
        turn = simulation.turn(round, ids, fewer, asked)
    return fewer, turn


def _end(clock: int, ids: Ids, finish: Ids, accepted: Mask, dropped: Mask, needed: int, late_at: float, before: Mask, turn: Turn) -> int:
    """When the round is over: with the last client that is needed; at the round's deadline; or once all have come or are lost."""
    if accepted.sum() >= needed:
        return int(finish[accepted].max(initial=clock))
    if late_at < math.inf:
        return int(late_at)
    gone = np.where(before, clock + turn.download, finish - np.where(dropped, turn.upload, 0))
    return int(gone.max(initial=clock))


def _arrived(ledger: Ledger, known: RoundInput, answer: Answer, end: int, ids: Ids) -> tuple[Ids, Ids]:
    """Late clients of rounds before whose updates arrive in this one, and how many rounds old these are."""
    came = np.flatnonzero((ledger.late_since > 0) & (ledger.busy_until <= end))
    age = known.round - ledger.late_since[came]
    ledger.late_since[came] = 0
    kept = (age <= min(answer.stalest, known.oldest)) & ~np.isin(came, ids)
    return came[kept], age[kept]


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
