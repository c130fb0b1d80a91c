"""Uniform sampling without replacement: every client is as likely to take part in a round as any other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64

Ids = NDArray[np.int64]


def cohort(seed: int, round: int, population: int, count: int) -> Ids:
    """The `count` clients of a round, by rising id, without replacement.

    By seed and round alone: strategies meet the same clients, and a smaller cohort is part of a larger one.
    """
    if count >= population:
        return np.arange(population)
    ranks = hash64(seed, "cohort", np.arange(population), round)
    return np.sort(np.argpartition(ranks, count - 1)[:count])
