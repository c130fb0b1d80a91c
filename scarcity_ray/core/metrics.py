"""Metrics: what is measured on clients' rows, in statistics that merge.

Each actor measures its own clients, a block of rows at a time. A `Stat` collects what a metric needs of each client; Stats of other
clients, or of other rows of the same clients, merge into one, from which the value of each client and the value over all rows
follow. These are the three steps `update`, `merge` and `compute` of torchmetrics (Detlefsen et al., JOSS 7(70), 2022), with
`values` and `pooled` in place of `compute`, because one Stat answers for many clients.

A new metric is one class: derive it from `MeanMetric`, `SumMetric` or `RowMetric` and register it. Columns of the tables, entries of
summary.json, plots and the final table follow from the list `METRICS`. A process on another machine learns of a metric with the
`Problem`, so its class must be in a module that can be imported there.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.core import statistics

if TYPE_CHECKING:
    from torch import Tensor

WORST, POOLED, GLOBAL = "_worst_decile", "_pooled", "_global"
"""What a column adds to a metric's own: mean of the worst tenth of the clients, value over all rows, the global model's value."""

Ids = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """n rows of several clients, and a model's answers to them.

    client: int64 `[n]`, the client's place in `Stat.ids`. real: bool `[n]`, false where a row only fills the block; what a metric
    makes of it is dropped. outputs: `[n, outputs]`, log-probabilities of the classes, or residuals (prediction - target, in standard
    deviations of the label). y: int64 `[n]` classes, or `[n, outputs]` standardised targets. losses: `[n]`, see training.objective.
    """

    client: Ids
    real: NDArray[np.bool_]
    outputs: Tensor
    y: Tensor
    losses: Tensor


class Metric(ABC):
    """One number of a client's rows. Its class says what it is; an instance has no state and may be sent to any process.

    name: in columns, `test_NAME`. unit, description: of the column, for one client. tasks: where it applies. label_power: the value
    is in this power of the label's unit (2 for a squared error): values are measured in standard deviations of the label and
    multiplied by their size to that power. width: numbers of each row, c.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    description: ClassVar[str]
    higher_is_better: ClassVar[bool]
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    label_power: ClassVar[int] = 0
    width: ClassVar[int] = 1

    @property
    def column(self) -> str:
        """Its column in the tables and its key in summary.json."""
        return f"test_{self.name}"

    def applies(self, task: str, outputs: int) -> bool:
        """Whether it can be measured. outputs: classes, or targets a row."""
        return task in self.tasks

    @abstractmethod
    def per_row(self, block: Block) -> Tensor:
        """The numbers of each row, `[n]` or `[n, c]`, from that row alone."""

    @abstractmethod
    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """Empty statistics of clients `[k]`. scale: what one standard deviation of the label is in the user's unit."""


class SumMetric(Metric):
    """A function of c sums over rows, such as the counts in the bins of a calibration error."""

    @abstractmethod
    def value(self, sums: Values, counts: Ids) -> Values:
        """The values `[k]` from sums `[c, k]` and numbers of rows `[k]`. Where there are no rows, any value is ignored."""

    def is_defined(self, sums: Values, counts: Ids) -> NDArray[np.bool_]:
        """Which clients' rows have a value at all, `[k]`: the others are left out of means over clients. All, unless overridden."""
        return np.ones(len(counts), dtype=np.bool_)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """c sums and the number of rows of each client."""
        return SumStat(self, ids, scale)


class MeanMetric(SumMetric):
    """The mean of one number over rows."""

    def value(self, sums: Values, counts: Ids) -> Values:
        """Sums divided by numbers of rows."""
        return np.asarray(sums[0] / counts)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """Sums and numbers of rows."""
        return MeanStat(self, ids, scale)


class RowMetric(Metric):
    """A function of all rows together, such as a rank statistic. It costs 8 (c + 1) bytes a row, in each process and on the way."""

    @abstractmethod
    def value(self, rows: Values) -> float:
        """The value of n rows `[n, c]`, n > 0.

        Rows come in ascending order of their numbers, so a value has the same bits however they were distributed.
        """

    def is_defined(self, rows: Values) -> bool:
        """Whether rows `[n, c]`, n > 0, have a value at all: a client without is left out of means over clients. Always, unless
        overridden."""
        return True

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """Every row's c numbers."""
        return RowStat(self, ids, scale)


