"""Rounds that collect: each client sends a message once, when it comes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.scarcity.availability import Mask
from scarcity_ray.scarcity.draws import Ids
from scarcity_ray.scarcity.played import Asked, Played

if TYPE_CHECKING:
    from scarcity_ray.scarcity.simulation import Simulation


def plan(simulation: Simulation, known: RoundInput, share: float, asked: Asked) -> Played:
    """A round that takes the message of each client that has not sent it, when it comes, until enough have, or nobody is left."""
    world, ledger = simulation.world, simulation.ledger
    sent = ledger.sent.setdefault(asked.message, np.zeros(world.clients, dtype=np.bool_))
    needed, end = max(1, math.ceil(share * len(known.clients))), ledger.clock
    left = known.clients[~sent[known.clients]]
    waves: list[tuple[Ids, Mask, Mask]] = []  # who started, who was heard, and who has sent
    while sum(int(heard.sum()) for _, heard, _ in waves) < needed:
        ids = simulation.wait(replace(known, clients=left), asked)
        if not len(ids):
            break
        finish, lost = simulation.begin(known, ids, asked)
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
    more = len(remain) > 0 and not simulation.out_of_time() and simulation.next_time(replace(known, clients=remain), asked) is not None
    up = np.where(heard | ~uploads, 0, asked.up[ids])
    waste = int((asked.down[ids] + up)[~heard].sum())
    columns = {"available": len(ids), "selected": len(ids), "late": int((uploads & ~heard).sum()), "dropped": int((~uploads).sum())}
    made = RoundPlan(ids, known.steps[ids], ~heard, np.zeros(len(ids), dtype=np.int64), ledger.clock, up, more=more)
    over = simulation.out_of_time() or (not len(ids) and not more)
    return Played(made, simulation.columns({**columns, "wasted_bytes": waste}, known), over)
