"""Variances of clients' gains that borrow from each other, so that no client with few rows has one near 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def shrunk_variances(variances: ArrayLike, rows: ArrayLike) -> NDArray[np.float64]:
    """Variances of single rows `[clients]`, each moved towards the pooled one.

    variances: of single rows, `[clients]`, in the squared unit of the gain, with divisor rows - 1; what stands there for a
    client with one row, NaN included, is not read. rows: `[clients]`. Divide the result by the rows for the variance of
    a mean. NaN for a client without rows.

    Best linear credibility (Buehlmann and Gisler, A Course in Credibility Theory, 2005, section 4.3): the part kept of
    a client's own variance is the part that true differences between clients' variances have of its spread, where a
    normal sample variance with d degrees of freedom has the squared coefficient of variation 2 / d. It is at most
    d / (d + 2), so one row keeps nothing of its own, and 0 is only returned as the smallest positive number, where
    no row of any client differs.
    Raises ValueError where shapes differ, rows are negative, or a variance that is read is negative or not finite.
    """
    counts, own = np.asarray(rows, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if own.shape != counts.shape or own.ndim != 1:
        raise ValueError(f"variances {own.shape} and rows {counts.shape} must be [clients]")
    degrees = np.maximum(counts - 1, 0)
    read = degrees > 0
    if (counts < 0).any() or not np.isfinite(own[read]).all() or (own[read] < 0).any():
        raise ValueError("rows must be at least 0, and variances of two rows or more finite and at least 0")
    tiny = np.finfo(np.float64).tiny
    pooled = float(degrees[read] @ own[read] / degrees.sum()) if read.any() else 0.0
    result = np.where(counts > 0, max(pooled, tiny), np.nan)
    if pooled <= tiny:
        return result
    noise = np.where(read, 2 / np.maximum(degrees, 1), np.inf)
    spread = _relative_spread(own[read] / pooled, degrees[read], noise[read])
    kept = np.where(read, spread / (spread + np.where(read, noise, 1.0) * (1 + spread)), 0.0)
    return np.where(read, pooled + kept * (np.where(read, own, pooled) - pooled), result)


def _relative_spread(ratios: NDArray[np.float64], degrees: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """The squared coefficient of variation of clients' true variances, by moments, at least 0: E (ratio - 1)^2 is
    spread + noise (1 + spread)."""
    weights = degrees / degrees.sum()
    seen, expected = float(weights @ (ratios - 1) ** 2), float(weights @ noise)
    return max(0.0, (seen - expected) / (1 + expected))
