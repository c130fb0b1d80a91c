"""What scarcity makes of a federation: few training rows, and the spans of a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.randomness import hash64
from scarcity_ray.scarcity.availability import Trace
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.traces import read_trace


def scarce(spec: Scarcity, federation: Federation, seed: int, base_dir: Path) -> Federation:
    """The federation with the training rows that clients may use, and the spans of a trace. Raises SpecError for a bad trace."""
    if spec.samples is not None:
        federation = fewer(federation, spec.samples.maximum, seed)
    if isinstance(spec.availability, Trace):
        names = federation.names or [str(client) for client in range(federation.clients)]
        federation = replace(federation, spans=read_trace(spec.availability.path, base_dir, names, federation.absent))
    return federation


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
