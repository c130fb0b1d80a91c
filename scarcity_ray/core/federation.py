"""The data of a federation: the rows of every client, one client after the other, and how a table became such rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.spec import Spec


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
        """The places of one client's rows."""
        return slice(int(self.starts[client]), int(self.starts[client + 1]))

    def only(self, clients: NDArray[np.int64]) -> Shards:
        """Shards with the same client ids, in which only `clients` keep their rows. The rows are copied."""
        counts = np.zeros(len(self.starts) - 1, dtype=np.int64)
        counts[clients] = self.counts[clients]
        chosen = np.repeat(counts > 0, self.counts)
        return Shards(self.x[chosen], self.y[chosen], np.concatenate([[0], np.cumsum(counts)]))

    def pooled(self) -> Shards:
        """The same rows as the shard of one virtual client."""
        return Shards(self.x, self.y, np.array([0, len(self.x)], dtype=np.int64))


class Scaled(Spec):
    """A column of numbers: one input, `(column ** power - mean) / std`, 0 where the row lacks a value."""

    kind: str
    name: Annotated[str, Field(description="the column")]
    power: Annotated[int, Field(ge=1, description="power of the raw column")] = 1
    mean: Annotated[float, Field(description="mean over the participants' training rows, a float32")]
    std: Annotated[float, Field(gt=0, description="standard deviation over the same rows, a float32")]


class Number(Scaled):
    """A numeric column."""

    kind: Literal["number"] = "number"


class YesNo(Scaled):
    """A text column of yes and no (or y and n, true and false), in any case: 1 and 0."""

    kind: Literal["yes_no"] = "yes_no"


class Date(Scaled):
    """A column of dates: days, with their fraction, since a first one."""

    kind: Literal["date"] = "date"
    since: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$", description="the date that is day 0")]


class Missing(Spec):
    """An input that is 1 where a row lacks the value of a column."""

    kind: Literal["missing"] = "missing"
    name: Annotated[str, Field(description="the column")]


class Words(Spec):
    """A text column: an input for each word, 1 where the row has it."""

    kind: Literal["text"] = "text"
    name: Annotated[str, Field(description="the column")]
    words: Annotated[tuple[str, ...], Field(strict=False, description="the words in the participants' rows, in the order of the inputs")]


class WordsOrNone(Words):
    """A text column whose last word is that of rows without one."""

    kind: Literal["text_or_none"] = "text_or_none"  # type: ignore[assignment]


AnyInput = Annotated[Number | YesNo | Date | Missing | Words | WordsOrNone, Field(discriminator="kind")]


class Array(Spec):
    """Columns `x0 .. x{n - 1}` that together are one array. Their values are used unchanged."""

    kind: Literal["array"] = "array"
    shape: Annotated[tuple[int, ...], Field(strict=False, description="shape of one input")]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in row-major order: the array's last axis changes fastest."""
        return tuple(f"x{place}" for place in range(math.prod(self.shape)))


class Encoding(Spec):
    """How a table becomes inputs and targets. A saved run needs it to read new rows in the way it read its own.

    Hidden groups (`data.transforms`) are not part of it. A target in the user's unit is `y * label_scale + label_mean`.
    """

    inputs: Annotated[
        Annotated[tuple[AnyInput, ...], Field(strict=False)] | Array,
        Field(description="the input columns, in order"),
    ]
    label: Annotated[str, Field(description="the column to predict")] = "y"
    classes: Annotated[
        Annotated[tuple[bool, ...], Field(strict=False)]
        | Annotated[tuple[int, ...], Field(strict=False)]
        | Annotated[tuple[str, ...], Field(strict=False)]
        | None,
        Field(description="the values of class 0, 1, ... in the table; null for a regression"),
    ] = None
    label_mean: Annotated[float, Field(description="a regression target of 0, in the user's unit")] = 0.0
    label_scale: Annotated[float, Field(gt=0, description="one unit of a regression target, in the user's unit")] = 1.0
    client: Annotated[str | None, Field(description="the column that names each row's client, if clients come from a column")] = None
    clients: Annotated[tuple[str, ...] | None, Field(strict=False, description="the participants' names in it, by client id")] = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the inputs are made from, each once."""
        return self.inputs.names if isinstance(self.inputs, Array) else tuple(dict.fromkeys(column.name for column in self.inputs))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        if isinstance(self.inputs, Array):
            return self.inputs.shape
        return (sum(len(column.words) if isinstance(column, Words) else 1 for column in self.inputs),)


def _no_clients() -> Shards:
    return Shards(np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64))


@dataclass(frozen=True)
class Spans:
    """When clients are there: those of client i are rows starts[i] to starts[i + 1] of begin and end, int64 microseconds, which rise and
    do not overlap."""

    starts: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


@dataclass(frozen=True)
class Federation:
    """What the clients of one run hold.

    train, validation, test: the three parts of each client's own rows.
    group: int64 `[clients]`, the hidden group of each client, from a transform or from the data; 0 if there are no groups.
    outputs: number of classes, or targets of a row.
    label_scale: one unit of a standardised regression target in the user's unit; 1.0 otherwise.
    uplink_bytes, downlink_bytes: int64 `[clients]`, bytes each client sent and received, once, to prepare the data
    (summed moments, categories).
    encoding: how the rows were read; None for rows that came as arrays.
    unseen: all rows of the unseen clients, which were held out: none of the fields above contains them. Empty if no
    client was held out. unseen_group: int64 `[unseen clients]`, their hidden groups.
    later: the data of the same clients from round `drift_round` on; None if they do not change.
    facts: float64 `[clients]` by name, columns of the table that say something of a client, as its device's speed. spans: when clients are
    there, by a trace; None without one. written: how the user's text file is written, where that is not the usual way.
    notes: what a user should know of the rows, a sentence each: what was left out, what may mislead. absent: names of those of the data's
    own clients that take no part.
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
    encoding: Encoding | None = None
    unseen: Shards = field(default_factory=_no_clients)
    unseen_group: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    later: Federation | None = None
    drift_round: int | None = None
    facts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    spans: Spans | None = None
    written: str = ""
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def at(self, round: int) -> Federation:
        """The data of the clients in a round."""
        return self if self.later is None or self.drift_round is None or round < self.drift_round else self.later

    @property
    def names(self) -> tuple[str, ...] | None:
        """The clients' names in the user's table; None if they have none."""
        return None if self.encoding is None else self.encoding.clients

    def own_names(self, clients: NDArray[np.int64]) -> NDArray[np.object_] | None:
        """The names of clients `[k]` in the user's table, `[k]`; None if they have none."""
        return None if self.names is None else np.array(self.names, dtype=object)[clients]

    def called(self, client: int | None, population: int) -> str:
        """What messages call a client of a strategy: its name in the user's table, or else its id.

        population: the number of the strategy's clients. Where it is another one than the federation's, the strategy has made clients
        of its own, which have no names.
        """
        if self.names is None or population != self.clients or client is None or not 0 <= client < self.clients:
            return str(client)
        return self.names[client]

    @property
    def clients(self) -> int:
        """Number of clients; their ids are 0 .. clients - 1."""
        return len(self.group)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.x.shape[1:]
