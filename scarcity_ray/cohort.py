"""Who takes part in a round, and which actor does whose work."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.randomness import hash64

Ids = NDArray[np.int64]


def cohort(seed: int, round: int, population: int, count: int) -> Ids:
    """The `count` clients of a round, by rising id, without replacement.

    By seed and round alone: strategies meet the same clients, and a smaller cohort is part of a larger one.
    """
    if count >= population:
        return np.arange(population)
    ranks = hash64(seed, "cohort", np.arange(population), round)
    return np.sort(np.argpartition(ranks, count - 1)[:count])


def deal(ids: Ids, work: NDArray[np.int64], hands: int) -> list[Ids]:
    """Clients to actors, longest work first to the actor with least so far (Graham's LPT rule); each hand by rising id."""
    if hands == 1:
        return [ids]
    order = np.lexsort((ids, -work))
    loads = [(0, 0, hand) for hand in range(hands)]
    owner = np.empty(len(ids), dtype=np.int64)
    for place, amount in zip(order.tolist(), work[order].tolist(), strict=True):
        load, count, hand = loads[0]
        owner[place] = hand
        heapq.heapreplace(loads, (load + amount, count + 1, hand))
    return [np.sort(ids[owner == hand]) for hand in range(hands)]


def blocks(samples: NDArray[np.int64], count: int) -> list[Ids]:
    """The clients of `count` homes, as many in each (+-1): dealt by falling number of rows, there and back."""
    place = np.arange(len(samples))
    order = np.lexsort((place, -samples))
    turn, seat = place // count, place % count
    owner = np.where(turn % 2 == 0, seat, count - 1 - seat)
    return [np.sort(order[owner == block]) for block in range(count)]
