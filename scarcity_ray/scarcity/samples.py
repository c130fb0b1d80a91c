"""Few training rows: what is left of each client's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.randomness import hash64


def fewer(federation: Federation, most: int, seed: int) -> Federation:
    """The federation in which each client has at most so many training rows: a sample by the seed and its id, nested for rising `most`."""
    later = None if federation.later is None else fewer(federation.later, most, seed)
    return replace(federation, train=_sampled(federation.train, most, seed), later=later)


def _sampled(train: Shards, most: int, seed: int) -> Shards:
    counts = train.counts
    client = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(client)) - train.starts[client]
    order = np.lexsort((hash64(seed, "scarce samples", client, place), client))  # each client's rows together, as they were, in hash order
    kept = np.sort(order[place < most])
    return Shards(train.x[kept], train.y[kept], np.concatenate([[0], np.cumsum(np.minimum(counts, most))]).astype(np.int64))
