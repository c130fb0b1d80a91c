"""The difference of the means of two kinds of clients, with an interval: nothing pairs a client of one kind with one of the other."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from scarcity_ray.inference.mean_gain import mean_gain


class Apart(NamedTuple):
    """first, second: means. difference: first less second. low, high: its interval; NaN where a kind has a single client. clients: values
    of each kind that count. All NaN or 0 where no seed has both kinds."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    clients: tuple[int, int]


def unpaired(values: ArrayLike, first: ArrayLike, *, keep_rows: bool, root: bool = False, level: float = 0.9) -> Apart:
    """values: `[seeds, clients]`, NaN or infinite where a client has none. first: the same shape, whether a value is of the first kind.
    keep_rows: see `mean_gain`. root: the means are of squares, and their roots are compared. level: of the interval.

    Each kind's mean and standard error are those of `mean_gain`, so clients and seeds are its clusters; seeds that have both kinds count,
    each the same. The interval is Welch's (Biometrika 34, 1947) with Satterthwaite's degrees of freedom; the error of a root by the delta
    method. What the kinds have in common, the luck of a seed or a client that is of one kind in one seed and of the other in another, is
    not taken out: with several seeds the interval is rather too wide. Raises ValueError where shapes differ.
    """
    y, kind = np.asarray(values, dtype=np.float64), np.asarray(first, dtype=np.bool_)
    if y.shape != kind.shape or y.ndim != 2:
        raise ValueError(f"values {y.shape} and kinds {kind.shape} must be [seeds, clients]")
    known = np.isfinite(y)
    kinds = [known & kind, known & ~kind]
    both = kinds[0].any(1) & kinds[1].any(1)
    if not both.any():
        nan = float("nan")
        return Apart(nan, nan, nan, nan, nan, (0, 0))
    means = [mean_gain(np.where(one, y, np.nan)[both], keep_rows=keep_rows) for one in kinds]
    centres, errors = [one.mean for one in means], [one.standard_error for one in means]
    if root:
        centres = [math.sqrt(centre) for centre in centres]
        errors = [error / (2 * centre) if centre else 0.0 for error, centre in zip(errors, centres, strict=True)]
    difference, squares = centres[0] - centres[1], [error**2 for error in errors]
    total, half = sum(squares), sum(errors)  # NaN, or 0, where there is no more to be said
    if total > 0:
        degrees = total**2 / sum(square**2 / one.degrees for square, one in zip(squares, means, strict=True))
        quantile: Any = stdtrit(degrees, (1 + level) / 2)
        half = float(quantile) * math.sqrt(total)
    return Apart(centres[0], centres[1], difference, difference - half, difference + half, (means[0].clients, means[1].clients))
