"""The rows by which settings are chosen: a federation whose test rows are validation rows, so that no search can see the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.randomness import hash64
from scarcity_ray.data.split import TEST, TRAIN, split

FEWEST = 5
"""Validation rows of a client below which they choose by chance."""

FOLDS = 3
_SHARE = 0.25  # of a client's training and validation rows, that judge in a fold


def judged(federation: Federation, seed: int, *, inner: bool = True) -> list[Federation]:
    """The federations that a setting is judged on: the mean over them counts. Their test rows are validation rows, and nothing in them
    holds a test row.

    Where every client has 5 validation rows, one: the federation's own. Else three, in which a quarter of each client's training and
    validation rows judge, drawn by the seed; the standardisation of inputs is that of all training rows. inner: false for the first in
    any case, where rows are not split by chance.
    """
    if not inner or int(federation.validation.counts.min()) >= FEWEST:
        return [_without_tests(federation, federation.train, federation.validation)]
    together, clients = _together(federation.train, federation.validation), np.arange(federation.clients)
    found = []
    for fold in range(FOLDS):
        own = int(hash64(seed, "inner fold", fold)) >> 1
        part = split(together.counts, clients, _SHARE, 0.0, own)
        found.append(_without_tests(federation, _part(together, part == TRAIN), _part(together, part == TEST)))
    return found


def _without_tests(federation: Federation, train: Shards, judging: Shards) -> Federation:
    """Drift is left out: the later data hold test rows too."""
    nobody, none = np.zeros(1, dtype=np.int64), np.zeros(federation.clients + 1, dtype=np.int64)
    unseen = Shards(train.x[:0], train.y[:0], nobody)
    return replace(
        federation,
        train=train,
        validation=Shards(train.x[:0], train.y[:0], none),
        test=judging,
        unseen=unseen,
        unseen_group=federation.unseen_group[:0],
        later=None,
        drift_round=None,
    )


def _together(one: Shards, other: Shards) -> Shards:
    """The rows of both, client after client."""
    counts = one.counts + other.counts
    owner = np.concatenate([np.repeat(np.arange(len(part.counts)), part.counts) for part in (one, other)])
    order = np.argsort(owner, kind="stable")
    return Shards(np.concatenate([one.x, other.x])[order], np.concatenate([one.y, other.y])[order], _starts(counts))


def _part(shards: Shards, rows: NDArray[np.bool_]) -> Shards:
    owner = np.repeat(np.arange(len(shards.counts)), shards.counts)[rows]
    return Shards(shards.x[rows], shards.y[rows], _starts(np.bincount(owner, minlength=len(shards.counts))))


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
