"""Metrics: what is measured on clients' rows, in statistics that merge.

Each actor measures its own clients, a block of rows at a time. A `Stat` collects what a metric needs of each client; Stats of other
clients, or of other rows of the same clients, merge into one, from which the value of each client and the value over all rows
follow. These are the three steps `update`, `merge` and `compute` of torchmetrics (Detlefsen et al., JOSS 7(70), 2022), with
`values` and `pooled` in place of `compute`, because one Stat answers for many clients.

A new metric is one class: derive it from `MeanMetric`, `SumMetric`, `GroupMetric` or `RowMetric` and register it. Columns of the
tables, entries of summary.json, plots and the final table follow from the list `METRICS`; those that every run has are in
scarcity_ray/metrics. A process on another machine learns of a metric with the `Problem`, so its class must be in a module that can be
imported there.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.core import statistics
from scarcity_ray.core.stat import GroupStat, MeanStat, RowStat, SumStat
from scarcity_ray.core.stat import Ids as Ids
from scarcity_ray.core.stat import Stat as Stat
from scarcity_ray.core.stat import Values as Values

if TYPE_CHECKING:
    from torch import Tensor

WORST, POOLED, GLOBAL, UNDEFINED = "_worst_decile", "_pooled", "_global", "_undefined"
"""What a column adds to a metric's own: mean of the worst tenth of the clients, value over all rows, the global model's value, number of
clients whose rows have no value."""

LOW, HIGH = f"{POOLED}_low", f"{POOLED}_high"
"""The 95 % interval of the value over all rows."""


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
    """One number of a client's rows. Its class says what it is; an instance has at most settings, and may be sent to any process.

    name: in columns, `test_NAME`. unit, description: of the column, for one client. tasks: where it applies. label_power: the value
    is in this power of the label's unit (2 for a squared error): values are measured in standard deviations of the label and
    multiplied by their size to that power. width: numbers of each row, c. title: in tables and plots; its name if empty. ideal: the
    best value, where neither more nor less is better; the worst tenth is then that of the distances from it. partial: some clients'
    rows have no value, and these clients are counted. detail: final table and plots have it only where it is the metric that decides;
    runs where it does not apply have no column for it, and a global model beside personal ones is not measured by it. at_last: it is
    measured only after the last round. part: of which of a client's rows, "test" or "validation". has_interval: the
    value over all rows has a 95 % interval, see `Stat.interval`. bounded: values lie from 0 to 1, so gains from -1 to 1.
    """

    name: str
    unit: str
    description: str
    higher_is_better: bool
    tasks: tuple[str, ...] = ("classification", "regression")
    label_power: int = 0
    width: int = 1
    title: str = ""
    ideal: float | None = None
    partial: bool = False
    detail: bool = False
    at_last: bool = False
    part: Literal["test", "validation"] = "test"
    has_interval: bool = False
    bounded: bool = False

    @property
    def column(self) -> str:
        """Its column in the tables and its key in summary.json."""
        return f"{self.part}_{self.name}"

    def applies(self, task: str, outputs: int) -> bool:
        """Whether it can be measured. outputs: classes, or targets a row."""
        return task in self.tasks

    @property
    def statistic(self) -> str:
        """What its statistics are called. Metrics with the same name here share them, and have the same `per_row` and `start`."""
        return self.name

    @property
    def key(self) -> str:
        """Its statistics' key among those of a client's rows."""
        return self.statistic if self.part == "test" else f"{self.part}_{self.statistic}"

    def on_validation_rows(self) -> Metric:
        """The same on validation rows."""
        made = copy.copy(self)
        made.part, made.detail, made.description = "validation", True, self.description.replace("test", "validation")
        return made

    def seen_from(self, positive: int) -> Metric:
        """The same for two classes of which this one (0 or 1) is the positive; itself where that makes no difference."""
        return self

    def at_every_evaluation(self) -> Metric:
        """The same, measured at every evaluation."""
        if not self.at_last:
            return self
        made = copy.copy(self)
        made.at_last = False
        return made

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


class GroupMetric(Metric):
    """A function of sums over the rows of g groups, such as classes: `per_row` gives each row's group, then its c numbers."""

    @abstractmethod
    def groups(self, outputs: int) -> int:
        """g. outputs: classes, or targets a row."""

    @abstractmethod
    def value(self, sums: Values, counts: Ids) -> Values:
        """The values `[k]` from `[1 + c, g, k]`, the rows of each group and then its sums, and the clients' rows `[k]`."""

    def is_defined(self, sums: Values, counts: Ids) -> NDArray[np.bool_]:
        """As for a SumMetric, `[k]`."""
        return np.ones(len(counts), dtype=np.bool_)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """Numbers of rows and sums for each client and group."""
        return GroupStat(self, ids, scale)


class RowMetric(Metric):
    """A function of all rows together, such as a rank statistic. It costs 8 (c + 1) bytes a row where rows are gathered: in each
    process, and on the way only after the last round. Before, there are values of clients, and none over all rows."""

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


_M = TypeVar("_M", bound=Metric)


