"""Which of several strategies is best, and its gain, without the maximum of several test results being reported."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from scarcity_ray.core.randomness import hash64

Floats = NDArray[np.float64]

_CLEAR = 3.0
"""A strategy this many standard errors below the chosen one, on both halves, was no candidate."""
_WIDER = 1.1654
"""The least by which the standard error grows where a choice was open. With both ways' gains of variance 1, their covariance
is m^2 / (k - 1) for k equal strategies, m the mean of the largest of k standard normals: at most 0.358, at k = 3."""


class Winner(NamedTuple):
    """first, second: places of the strategies chosen on the first and the second half; both the same where validation
    values chose. gains: `[seeds, clients]`, what choosing gains. widen: factor for the standard error of their mean, 1
    where the choice was not made on test rows or was clear."""

    first: int
    second: int
    gains: Floats
    widen: float

    @property
    def single(self) -> bool:
        """Whether there is one best strategy: false says "no single best: first or second"."""
        return self.first == self.second


def halves(seed: int, client: ArrayLike, row: ArrayLike) -> NDArray[np.bool_]:
    """Which rows are in the first half `[rows]`: of each client every second one, by a hash of (seed, client, row).

    client, row: `[rows]`, whole numbers from 0; a row that occurs in several seeds is in the same half in all. Of an odd number
    the hash of the client says which half has one more.
    """
    who, what = np.asarray(client, dtype=np.int64), np.asarray(row, dtype=np.int64)
    each = int(what.max(initial=0)) + 1
    distinct, places = np.unique(who * each + what, return_inverse=True)
    owner = distinct // each
    order = np.lexsort((hash64(seed, "halves", owner, distinct % each), owner))
    sorted_clients = owner[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_clients, sorted_clients)
    odd = hash64(seed, "larger half", sorted_clients) & np.uint64(1)
    first = np.empty(len(order), dtype=bool)
    first[order] = (rank + odd.astype(np.int64)) % 2 == 0
    return first[places]


def best(gains: ArrayLike, rows: ArrayLike | None = None) -> int:
    """The place of the strategy with the largest mean gain over clients (over rows where rows are given), the first of several.

    gains: `[strategies, seeds, clients]`, NaN where there is none. rows: `[seeds, clients]` or `[clients]`.
    Raises ValueError where no strategy has any gain.
    """
    g = np.asarray(gains, dtype=np.float64)
    if g.ndim != 3 or not (~np.isnan(g)).any():
        raise ValueError(f"gains {g.shape} must be [strategies, seeds, clients], with a number among them")
    w = np.where(np.isnan(g), 0.0, 1.0 if rows is None else np.asarray(rows, dtype=np.float64))
    sums, weights = (w * np.nan_to_num(g)).sum((1, 2)), w.sum((1, 2))
    return int(np.argmax(np.divide(sums, weights, out=np.full(len(g), -np.inf), where=weights > 0)))


def chosen_on_validation(validation: ArrayLike, test: ArrayLike) -> Winner:
    """The strategy with the best validation gain, and its gain on test rows. Both `[strategies, seeds, clients]`."""
    place = best(validation)
    return Winner(place, place, np.asarray(test, dtype=np.float64)[place], 1.0)


def cross_fitted(first: ArrayLike, second: ArrayLike, rows: tuple[ArrayLike, ArrayLike] = (1.0, 1.0)) -> Winner:
    """Chosen on one half of the test rows and reported on the other, both ways, averaged (cross-fitting; Chernozhukov et al.,
    Econometrics Journal 21, 2018).

    first, second: `[strategies, seeds, clients]`, gains on each half, NaN where a client has no value there. rows:
    test rows of each half, `[seeds, clients]`, which a client's average is weighted by.
    Gains are of choosing; where both halves choose the same strategy and the metric is a mean they are its gains on all rows.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    here, there = best(one), best(other)
    reported = np.stack([other[here], one[there]])
    counts = [np.broadcast_to(np.asarray(count, dtype=np.float64), one.shape[1:]) for count in (rows[1], rows[0])]
    weights = np.where(np.isnan(reported), 0.0, np.stack(counts))
    total = weights.sum(0)
    gains = np.divide((weights * np.nan_to_num(reported)).sum(0), total, out=np.full(total.shape, np.nan), where=total > 0)
    candidates = len({here, there, *near(one, here), *near(other, there)})
    return Winner(here, there, gains, widening(candidates))


def widening(candidates: int, outside: float = 0.05) -> float:
    """The factor of the standard error of one that was chosen among so many because it is large. outside: 1 - the level of
    its interval.

    Two halves of the same clients share these clients' luck, which chooses too: so the level is Bonferroni's over the
    strategies that could have been chosen, and at least what the halves' covariance asks for.
    """
    quantile: Any = ndtri(1 - outside / 2 / candidates) / ndtri(1 - outside / 2)
    return max(_WIDER, float(quantile)) if candidates > 1 else 1.0


def strategy_of_rows(first_half: ArrayLike, winner: Winner) -> NDArray[np.int64]:
    """The place of the strategy that each row is judged under, the other half's choice `[rows]`. first_half: as of `halves`."""
    return np.where(np.asarray(first_half, dtype=bool), winner.second, winner.first)


def near(gains: Floats, chosen: int) -> list[int]:
    """The places that do not lie far below the chosen one, by paired differences over clients. gains: `[places, seeds, clients]`."""
    found = []
    for place, other in enumerate(gains):
        apart = gains[chosen] - other
        apart = apart[~np.isnan(apart)]
        if place != chosen and len(apart) and (len(apart) < 2 or apart.mean() <= _CLEAR * apart.std(ddof=1) / np.sqrt(len(apart))):
            found.append(place)
    return found
