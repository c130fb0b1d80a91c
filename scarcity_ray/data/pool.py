"""The result of a source: all rows together, before they are dealt to clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.spec import SpecError

Task = Literal["classification", "regression"]
Classes = tuple[bool, ...] | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Categorical:
    """A text column. codes: int32 `[rows]`, places in `words`; -1 for a word that is not among them. lacking: the last word is that of rows
    without one."""

    codes: NDArray[np.int32]
    words: tuple[str, ...]
    lacking: bool = False


Column = NDArray[np.float64] | Categorical


@dataclass(frozen=True)
class Pool:
    """All rows of a source.

    x: the final inputs, float32 `[rows, *shape]`; or columns, which the clients will standardise together.
    y: int64 `[rows]` classes; or `[rows, 1]` targets (float64 if x is columns, else float32).
    outputs: number of classes, or targets of a row.
    owner: int64 `[rows]`, the client of each row, if the source has its own clients.
    names: the clients' names, if they have names. group: int64 `[clients]`, if they have groups. facts: float64 `[clients]` by name,
    columns that say something of a client.

    Names in the user's table:
    inputs: (name, power) of each column of `x`. label: the label's column. classes: the values of the classes, if they are
    not 0 .. outputs - 1. client: the column that `names` come from. written: how a text file is written, where that is not the usual way.
    notes: what a user should know of how the rows were read, a sentence each. beside: columns `[rows]` that are read beside the features,
    by what they are read for. yes_no: columns of x in which yes is 1 and no is 0. dates: columns of days since a date, and that date.
    indicators: NaN in a column of x is a missing value, which gets an input of its own.
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
    facts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    written: str = ""
    notes: tuple[str, ...] = ()
    beside: Mapping[str, Column] = field(default_factory=dict)
    yes_no: tuple[str, ...] = ()
    dates: Mapping[str, str] = field(default_factory=dict)
    indicators: bool = False

    @property
    def owners(self) -> int | None:
        """Number of the source's own clients; None if it has none."""
        return None if self.owner is None else int(self.owner.max()) + 1


def refuse_too_large(field: tuple[str | int, ...], value: Any, rows: int, width: int) -> None:
    """Raises SpecError if `rows` x `width` float32 inputs exceed the machine's memory. Dealing needs them twice in memory."""
    needed = 2 * 4 * rows * width
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise SpecError(
            field,
            value,
            f"{rows:,} rows of {width:,} numbers, twice in memory while they are dealt, take {needed / 2**30:,.1f} GiB; "
            f"this machine has {memory / 2**30:,.1f} GiB",
        )
