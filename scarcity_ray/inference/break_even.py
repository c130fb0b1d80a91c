"""How large a client must be for federating to bring it nothing: where a line of gains over the logarithm of rows meets a margin."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

FEWEST = 10
"""Clients, and three sizes among them; of fewer a line says nothing."""

_SIZES = 3


class BreakEven(NamedTuple):
    """slope, slope_low, slope_high: what twice the rows add to a gain, with its interval. at_fewest, at_most: the line at the fewest and
    at the most rows. rows, low, high: the rows at which the line is at the margin, with their interval; all NaN where the slope's holds 0,
    as the line then meets it nowhere in particular. low may be below the fewest rows, and high above the most."""

    slope: float
    slope_low: float
    slope_high: float
    at_fewest: float
    at_most: float
    rows: float
    low: float
    high: float


def break_even(rows: ArrayLike, gains: ArrayLike, *, margin: float = 0.0, level: float = 0.95) -> BreakEven | None:
    """The line by least squares through clients' gains over the binary logarithm of their rows, and where it is at the margin.

    rows, gains: `[clients]`, training rows (those without any are left out) and gains measured on a client's own test rows; a gain that is
    pulled to the mean of all would make the line too flat. Errors are those of HC3 (MacKinnon and White, Journal of Econometrics 29, 1985),
    as small clients' gains scatter more; the interval of the crossing is Fieller's (Journal of the Royal Statistical Society B 16, 1954),
    with Student's t. None for fewer than ten clients or three sizes.
    """
    size, gain = np.asarray(rows, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    known = (size > 0) & np.isfinite(gain)
    x, y = np.log2(size[known]), gain[known] - margin
    if len(x) < FEWEST or len(np.unique(x)) < _SIZES:
        return None
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    a, b = inverse @ design.T @ y
    hat = np.einsum("ij,jk,ik->i", design, inverse, design)
    left = (y - a - b * x) / np.maximum(1.0 - hat, 1e-12)
    covariance = inverse @ ((design.T * left**2) @ design) @ inverse
    t = float(stats.t.ppf(0.5 + level / 2, len(x) - 2))
    half = t * math.sqrt(covariance[1, 1])
    low, high = _fieller(float(a), float(b), covariance, t) if abs(b) > half else (math.nan, math.nan)
    crossing = -float(a) / float(b) if math.isfinite(low) else math.nan
    first, last = (float(margin + a + b * place) for place in (x.min(), x.max()))
    return BreakEven(float(b), float(b - half), float(b + half), first, last, _rows(crossing), _rows(low), _rows(high))


def _fieller(a: float, b: float, covariance: np.ndarray[tuple[int, ...], np.dtype[np.float64]], t: float) -> tuple[float, float]:
    """The x for which a + b x is not surely other than 0: between the roots of (a + b x)^2 = t^2 var(a + b x). b is surely not 0."""
    c2, c1, c0 = b**2 - t**2 * covariance[1, 1], a * b - t**2 * covariance[0, 1], a**2 - t**2 * covariance[0, 0]
    root = math.sqrt(max(c1**2 - c2 * c0, 0.0))
    return float((-c1 - root) / c2), float((-c1 + root) / c2)


def _rows(x: float) -> float:
    """Rows of a binary logarithm; infinite beyond what a float holds."""
    return math.inf if x > 1000 else 2.0**x
