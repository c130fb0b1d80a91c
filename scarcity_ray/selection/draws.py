"""Draws without replacement, by a hash of (seed, purpose, client, round)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import unit
from scarcity_ray.core.selection import Candidates, Floats


def drawn_by(candidates: Candidates, chances: Floats, count: int, purpose: str) -> NDArray[np.int64]:
    """Places of `count` candidates at most, drawn one after the other with chances proportional to `chances [n]`; none of those with 0.

    The highest `log(u) / chance` are drawn (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    possible = np.flatnonzero(chances > 0)
    keys = np.log(unit(candidates.seed, purpose, candidates.ids[possible], candidates.round)) / chances[possible]
    drawn: NDArray[np.int64] = possible[np.argsort(-keys, kind="stable")[:count]]
    return drawn
