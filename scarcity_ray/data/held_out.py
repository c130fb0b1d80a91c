"""Which clients take part, and which are unseen: they never take part, and the models of the others are tested on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError


def participants(clients: int, held_out: float) -> int:
    """Number of participants among `clients` if a share of them is held out. The share is rounded half up, to at least 1 client.

    Raises SpecError if fewer than 2 participants would remain.
    """
    if not held_out:
        return clients
    unseen = max(1, math.floor(clients * held_out + 0.5 + 1e-9))  # the small term as in split_sizes
    remaining = clients - unseen
    if remaining < 2:
        raise SpecError(
            ("data", "held_out_clients"),
            held_out,
            f"it holds out {unseen:,} of {clients:,} clients, and {remaining:,} would take part; a federation needs at least 2",
        )
    return remaining


def participants_first(ids: NDArray[np.int64], remaining: int, seed: int) -> NDArray[np.int64]:
    """The ids `[clients]` in another order: first the `remaining` participants, then the unseen clients, each in ascending order.

    A hash of the seed and the id decides.
    """
    drawn = ids[np.argsort(hash64(seed, "held out", ids), kind="stable")]
    unseen = len(ids) - remaining
    return np.concatenate([np.sort(drawn[unseen:]), np.sort(drawn[:unseen])]).astype(np.int64)


def some_of(ids: NDArray[np.int64], wanted: int, seed: int) -> NDArray[np.int64]:
    """`wanted` of the clients `ids`, ascending, by a hash of the seed and the id: a larger number adds clients to those of a smaller one.

    Raises SpecError where there are fewer.
    """
    if wanted > len(ids):
        raise SpecError(("data", "participants"), wanted, f"there are {len(ids):,} clients to take from; allowed: at most that many")
    return np.sort(ids[np.argsort(hash64(seed, "participants", ids), kind="stable")[:wanted]])
