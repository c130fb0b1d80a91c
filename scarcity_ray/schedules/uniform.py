"""Uniform sampling without replacement: every client is as likely to take part in a round as any other."""

from __future__ import annotations

from typing import Literal

import numpy as np

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import SCHEDULES, Ids, RoundInput, RoundPlan, Schedule


def sample(seed: int, round: int, clients: Ids, count: int) -> Ids:
    """The `count` of some clients for a round, by rising id, without replacement.

    By seed, round and a client's id alone: strategies meet the same clients, and a smaller sample is part of a larger one.
    """
    if count >= len(clients):
        return clients
    ranks = hash64(seed, "cohort", clients, round)
    return np.sort(clients[np.argpartition(ranks, count - 1)[:count]])


@SCHEDULES.register
class Uniform(Schedule):
    """As many clients as the strategy's `fraction` or `clients_per_round` says, drawn by the seed and the round."""

    kind: Literal["uniform"] = "uniform"

    def next(self, before: RoundInput) -> RoundPlan:
        """Everybody who is drawn starts from the newest model, does the steps that the strategy plans, and is heard."""
        ids = sample(before.seed, before.round, before.clients, before.count)
        return RoundPlan.of(ids, before.steps[ids])