class MetricRegistry:
    """The metrics of this process, in order, and by name."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def register(self, cls: type[_M]) -> type[_M]:
        """The decorator. Raises ValueError for a name that is taken, or that would make a column which another metric has."""
        name = cls.name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith((WORST, POOLED, GLOBAL, UNDEFINED, LOW, HIGH)):
            raise ValueError(f"{cls.__name__} needs another name: {name!r} would make columns that are no metric's own")
        known = self._metrics.get(name)
        if known is not None and (type(known).__module__, type(known).__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{cls.__name__} needs another name: {name} is {type(known).__name__}'s")
        self._metrics[name] = cls()
        return cls

    def collect(self, package: str) -> None:
        """Imports every module of a package, in the order of their names, so that its metrics are registered."""
        found = importlib.import_module(package)
        for module in sorted(pkgutil.iter_modules(found.__path__), key=lambda one: one.name):
            importlib.import_module(f"{package}.{module.name}")

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
    higher_is_better = bounded = True
    tasks = ("classification",)

    def per_row(self, block: Block) -> Tensor:
        """1 for a hit, 0 for a miss."""
        return block.outputs.argmax(-1) == block.y


LOSS, ACCURACY = METRICS["loss"], METRICS["accuracy"]


def suited(metrics: Iterable[Metric], task: str, outputs: int) -> tuple[Metric, ...]:
    """The metrics that a run has columns for: all but details that do not apply to it."""
    return tuple(metric for metric in metrics if not metric.detail or metric.applies(task, outputs))


def client_columns(stats: Mapping[str, Stat], suffix: str = "") -> dict[str, Values]:
    """The metrics' columns of the clients table, `[k]` each. suffix: GLOBAL where the statistics are of the global model beside
    personal ones."""
    return {f"{metric.column}{suffix}": stat.values(metric) for stat in stats.values() for metric in stat.metrics}


def round_columns(stats: Mapping[str, Stat], rows: ArrayLike) -> dict[str, Any]:
    """The metrics' columns of a round's row. rows: test rows `[k]` of each client.

    Clients with test rows count, except those that were evaluated on rows without a value (`Stat.is_defined`).
    """
    found: dict[str, Any] = {}
    for stat in stats.values():
        for metric, values, defined, pooled, interval in stat.answers():
            name, undefined = metric.column, (stat.counts > 0) & ~defined
            counted = np.where(undefined, 0, np.asarray(rows) if metric.part == "test" else stat.counts)
            ranked, higher = (values, metric.higher_is_better) if metric.ideal is None else (np.abs(values - metric.ideal), False)
            found[name] = statistics.mean(values, counted)
            found[f"{name}{WORST}"] = statistics.worst_decile(ranked, higher, counted)
            found[f"{name}{POOLED}"] = pooled
            if metric.has_interval:
                found[f"{name}{LOW}"], found[f"{name}{HIGH}"] = interval
            if metric.partial:
                found[f"{name}{UNDEFINED}"] = int(undefined.sum()) if stat.counts.any() else None
    return found


def columns_of(metric: Metric) -> list[str]:
    """A metric's columns of `rounds`, which are keys of the summary too."""
    more = (*((LOW, HIGH) if metric.has_interval else ()), *((UNDEFINED,) if metric.partial else ()))
    return [f"{metric.column}{suffix}" for suffix in ("", WORST, POOLED, *more)]


@dataclass(frozen=True)
class Shown:
    """How a metric is presented.

    key: of summary.json, where the worst tenth is `{key}_worst_decile` and the value over all rows `{key}_pooled`. short, long: its
    name in a table and in a plot. mean: its value over clients in a sentence, and over: what that is, under a table. root: what is
    shown is the square root of the metric.
    """

    metric: Metric
    key: str
    short: str
    long: str
    mean: str
    over: str = "over clients"
    root: bool = False

    @classmethod
    def of(cls, metric: Metric, words: str = "") -> Shown:
        """A metric as it is. words: its name, if another one than its own."""
        words = words or metric.title or metric.name.replace("_", " ")
        return cls(metric, metric.column, words, words, f"mean {words}")

    def shape(self, values: ArrayLike) -> Values:
        """A metric's values as they are shown."""
        numbers = np.asarray(values, dtype=np.float64)
        return np.sqrt(numbers) if self.root else numbers


HEADLINES = {"classification": ("accuracy", "auc", "log_loss", "brier"), "regression": ("rmse", "mae", "r2")}
"""The metrics that can decide between strategies, by task; the first one does where a scenario names none."""


def default_headline(task: str) -> str:
    """The metric that decides where a scenario names none: RMSE for a regression, accuracy for anything else."""
    return HEADLINES["regression" if task == "regression" else "classification"][0]


def headline(task: str, name: str | None = None) -> Shown:
    """The metric that decides between strategies, by its name in a scenario; the task's first if None.

    The loss is the log loss of a classification, and its root the RMSE of a regression. Raises KeyError for another name.
    """
    name = name or default_headline(task)
    if name == "rmse":
        # The mean over clients is taken before the root: a mean of roots would weigh the clients differently.
        root_of = "root of the clients' mean squared error"
        return Shown(LOSS, "rmse", "RMSE", "root mean square error", f"RMSE ({root_of})", over=root_of, root=True)
    return Shown.of(LOSS, "log loss") if name == "log_loss" else Shown.of(METRICS[name])


def further() -> list[Shown]:
    """The metrics that were registered beside loss and accuracy, without details."""
    return [Shown.of(metric) for metric in METRICS if metric not in (LOSS, ACCURACY) and not metric.detail]