class Stat(ABC):
    """The statistics of a metric for k clients.

    ids: int64 `[k]`, the clients, each once. counts: int64 `[k]`, rows of each so far. scale: see `Metric.start`.
    """

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        self.metric, self.ids, self.scale = metric, np.asarray(ids, dtype=np.int64), scale
        self.counts = np.zeros(len(self.ids), dtype=np.int64)

    def update(self, block: Block) -> None:
        """Adds rows, each client's in the order in which they come."""
        client = block.client[block.real]
        numbers = self.metric.per_row(block).double().numpy()[block.real]
        np.add.at(self.counts, client, 1)
        self._add(client, numbers.reshape(len(numbers), -1))

    def values(self) -> Values:
        """Each client's value in the user's unit, `[k]`; NaN for a client whose rows have none."""
        found: Values = self._values() * self.scale**self.metric.label_power
        return found

    def pooled(self) -> float:
        """The value over all rows of all clients; NaN where they have none."""
        return self._pooled() * self.scale**self.metric.label_power if self.counts.any() else float("nan")

    def is_defined(self) -> NDArray[np.bool_]:
        """Which clients have a value, `[k]`: all with rows, unless the metric says otherwise. A value that is not a number although
        it is defined is that of a diverged model."""
        return (self.counts > 0) & self._defined()

    @staticmethod
    def merge(stats: Sequence[Stat]) -> Stat:
        """One Stat of all their clients, by ascending id. Rows of one client may be spread over several of them."""
        merged = stats[0].metric.start(np.unique(np.concatenate([stat.ids for stat in stats])), stats[0].scale)
        for stat in stats:
            places = np.searchsorted(merged.ids, stat.ids)
            merged.counts[places] += stat.counts
            merged._include(stat, places)
        return merged

    @abstractmethod
    def _add(self, client: Ids, numbers: Values) -> None:
        """Rows' numbers `[n, c]` of clients at places `[n]`."""

    @abstractmethod
    def _include(self, other: Stat, places: Ids) -> None:
        """The statistics of another one, whose clients are at these places here."""

    @abstractmethod
    def _defined(self) -> NDArray[np.bool_]: ...

    @abstractmethod
    def _values(self) -> Values: ...

    @abstractmethod
    def _pooled(self) -> float: ...


class SumStat(Stat):
    """Sums `[c, k]` over each client's rows, in float64, one row after the other: their bits do not depend on how rows were cut."""

    metric: SumMetric

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.sums = np.zeros((metric.width, len(self.ids)))

    def _add(self, client: Ids, numbers: Values) -> None:
        for sums, column in zip(self.sums, numbers.T, strict=True):
            np.add.at(sums, client, column)

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, SumStat)
        self.sums[:, places] += other.sums

    def _defined(self) -> NDArray[np.bool_]:
        return self.metric.is_defined(self.sums, self.counts)

    def _values(self) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.is_defined(), self.metric.value(self.sums, self.counts), np.nan)

    def _pooled(self) -> float:
        sums, counts = self.sums.sum(axis=1, keepdims=True), self.counts.sum(keepdims=True)
        return float(self.metric.value(sums, counts)[0]) if self.metric.is_defined(sums, counts)[0] else float("nan")


class MeanStat(SumStat):
    """The sum of one number over each client's rows."""

    def pooled(self) -> float:
        """The clients' means weighted by their rows, as the summaries of all runs have it, to the bit."""
        return statistics.pooled(self.values(), self.counts)


class RowStat(Stat):
    """The numbers of every row, and whose it is."""

    metric: RowMetric

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.parts: list[tuple[Ids, Values]] = []

    def _add(self, client: Ids, numbers: Values) -> None:
        self.parts.append((client, numbers))

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, RowStat)
        self.parts += [(places[client], numbers) for client, numbers in other.parts]

    def _defined(self) -> NDArray[np.bool_]:
        return np.array([len(rows) > 0 and self.metric.is_defined(rows) for rows in self._by_client()], dtype=np.bool_)

    def _rows(self) -> tuple[Ids, Values]:
        """All rows: client `[n]`, numbers `[n, c]`."""
        empty = (np.zeros(0, dtype=np.int64), np.zeros((0, self.metric.width)))
        client, numbers = (np.concatenate(list(parts)) for parts in zip(empty, *self.parts, strict=True))
        return client, numbers

    def _by_client(self) -> list[Values]:
        client, numbers = self._rows()
        return np.split(numbers[np.lexsort((*numbers.T[::-1], client))], np.cumsum(self.counts)[:-1])

    def _values(self) -> Values:
        return np.array([self._value(rows) for rows in self._by_client()], dtype=np.float64)

    def _value(self, rows: Values) -> float:
        return self.metric.value(rows) if len(rows) and self.metric.is_defined(rows) else float("nan")

    def _pooled(self) -> float:
        _, numbers = self._rows()
        return self._value(numbers[np.lexsort(numbers.T[::-1])])


