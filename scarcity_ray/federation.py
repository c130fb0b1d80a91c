"""The data of a federation once dealt: every client's rows, one client after the other, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shards:
    """Rows of many clients. Client m's rows are `starts[m]:starts[m + 1]`.

    x: float32 `[rows, *shape]`. y: int64 `[rows]` (classes) or float32 `[rows, outputs]` (targets).
    starts: int64 `[clients + 1]`, rising, from 0 to rows. The arrays may be read-only.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    starts: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each client, `[clients]`."""
        return np.diff(self.starts)

    def rows(self, client: int) -> slice:
        """Where one client's rows lie."""
        return slice(int(self.starts[client]), int(self.starts[client + 1]))

    def only(self, clients: NDArray[np.int64]) -> Shards:
        """The same clients, of which only these have rows. A copy of their rows; ids stay."""
        counts = np.zeros(len(self.starts) - 1, dtype=np.int64)
        counts[clients] = self.counts[clients]
        chosen = np.repeat(counts > 0, self.counts)
        return Shards(self.x[chosen], self.y[chosen], np.concatenate([[0], np.cumsum(counts)]))

    def pooled(self) -> Shards:
        """The same rows as the shard of one virtual client."""
        return Shards(self.x, self.y, np.array([0, len(self.x)], dtype=np.int64))


@dataclass(frozen=True)
class Federation:
    """What the clients of one run hold.

    train, validation, test: the three parts of each client's own rows. group: int64 `[clients]`, the hidden group a
    transform or the data put a client in (0 where there is none). outputs: classes, or targets a row. label_scale:
    what one unit of a (standardised) regression target is in the user's unit; 1.0 otherwise. uplink_bytes,
    downlink_bytes: int64 `[clients]`, what preparing the data cost each client (summed moments, categories), once.
    names: the client's name in the user's table, where there is one.
    """

    train: Shards
    validation: Shards
    test: Shards
    group: NDArray[np.int64]
    task: Literal["classification", "regression"]
    outputs: int
    label_scale: float
    uplink_bytes: NDArray[np.int64]
    downlink_bytes: NDArray[np.int64]
    names: tuple[str, ...] | None = None

    @property
    def clients(self) -> int:
        """How many clients there are; ids are 0 .. clients - 1."""
        return len(self.group)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.x.shape[1:]
