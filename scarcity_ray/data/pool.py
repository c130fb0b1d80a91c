"""What a source hands over: all rows in one place, before they are dealt to clients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.spec import SpecError

Task = Literal["classification", "regression"]
Classes = tuple[bool, ...] | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Categorical:
    """A text column: `codes` int32 `[rows]` are places in `words`, or -1 for a word that is none of them."""

    codes: NDArray[np.int32]
    words: tuple[str, ...]


Column = NDArray[np.float64] | Categorical


@dataclass(frozen=True)
class Pool:
    """All rows of a source.

    x: the finished inputs, float32 `[rows, *shape]`, or columns that the clients still have to standardise together.
    y: int64 `[rows]` classes, or `[rows, 1]` targets (float64 beside columns, else float32). outputs: classes, or
    targets a row. owner: int64 `[rows]`, the client each row belongs to, where the source has clients of its own, with
    `names` where they have names and `group` `[clients]` where they have groups.
    How it is called in the user's table: inputs: (name, power) of each column of `x`; label; classes, where they are not
    0 .. outputs - 1; client: the column that `names` come from.
    """

    x: NDArray[np.float32] | tuple[Column, ...]
    y: NDArray[Any]
    task: Task
    outputs: int
    owner: NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None
    group: NDArray[np.int64] | None = None
    inputs: tuple[tuple[str, int], ...] = ()
    label: str = "y"
    classes: Classes | None = None
    client: str | None = None

    @property
    def owners(self) -> int | None:
        """How many clients the source has of its own; None where it has none."""
        return None if self.owner is None else int(self.owner.max()) + 1


def refuse_too_large(field: tuple[str | int, ...], value: Any, rows: int, width: int) -> None:
    """Raises SpecError where `rows` x `width` float32 inputs, held twice while they are dealt, exceed the machine's memory."""
    needed = 2 * 4 * rows * width
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise SpecError(
            field,
            value,
            f"{rows:,} rows of {width:,} numbers, held twice while they are dealt, take {needed / 2**30:,.1f} GiB; "
            f"this machine has {memory / 2**30:,.1f} GiB",
        )
