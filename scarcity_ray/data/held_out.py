"""Which clients never take part: strangers, on whom what the others learnt is tested."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError


def participants(clients: int, held_out: float) -> int:
    """How many of so many clients take part where a share of them is held out: the share rounded half up, at least 1.

    Raises SpecError where fewer than 2 would be left.
    """
    if not held_out:
        return clients
    leaving = max(1, math.floor(clients * held_out + 0.5 + 1e-9))  # the small term as in split_sizes
    staying = clients - leaving
    if staying < 2:
        raise SpecError(
            ("data", "held_out_clients"),
            held_out,
            f"it holds out {leaving:,} of {clients:,} clients, and {staying:,} would take part; a federation has at least 2",
        )
    return staying


def participants_first(clients: int, staying: int, seed: int) -> NDArray[np.int64]:
    """All ids, `[clients]`: first those who take part, rising, then those held out, rising. A hash of seed and id decides."""
    drawn = np.argsort(hash64(seed, "held out", np.arange(clients)), kind="stable")
    leaving = clients - staying
    return np.concatenate([np.sort(drawn[leaving:]), np.sort(drawn[:leaving])]).astype(np.int64)
