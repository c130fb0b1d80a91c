"""Round numbers on an axis, few of them (Wilkinson, The Grammar of Graphics, 2005: steps of 1, 2 and 5)."""

from __future__ import annotations

import math
from typing import NamedTuple


class Ticks(NamedTuple):
    """Values, rising, and what is written beside each."""

    values: list[float]
    labels: list[str]


def linear_ticks(low: float, high: float, most: int = 6, whole: bool = False) -> Ticks:
    """At most so many multiples of 1, 2 or 5 times a power of ten from low to high. whole: whole numbers only."""
    if not high > low:
        return Ticks([low], [f"{low:g}"])
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(times for times in (1, 2, 5, 10, 20) if (high - low) / (times * step) <= most)
    if whole:
        step = max(step, 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [place * step for place in range(first, last + 1)]
    return Ticks(values, [f"{value + 0.0:,.{decimals}f}" for value in values])


def log_ticks(low: float, high: float, most: int = 6) -> Ticks:
    """Powers of ten from low to high, with 2 and 5 times them, or 3 times, where these are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for times in ((1, 2, 5), (1, 3), (1,)):
        values = [one * 10.0**power for power in range(first, last + 1) for one in times]
        values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(values) <= most:
            break
    else:
        values = values[:: math.ceil(len(values) / most)]
    if len(values) < 3:  # less than a decade
        return linear_ticks(low, high, 4)
    return Ticks(values, [f"{value:,.10g}" for value in values])