_M = TypeVar("_M", bound=Metric)


class MetricRegistry:
    """The metrics of this process, in order, and by name."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def register(self, cls: type[_M]) -> type[_M]:
        """The decorator. Raises ValueError for a name that is taken, or that would make a column which another metric has."""
        name = cls.name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith((WORST, POOLED, GLOBAL)):
            raise ValueError(f"{cls.__name__} needs another name: {name!r} would make columns that are no metric's own")
        known = self._metrics.get(name)
        if known is not None and (type(known).__module__, type(known).__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{cls.__name__} needs another name: {name} is {type(known).__name__}'s")
        self._metrics[name] = cls()
        return cls

    def unregister(self, name: str) -> None:
        """Removes a metric. Raises KeyError where there is none of that name."""
        del self._metrics[name]

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]


METRICS = MetricRegistry()


@METRICS.register
class Loss(MeanMetric):
    """The mean loss: cross-entropy, or squared error."""

    name, unit, description = "loss", "loss", "mean over the client's test rows"
    higher_is_better = False
    label_power = 2  # in a classification a label has no unit, and its scale is 1

    def per_row(self, block: Block) -> Tensor:
        """The loss of each row."""
        return block.losses


@METRICS.register
class Accuracy(MeanMetric):
    """The share of rows whose most probable class is the right one."""

    name, unit, description = "accuracy", "share", "of the client's test rows whose most probable class is right"
    higher_is_better = True
    tasks = ("classification",)

    def per_row(self, block: Block) -> Tensor:
        """1 for a hit, 0 for a miss."""
        return block.outputs.argmax(-1) == block.y


LOSS, ACCURACY = METRICS["loss"], METRICS["accuracy"]


def client_columns(stats: Mapping[str, Stat], suffix: str = "") -> dict[str, Values]:
    """The metrics' columns of the clients table, `[k]` each. suffix: GLOBAL where the statistics are of the global model beside
    personal ones."""
    return {f"{stat.metric.column}{suffix}": stat.values() for stat in stats.values()}


def round_columns(stats: Mapping[str, Stat], rows: ArrayLike) -> dict[str, float]:
    """The metrics' columns of a round's row. rows: test rows `[k]` of each client.

    Clients with test rows count, except those that were evaluated on rows without a value (`Stat.is_defined`).
    """
    found = {}
    for stat in stats.values():
        name, values, higher = stat.metric.column, stat.values(), stat.metric.higher_is_better
        counted = np.where((stat.counts > 0) & ~stat.is_defined(), 0, np.asarray(rows))
        found[name] = statistics.mean(values, counted)
        found[f"{name}{WORST}"] = statistics.worst_decile(values, higher, counted)
        found[f"{name}{POOLED}"] = stat.pooled()
    return found


@dataclass(frozen=True)
class Shown:
    """How a metric is presented.

    key: of summary.json, where the worst tenth is `{key}_worst_decile` and the value over all rows `{key}_pooled`. short, long: its
    name in a table and in a plot. mean: the name of its mean over clients in a sentence. root: what is shown is the square root of
    the metric.
    """

    metric: Metric
    key: str
    short: str
    long: str
    mean: str
    root: bool = False

    @classmethod
    def of(cls, metric: Metric) -> Shown:
        """A metric as it is."""
        words = metric.name.replace("_", " ")
        return cls(metric, metric.column, words, words, f"mean {words}")

    def shape(self, values: ArrayLike) -> Values:
        """A metric's values as they are shown."""
        numbers = np.asarray(values, dtype=np.float64)
        return np.sqrt(numbers) if self.root else numbers


def headline(task: str) -> Shown:
    """The metric that decides between strategies: accuracy, or for a regression the loss as a root mean square error."""
    if task == "regression":
        return Shown(LOSS, "rmse", "RMSE", "root mean square error", "root mean square error", root=True)
    return Shown.of(ACCURACY)


def further() -> list[Shown]:
    """The metrics that were registered beside loss and accuracy."""
    return [Shown.of(metric) for metric in METRICS if metric not in (LOSS, ACCURACY)]
