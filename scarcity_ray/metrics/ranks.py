"""Rank statistics of rows of two sorts, positive and others, for many clients at once. They are counts, so they are exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Values = NDArray[np.float64]


def _counts(client: Ids, positive: Flags, k: int) -> tuple[Ids, Ids]:
    """Positive and other rows of each client, `[k]`."""
    return np.bincount(client[positive], minlength=k), np.bincount(client[~positive], minlength=k)


def _spoiled(client: Ids, scores: NDArray[np.float32], k: int) -> Flags:
    """Clients with a score that is not a number, `[k]`."""
    return np.bincount(client[np.isnan(scores)], minlength=k) > 0


def areas(client: Ids, scores: NDArray[np.float32], positive: Flags, k: int) -> tuple[Values, Flags]:
    """The area under each client's ROC curve, and which clients have both sorts of rows, `[k]` each.

    client, scores, positive `[n]`: of each row. Ties count half. NaN where a score is none.
    """
    ones, others = _counts(client, positive, k)
    order = np.lexsort((scores, client))
    client, scores, positive = client[order], scores[order], positive[order]
    new = np.ones(len(client), dtype=np.bool_)
    new[1:] = (client[1:] != client[:-1]) | (scores[1:] != scores[:-1])
    tie = np.cumsum(new) - 1  # rows with equal scores of one client stand together
    of = client[new]
    up, down = np.bincount(tie[positive], minlength=len(of)), np.bincount(tie[~positive], minlength=len(of))
    below = np.cumsum(down) - down
    below -= (np.cumsum(others) - others)[of]  # other rows of the same client with lower scores
    wins = np.zeros(k, dtype=np.int64)
    np.add.at(wins, of, up * (2 * below + down))
    defined = (ones > 0) & (others > 0)
    area = np.divide(wins, 2.0 * ones * others, out=np.full(k, np.nan), where=defined & ~_spoiled(client, scores, k))
    return area, defined


def overlaps(client: Ids, scores: NDArray[np.float32], positive: Flags, k: int) -> Flags:
    """Which clients' positive and other rows no threshold tells apart, whichever side it puts them on, `[k]`."""
    ends = []
    for chosen in (positive, ~positive):
        low, high = np.full(k, np.inf), np.full(k, -np.inf)
        np.fmin.at(low, client[chosen], scores[chosen])
        np.fmax.at(high, client[chosen], scores[chosen])
        ends.append((low, high))
    (low, high), (other_low, other_high) = ends
    return (high > other_low) & (other_high > low)


def first_specificities(client: Ids, scores: NDArray[np.float32], positive: Flags, k: int, sensitivity: float) -> tuple[Values, Flags]:
    """The highest specificity of a threshold, at or above which a row is flagged, that has at least this sensitivity, and which clients
    have both sorts of rows, `[k]` each. Arguments as for `areas`."""
    ones, others = _counts(client, positive, k)
    defined = (ones > 0) & (others > 0)
    order = np.lexsort((scores[positive], client[positive]))
    sorted_scores, starts = scores[positive][order], np.cumsum(ones) - ones
    # So many of the highest positive scores must be flagged; the least of them is the threshold. A product such as 0.9 * 10 may come
    # out a little above the whole number it is.
    wanted = np.maximum(np.ceil(sensitivity * ones - 1e-9), 1).astype(np.int64)
    threshold = np.full(k, np.inf)
    threshold[defined] = sorted_scores[(starts + ones - wanted)[defined]]
    flagged = np.bincount(client[~positive & (scores >= threshold[client])], minlength=k)
    value = np.divide(others - flagged, others, out=np.full(k, np.nan), where=defined & ~_spoiled(client, scores, k))
    return value, defined
