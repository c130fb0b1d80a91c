"""Which clients are trained at once. Chunks depend on the bytes of the clients' data, never on a measured time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import Shards
from scarcity_ray.training.batches import padded_rows
from scarcity_ray.training.problem import Problem

_BYTES = 7 << 20  # parameters and rows of a chunk: they stay in the cache during all its steps
_MAX_CLIENTS = 64  # more clients in a chunk bring no further speed


def chunks(problem: Problem, shards: Shards, ids: NDArray[np.int64], steps: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cuts the clients `ids` with local `steps` into chunks, the most work first.

    A chunk lists its clients in descending order of steps (ties by id); all their minibatches have the same number of
    padded rows.
    """
    ids, steps = np.asarray(ids, dtype=np.int64), np.asarray(steps, dtype=np.int64)
    counts = shards.starts[ids + 1] - shards.starts[ids]
    widths = padded_rows(counts, problem.local.batch_size)
    order = np.lexsort((ids, -steps, -widths * np.maximum(steps, 1), -widths))
    row_bytes = int(np.prod(problem.shape, dtype=np.int64)) * 4
    size = problem.layout.width * 4 + np.minimum(counts, widths * np.maximum(steps, 1)) * row_bytes
    result: list[NDArray[np.int64]] = []
    first = 0
    while first < len(order):
        same = order[first : first + _MAX_CLIENTS]
        same = same[widths[same] == widths[same[0]]]
        fits = max(int(np.searchsorted(np.cumsum(size[same]), _BYTES, side="right")), 1)
        result.append(ids[same[:fits]])
        first += fits
    return result
