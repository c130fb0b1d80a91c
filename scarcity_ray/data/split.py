"""Splits each client's own rows into training, validation and test rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64

TRAIN, VALIDATION, TEST = 0, 1, 2


def split_sizes(counts: NDArray[np.int64], test_fraction: float, validation_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of test and validation rows of clients with `counts` rows: the fractions of each, rounded half up.

    A client keeps at least one training row. If rounding leaves none, the validation part is reduced first, then the test part.
    """
    # in floating point a half such as .29 x 50 can come out slightly lower: the small term corrects this
    test, validation = (np.floor(counts * fraction + 0.5 + 1e-9).astype(np.int64) for fraction in (test_fraction, validation_fraction))
    test = np.minimum(test, counts - 1)
    return test, np.minimum(validation, counts - 1 - test)


def split(
    counts: NDArray[np.int64], ids: NDArray[np.int64], test_fraction: float, validation_fraction: float, seed: int
) -> NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each row, `[rows]`, of clients `ids` with `counts` rows, one client after the other.

    A client's split depends on the seed, its id and its number of rows alone.
    """
    part = np.full(int(counts.sum()), TRAIN, dtype=np.int8)
    test, validation = split_sizes(counts, test_fraction, validation_fraction)
    if not (test.any() or validation.any()):
        return part
    client = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.lexsort((hash64(seed, "split", ids[client], place), client))  # each client's rows in random order
    part[drawn[place < (test + validation)[client]]] = VALIDATION
    part[drawn[place < test[client]]] = TEST
    return part
