"""Copies: one client under two names, found from its messages.

Two clients with the same number of rows have sent the same moments up to rounding. That is no proof by itself: clients with few rows of
categories may agree honestly. So clients with as many rows are counted that agree in single numbers, and a pair is a copy only if
honest pairs would agree in all numbers less than once in a thousand federations.

Both names must send the same rows: where a split gives them different parts of one client's rows their messages differ.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.halves import ranks_of
from scarcity_ray.ensemble.moments import Packing
from scarcity_ray.ensemble.ridge import rows_of

_EQUAL = 1e-5  # of the roots of a number's own squares: float32 sums in another order differ by less
_CHANCE = 1e-3  # expected number of honest pairs that agree, at most, for a pair to count as copies
_SEVERAL = 8  # rows
_COMPARED = 200, 4096  # clients and numbers, at most, on which agreement by chance is counted


def copies(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64]) -> dict[int, int]:
    """The places of messages that are copies, each with the place of the first that is the same."""
    found = dict[int, int]()
    look = stream(0, "screening").standard_normal(packing.size)
    numbers, clients = np.unique(samples, return_counts=True)
    for count in numbers[clients > 1].tolist():
        group = np.flatnonzero(samples == count)
        # Equal messages lie side by side in the order of any projection. einsum: a BLAS product may depend on a row's place.
        order = group[np.argsort(np.einsum("ms,s->m", rows[group], look), kind="stable")]
        pairs = [pair for pair in pairwise(order.tolist()) if _equal(packing, rows[list(pair)], count)]
        if not pairs or (count <= packing.width and not _rows_are_unique(packing, rows, samples, count)):
            continue
        agreement, honest = _agreement(rows[group], count), len(group) * (len(group) - 1) / 2
        for pair in pairs:
            if honest * agreement ** _free(packing, rows[pair[0]], count) <= _CHANCE:
                first, second = sorted(found.get(place, place) for place in pair)
                found |= {copy: first for copy, original in found.items() if original == second} | {second: first}
    return found


def _equal(packing: Packing, two: NDArray[np.float32], count: int) -> bool:
    """Whether two messages `[2, size]` are the same up to rounding."""
    one, other = two.astype(np.float64)
    if np.linalg.norm(one - other) > _EQUAL * np.linalg.norm(one):
        return False
    moments = packing.unpack(two, np.array([count, count]))
    inputs, targets = moments.gram[0].diagonal().sqrt(), moments.square[0].sqrt()
    gram, cross, square = ((part[0] - part[1]).abs() for part in (moments.gram, moments.cross, moments.square))
    return all(
        bool((apart <= _EQUAL * size).all())
        for apart, size in ((gram, torch.outer(inputs, inputs)), (cross, inputs[:, None] * targets), (square, targets.square()))
    )


def _agreement(rows: NDArray[np.float32], count: int) -> float:
    """The probability that two clients of `count` rows agree in a single number of their messages: the geometric mean over the numbers.

    It is counted over all pairs but one, the pair in question. In its place is one that agrees with the probability 1 / sqrt(count), about
    that of two sums of fair coins: so much is thought possible where nobody else has as many rows.
    """
    most, columns = _COMPARED
    some = rows[:most, :: max(rows.shape[1] // columns, 1)].astype(np.float64)
    size = np.sqrt(np.square(some).mean(0))
    places = np.round(np.divide(some, _EQUAL * size, where=size > 0, out=np.zeros_like(some)))
    times = [np.unique(column, return_counts=True)[1] for column in places.T]
    agree = np.array([(one * (one - 1)).sum() / 2 for one in times])
    shares = ((agree - 1).clip(0) + count**-0.5) / (len(some) * (len(some) - 1) / 2)
    return math.exp(float(np.log(shares.clip(max=1)).mean()))


def _rows_are_unique(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], count: int) -> bool:
    """Whether the rows of clients seem to be all different, where there are more features than rows.

    Then all numbers of a message can be functions of a few categories, and agree together: how often they do one by one says nothing. But
    categories of which whole clients agree repeat within clients, which shows as fewer dimensions than rows. It takes several rows to show.
    """
    some = np.flatnonzero((samples > 1) & (samples <= count))[: _COMPARED[0]]
    return count >= _SEVERAL and bool((_ranks(packing, rows[some], samples[some]) == torch.from_numpy(samples[some])).all())


def _ranks(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64]) -> torch.Tensor:
    """The dimensions of each client's rows, `[k]`."""
    return torch.cat([ranks_of(rows_of(packing.unpack(rows[part], samples[part]))) for part in packing.chunks(len(rows))])


def _free(packing: Packing, message: NDArray[np.float32], count: int) -> int:
    """How many numbers of a message could differ while the others are the same, with caution: of each dimension of its rows the sum, and of
    targets as many as there are rows.
    """
    rank = int(_ranks(packing, message[None], np.array([count])))
    return rank - 1 + min(rank * (packing.outputs - (packing.task == "classification")), count)
