"""Uniform sampling without replacement: every client is as likely to take part in a round as any other."""

from __future__ import annotations

from typing import Literal

import numpy as np

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import SCHEDULES, Ids, RoundInput, RoundPlan, Schedule


def sample(seed: int, round: int, population: int, count: int) -> Ids:
    """The `count` clients of a round, by rising id, without replacement.

    By seed and round alone: strategies meet the same clients, and a smaller sample is part of a larger one.
    """
    if count >= population:
        return np.arange(population)
    ranks = hash64(seed, "cohort", np.arange(population), round)
    return np.sort(np.argpartition(ranks, count - 1)[:count])


@SCHEDULES.register
class Uniform(Schedule):
    """As many clients as the strategy's `fraction` or `clients_per_round` says, drawn by the seed and the round."""

    kind: Literal["uniform"] = "uniform"

    def next(self, before: RoundInput) -> RoundPlan:
        """Everybody who is drawn starts from the newest model, does the steps that the strategy plans, and is heard."""
        ids = before.clients[sample(before.seed, before.round, len(before.clients), before.count)]
        return RoundPlan.of(ids, before.steps[ids])
