"""Ragged minibatches of many clients: which rows each client meets at each step, and one gather an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.federation import Shards
from scarcity_ray.randomness import hash64

_BLOCK_BYTES = 8 << 20  # a block of steps is gathered at once; past this, in parts
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Batch:
    """One step's minibatches of the first `a` clients of a task, padded to one width.

    x: `[a, width, *shape]`. y: `[a, width]` or `[a, width, outputs]`. weight: `[a, width]`, 1 / size for a client's
    own rows and 0 for padding, so that a weighted sum of losses is the mean over the minibatch. sizes: int64 `[a]`,
    true rows (they come first). step: number of this step, from 0.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    sizes: NDArray[np.int64]
    step: int

    @property
    def active(self) -> int:
        """How many clients still train: the first `a` of the task."""
        return self.x.shape[0]


@dataclass(frozen=True)
class Block:
    """Consecutive steps of a task, as flat slots: step by step, client by client, row by row.

    y, weight: of each slot, as in Batch. client: which client (0 .. k - 1) has each slot that is no padding, and `real`
    where those slots are: in the order of steps for each client. batches: one a step, views of the same memory.
    """

    y: Tensor
    weight: Tensor
    client: NDArray[np.int64]
    real: NDArray[np.int64]
    batches: list[Batch]


def padded_rows(rows: NDArray[Any], most: int) -> NDArray[np.int64]:
    """To how many rows a client's own are padded: a function of the client alone, so that products have the same bits
    in any company. At most `most`, else the next of eight sizes an octave (1..16, 18, 20, .. 32, 36, ..)."""
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


class Plan:
    """Which rows k clients meet, step by step: pure arithmetic on (seed, client, round, epoch, position).

    ids, starts, counts, steps: `[k]`, steps falling. width: rows a minibatch is padded to, the same for all k.
    """

    def __init__(
        self, seed: int, round: int, ids: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64],
        steps: NDArray[np.int64], batch_size: int, width: int,
    ) -> None:  # fmt: skip
        self.seed, self.round, self.ids, self.starts, self.counts, self.steps = seed, round, ids, starts, counts, steps
        self.batch_size, self.width = batch_size, width
        self.epoch_steps = np.maximum(-(-counts // batch_size), 1)

    def blocks(self, shards: Shards, dtype: torch.dtype) -> Iterator[Block]:
        """The minibatches, a block of steps at a time: about an epoch of the longest client, less where rows are many."""
        if len(self.ids) == 0:
            return
        total = int(self.steps[0])
        row_bytes = shards.x[:1].nbytes or 4
        most = max(1, _BLOCK_BYTES // (row_bytes * self.width * len(self.ids)))
        length = min(int(self.epoch_steps.max()), most)
        for first in range(0, total, length):
            yield self.block(first, min(first + length, total), shards, dtype)

    def block(self, first: int, last: int, shards: Shards, dtype: torch.dtype) -> Block:
        """The steps `first:last`."""
        width, batch_size, k = self.width, self.batch_size, len(self.ids)
        span = np.arange(first, last)
        active = np.searchsorted(-self.steps, -span)  # steps fall: the clients with more than t of them come first
        offsets = np.concatenate([[0], np.cumsum(active) * width])

        # Each (client, epoch) that meets these steps, then each row of each: its pair, and its position in the shard.
        lasts = np.minimum(self.steps, last)
        begin = first // self.epoch_steps
        epochs = np.maximum(-(-lasts // self.epoch_steps) - begin, 0)
        who = np.repeat(np.arange(k), epochs)
        epoch = np.arange(len(who)) - np.repeat(np.cumsum(epochs) - epochs - begin, epochs)
        counts = self.counts[who]
        pair = np.repeat(np.arange(len(who)), counts)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)

        # An epoch's order is that of its rows' hashes; the pair in the upper bits keeps the epochs apart.
        root = hash64(self.seed, "batches", self.ids[who], self.round, epoch)
        keys = hash64(self.seed, "order", root[pair] + place.astype(np.uint64) * _GOLDEN)
        bits = np.uint64(len(who).bit_length())
        order = np.argsort((keys >> bits) | (pair.astype(np.uint64) << (np.uint64(64) - bits)), kind="stable")

        # The row of rank r goes to slot r % batch_size of step r // batch_size of its epoch.
        step = (epoch * self.epoch_steps[who])[pair] + place // batch_size
        client, row = who[pair], (self.starts[who][pair] + place)[order]
        here = (step >= first) & (step < lasts[client])
        if not here.all():
            step, client, row, place = step[here], client[here], row[here], place[here]
        real = offsets[step - first] + client * width + place % batch_size
        sizes = np.minimum(self.counts - span[:, None] % self.epoch_steps * batch_size, batch_size)
        weight = np.zeros(offsets[-1])
        weight[real] = 1.0 / sizes[step - first, client]
        if len(row) == len(weight):
            index = np.empty(len(weight), dtype=np.int64)
        else:  # padding is the client's own first row, so that no client's numbers ever meet another's
            index = np.repeat(np.concatenate([self.starts[:a] for a in active]), width)
        index[real] = row
        x, y, weights = gather(shards.x, index, dtype), gather(shards.y, index, dtype), torch.from_numpy(weight).to(dtype)
        split = (active * width).tolist()
        parts = zip(active.tolist(), torch.split(x, split), torch.split(y, split), torch.split(weights, split), strict=True)
        batches = [
            Batch(xs.view(a, width, *x.shape[1:]), ys.view(a, width, *y.shape[1:]), ws.view(a, width), sizes[t, :a], first + t)
            for t, (a, xs, ys, ws) in enumerate(parts)
        ]
        return Block(y, weights, client, real, batches)
