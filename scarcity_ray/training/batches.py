"""Ragged minibatches of many clients: which rows each client uses at each step, with one gather per epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.randomness import hash64

_BLOCK_BYTES = 8 << 20  # largest block of steps that is gathered at once
_BLOCK_STEPS = 16  # epochs shorter than this share a block, which costs more than their rows
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Batch:
    """One step's minibatches of the first `a` clients of a task, padded to one width.

    x: `[a, width, *shape]`.
    y: `[a, width]` or `[a, width, outputs]`.
    weight: `[a, width]`, 1 / size for a client's own rows and 0 for padding: a weighted sum of losses is the mean over
    the minibatch.
    sizes: int64 `[a]`, rows of each minibatch without padding (they come first).
    step: number of this step, from 0.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    sizes: NDArray[np.int64]
    step: int

    @property
    def active(self) -> int:
        """Number of clients that still train: the first `a` of the task."""
        return self.x.shape[0]


@dataclass(frozen=True)
class Block:
    """Consecutive steps of a task as flat arrays of padded rows: step by step, client by client, row by row.

    y, weight: of each padded row, as in Batch.
    client, real: the client (0 .. k - 1) and the place of each row that is not padding, in the order of steps for each
    client.
    batches: one per step, views of the same memory.
    """

    y: Tensor
    weight: Tensor
    client: NDArray[np.int64]
    real: NDArray[np.int64]
    batches: list[Batch]


