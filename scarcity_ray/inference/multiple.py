"""Several comparisons at once: how sure each is where any of them could have come out by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values `[comparisons]`: those up to 0.05 may be claimed together, with 5 % risk of any false claim.

    The k-th smallest of n is multiplied by n - k + 1, made monotone and held to at most 1 (Holm, Scandinavian Journal of
    Statistics 6, 1979). NaN stays NaN and does not count.
    Raises ValueError for anything but a list of numbers from 0 to 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    present = np.flatnonzero(~np.isnan(p))
    if p.ndim != 1 or (p[present] < 0).any() or (p[present] > 1).any():
        raise ValueError(f"p-values must be [comparisons], from 0 to 1, and are {p}")
    order = present[np.argsort(p[present], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted
