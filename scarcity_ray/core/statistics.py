"""Numbers about many clients at once: means, worst deciles and comparisons, each with what it divides by."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _with_rows(values: ArrayLike, rows: ArrayLike | None) -> NDArray[np.float64]:
    chosen = np.asarray(values, dtype=np.float64)
    return chosen if rows is None else chosen[np.asarray(rows) > 0]


def mean(values: ArrayLike, rows: ArrayLike | None = None) -> float:
    """The sum over clients with rows, divided by the number of these clients: every client counts the same.

    values `[clients]`, rows `[clients]` (all have some if left out). NaN if no client has rows.
    """
    chosen = _with_rows(values, rows)
    return float(chosen.mean()) if len(chosen) else float("nan")


def worst_decile(values: ArrayLike, higher_is_better: bool, rows: ArrayLike | None = None) -> float:
    """The mean of the worst `max(1, n // 10)` of the n clients with rows: lowest if higher is better, else highest.

    values `[clients]`, rows as for `mean`. NaN if no client has rows, or if a value is not a number.
    """
    chosen = np.sort(_with_rows(values, rows))
    if not len(chosen) or np.isnan(chosen).any():
        return float("nan")
    tail = max(1, len(chosen) // 10)
    return float((chosen[:tail] if higher_is_better else chosen[-tail:]).mean())


def pooled(values: ArrayLike, rows: ArrayLike) -> float:
    """The mean over rows: each client's mean weighted by its number of rows, divided by all rows. NaN without rows."""
    weights = np.asarray(rows, dtype=np.float64)
    present = weights > 0
    total = weights.sum()
    return float((weights[present] * np.asarray(values, dtype=np.float64)[present]).sum() / total) if total else float("nan")


def root(squared_error: float) -> float:
    """Root mean square error, in the label's unit, of a mean squared error."""
    return float(np.sqrt(squared_error))


class Shares(NamedTuple):
    """How many clients a strategy leaves better off, as well off and worse off: shares of the compared clients, summing to 1."""

    better: float
    equal: float
    worse: float


def shares(values: ArrayLike, alone: ArrayLike, higher_is_better: bool) -> Shares | None:
    """Each client's metric against the same client's alone, both `[clients]`.

    Divides by the clients whose metric alone is a number (those with rows); None if there is none. A client whose model
    gives no number is worse off.
    """
    reference = np.asarray(alone, dtype=np.float64)
    known = ~np.isnan(reference)
    if not known.any():
        return None
    gain = np.asarray(values, dtype=np.float64)[known] - reference[known]
    gain = np.where(np.isnan(gain), -np.inf, gain if higher_is_better else -gain)
    return Shares(float((gain > 0).mean()), float((gain == 0).mean()), float((gain < 0).mean()))


class Spread(NamedTuple):
    """Repeats in three numbers: their mean, standard deviation (n - 1), and half the width of the mean's 95 % t-interval."""

    mean: float
    std: float
    half_width: float


def spread(values: ArrayLike) -> Spread:
    """Mean, spread and interval over the seeds' values `[seeds]`; spread and interval are NaN for a single one.

    The interval is mean +- t(0.975, n - 1) std / sqrt(n), Student's.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return Spread(mean(sample), float("nan"), float("nan"))
    from scipy.special import stdtrit  # here, because actors import this module and need no SciPy

    std = float(sample.std(ddof=1))
    quantile: Any = stdtrit(len(sample) - 1, 0.975)
    return Spread(float(sample.mean()), std, float(quantile) * std / float(np.sqrt(len(sample))))