def padded_rows(rows: NDArray[Any], most: int) -> NDArray[np.int64]:
    """The number of rows that a client's own rows are padded to: at most `most`, else the next of eight sizes per octave
    (1..16, 18, 20, .. 32, 36, ..).

    It depends on the client alone: a client's products then have the same bits, whichever clients share its chunk.
    """
    rows = np.minimum(np.maximum(np.asarray(rows, dtype=np.int64), 1), most)
    if len(rows) == 0 or rows.min() == most:
        return rows
    grain = 2 ** np.maximum(np.ceil(np.log2(rows)).astype(np.int64) - 4, 0)
    padded: NDArray[np.int64] = np.minimum(-(-rows // grain) * grain, most)
    return padded


def gather(source: NDArray[Any], index: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
    """Rows of `source` (which may be read-only and shared), floats cast to `dtype`."""
    rows = torch.from_numpy(source).index_select(0, torch.from_numpy(index))
    return rows.to(dtype) if rows.is_floating_point() else rows


class BatchPlan:
    """Which rows k clients use, step by step: pure arithmetic on (seed, client, round, epoch, position).

    ids, starts, counts, steps: `[k]`, in descending order of steps. width: padded rows of a minibatch, the same for all k.
    """

    def __init__(
        self, seed: int, round: int, ids: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64],
        steps: NDArray[np.int64], batch_size: int, width: int,
    ) -> None:  # fmt: skip
        self.seed, self.round, self.ids, self.starts, self.counts, self.steps = seed, round, ids, starts, counts, steps
        self.batch_size, self.width = batch_size, width
        self.epoch_steps = np.maximum(-(-counts // batch_size), 1)

    def blocks(self, shards: Shards, dtype: torch.dtype) -> Iterator[Block]:
        """The minibatches, a block of steps at a time: some epochs of the client with the most steps, or as many as fit in a block."""
        if len(self.ids) == 0:
            return
        total = int(self.steps[0])
        row_bytes = shards.x[:1].nbytes or 4
        most = max(1, _BLOCK_BYTES // (row_bytes * self.width * len(self.ids)))
        epoch = int(self.epoch_steps.max())
        length = min(epoch * max(1, _BLOCK_STEPS // epoch), most)
        for first in range(0, total, length):
            yield self.block(first, min(first + length, total), shards, dtype)

    def block(self, first: int, last: int, shards: Shards, dtype: torch.dtype) -> Block:
        """The steps `first:last`."""
        index = _batch_index(self.counts.tobytes(), self.steps.tobytes(), self.batch_size, self.width, first, last)

        # The rows of an epoch are sorted by their hashes; the pair in the upper bits keeps epochs apart.
        root = hash64(self.seed, "batches", self.ids[index.who], self.round, index.epoch)
        keys = hash64(self.seed, "order", root[index.pair] + index.golden)
        order = np.argsort((keys >> index.bits) | index.pair_bits, kind="stable")
        row = (self.starts[index.who][index.pair] + index.place)[order]
        if index.used is not None:
            row = row[index.used]
        if len(row) == len(index.weight):
            rows = np.empty(len(row), dtype=np.int64)
        else:  # padding repeats the client's own first row: no client computes with another client's numbers
            rows = np.repeat(np.concatenate([self.starts[:a] for a in index.active]), self.width)
        rows[index.real] = row
        x, y, weights = gather(shards.x, rows, dtype), gather(shards.y, rows, dtype), torch.from_numpy(index.weight).to(dtype)
        split = [active * self.width for active in index.active]
        parts = zip(index.active, torch.split(x, split), torch.split(y, split), torch.split(weights, split), strict=True)
        batches = [
            Batch(xs.view(a, -1, *x.shape[1:]), ys.view(a, -1, *y.shape[1:]), ws.view(a, -1), index.sizes[t, :a], first + t)
            for t, (a, xs, ys, ws) in enumerate(parts)
        ]
        return Block(y, weights, index.client, index.real, batches)


@dataclass(frozen=True)
class BatchIndex:
    """The places of the rows of some steps. It depends only on the clients' numbers of rows and steps.

    A pair is a client and one of its epochs that overlaps these steps.

    who, epoch: client and epoch of each pair.
    pair, place: for each row of each pair, its pair and its position.
    golden, bits, pair_bits: parts of the sort key of a row.
    used: which of the sorted rows belong to these steps (None: all).
    real, client: place in the padded arrays, and client, of each of them.
    weight: of each padded row, 0 for padding.
    sizes: `[steps, k]`, rows of each minibatch.
    active: number of clients that train in each step.
    """

    who: NDArray[np.int64]
    epoch: NDArray[np.int64]
    pair: NDArray[np.int64]
    place: NDArray[np.int64]
    golden: NDArray[np.uint64]
    bits: np.uint64
    pair_bits: NDArray[np.uint64]
    used: NDArray[np.bool_] | None
    real: NDArray[np.int64]
    client: NDArray[np.int64]
    weight: NDArray[np.float64]
    sizes: NDArray[np.int64]
    active: list[int]


@lru_cache(maxsize=16)  # chunks of clients with equal numbers of rows share an entry, and so do epochs and rounds
def _batch_index(counts_bytes: bytes, steps_bytes: bytes, batch_size: int, width: int, first: int, last: int) -> BatchIndex:
    samples, taken = np.frombuffer(counts_bytes, dtype=np.int64), np.frombuffer(steps_bytes, dtype=np.int64)
    k, epoch_steps = len(samples), np.maximum(-(-samples // batch_size), 1)
    span = np.arange(first, last)
    active = np.searchsorted(-taken, -span)  # in descending order of steps, the clients with more than t of them come first
    offsets = np.concatenate([[0], np.cumsum(active) * width])

    lasts = np.minimum(taken, last)
    begin = first // epoch_steps
    epochs = np.maximum(-(-lasts // epoch_steps) - begin, 0)
    who = np.repeat(np.arange(k), epochs)
    epoch = np.arange(len(who)) - np.repeat(np.cumsum(epochs) - epochs - begin, epochs)
    counts = samples[who]
    pair = np.repeat(np.arange(len(who)), counts)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)

    # The row of rank r becomes row r % batch_size of step r // batch_size of its epoch.
    step, client, rank = (epoch * epoch_steps[who])[pair] + place // batch_size, who[pair], place
    used = (step >= first) & (step < lasts[client])
    whole = bool(used.all())
    if not whole:
        step, client, rank = step[used], client[used], rank[used]
    real = offsets[step - first] + client * width + rank % batch_size
    sizes = np.minimum(samples - span[:, None] % epoch_steps * batch_size, batch_size)
    weight = np.zeros(offsets[-1])
    weight[real] = 1.0 / sizes[step - first, client]
    bits = np.uint64(len(who).bit_length())
    pair_bits = pair.astype(np.uint64) << (np.uint64(64) - bits)
    golden = place.astype(np.uint64) * _GOLDEN
    return BatchIndex(
        who, epoch, pair, place, golden, bits, pair_bits, None if whole else used, real, client, weight, sizes, active.tolist()
    )
