"""Statistics of clients' rows that merge, and from which metrics' values follow: see core.metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core import statistics

if TYPE_CHECKING:
    from scarcity_ray.core.metrics import Block, GroupMetric, Metric, RowMetric, SumMetric

Ids = NDArray[np.int64]
Values = NDArray[np.float64]


class Answer(NamedTuple):
    """What statistics say of one metric. values: each client's `[k]`. defined: which clients' rows have a value, `[k]`. pooled: over
    all rows. interval: of that."""

    metric: Metric
    values: Values
    defined: NDArray[np.bool_]
    pooled: float
    interval: tuple[float, float]


class Stat(ABC):
    """The statistics of k clients for one metric, or for several that need the same (`Metric.statistic`).

    metric: what collects them. metrics: all that follow from them. ids: int64 `[k]`, the clients, each once. counts: int64 `[k]`, rows
    of each so far. scale: see `Metric.start`. Methods answer for `metric` unless another one is given.
    """

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        self.metric, self.ids, self.scale = metric, np.asarray(ids, dtype=np.int64), scale
        self.metrics: list[Metric] = [metric]
        self.counts = np.zeros(len(self.ids), dtype=np.int64)

    def update(self, block: Block) -> None:
        """Adds rows, each client's in the order in which they come."""
        client = block.client[block.real]
        numbers = self.metric.per_row(block).double().numpy()[block.real]
        np.add.at(self.counts, client, 1)
        self._add(client, numbers[:, None] if numbers.ndim == 1 else numbers)

    def values(self, metric: Metric | None = None) -> Values:
        """Each client's value in the user's unit, `[k]`; NaN for a client whose rows have none."""
        asked = metric or self.metric
        found: Values = self._values(asked) * self.scale**asked.label_power
        return found

    def pooled(self, metric: Metric | None = None) -> float:
        """The value over all rows of all clients; NaN where they have none."""
        asked = metric or self.metric
        return self._pooled(asked) * self.scale**asked.label_power if self.counts.any() else float("nan")

    def interval(self, metric: Metric | None = None) -> tuple[float, float]:
        """The 95 % interval of the value over all rows, low and high; NaN unless the metric has one."""
        return float("nan"), float("nan")

    def is_defined(self, metric: Metric | None = None) -> NDArray[np.bool_]:
        """Which clients have a value, `[k]`: all with rows, unless the metric says otherwise. A value that is not a number although
        it is defined is that of a diverged model."""
        return (self.counts > 0) & self._defined(metric or self.metric)

    def answers(self) -> Iterator[Answer]:
        """What these statistics say of each metric."""
        for metric in self.metrics:
            yield Answer(metric, self.values(metric), self.is_defined(metric), self.pooled(metric), self.interval(metric))

    def settled(self) -> Stat:
        """The same values of each client, without single rows and without a value over all rows where that would need them."""
        return self

    @staticmethod
    def merge(stats: Sequence[Stat]) -> Stat:
        """One Stat of all their clients, by ascending id. Rows of one client may be spread over several of them."""
        merged = stats[0]._empty(np.unique(np.concatenate([stat.ids for stat in stats])))
        merged.metrics = list(stats[0].metrics)
        for stat in stats:
            places = np.searchsorted(merged.ids, stat.ids)
            merged.counts[places] += stat.counts
            merged._include(stat, places)
        return merged

    def _empty(self, ids: Ids) -> Stat:
        """Empty statistics of the same sort."""
        return self.metric.start(ids, self.scale)

    @abstractmethod
    def _add(self, client: Ids, numbers: Values) -> None:
        """Rows' numbers `[n, c]` of clients at places `[n]`."""

    @abstractmethod
    def _include(self, other: Stat, places: Ids) -> None:
        """The statistics of another one, whose clients are at these places here."""

    @abstractmethod
    def _defined(self, metric: Any) -> NDArray[np.bool_]: ...

    @abstractmethod
    def _values(self, metric: Any) -> Values: ...

    @abstractmethod
    def _pooled(self, metric: Any) -> float: ...


class SumStat(Stat):
    """Sums `[c, k]` over each client's rows, in float64, one row after the other: their bits do not depend on how rows were cut."""

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.sums: Values = np.zeros((metric.width, len(self.ids)))

    def _add(self, client: Ids, numbers: Values) -> None:
        for sums, column in zip(self.sums, numbers.T, strict=True):
            np.add.at(sums, client, column)

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, SumStat)
        self.sums[:, places] += other.sums

    def _defined(self, metric: SumMetric | GroupMetric) -> NDArray[np.bool_]:
        return metric.is_defined(self._per_client(), self.counts)

    def _values(self, metric: SumMetric | GroupMetric) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.is_defined(metric), metric.value(self._per_client(), self.counts), np.nan)

    def _pooled(self, metric: SumMetric | GroupMetric) -> float:
        sums, counts = self._per_client().sum(axis=-1, keepdims=True), self.counts.sum(keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(metric.value(sums, counts)[0]) if metric.is_defined(sums, counts)[0] else float("nan")

    def _per_client(self) -> Values:
        return self.sums


class MeanStat(SumStat):
    """The sum of one number over each client's rows."""

    def pooled(self, metric: Metric | None = None) -> float:
        """The clients' means weighted by their rows, as the summaries of all runs have it, to the bit."""
        return statistics.pooled(self.values(metric), self.counts)


class GroupStat(SumStat):
    """Rows, and sums of c numbers over them, in each of g groups of each client's rows: `[k, g]` each, 1 + c of them."""

    metric: GroupMetric

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.sums = np.zeros((1 + metric.width, len(self.ids), 0))  # the first block says how many groups there are

    def update(self, block: Block) -> None:
        """Adds rows, each client's in the order in which they come."""
        self._widen(self.metric.groups(block.outputs.shape[-1]))
        super().update(block)

    def _widen(self, groups: int) -> None:
        if (missing := groups - self.sums.shape[2]) > 0:
            self.sums = np.concatenate([self.sums, np.zeros((*self.sums.shape[:2], missing))], axis=2)

    def _add(self, client: Ids, numbers: Values) -> None:
        place = client * self.sums.shape[2] + numbers[:, 0].astype(np.int64)
        np.add.at(self.sums[0].reshape(-1), place, 1)
        for sums, column in zip(self.sums[1:], numbers[:, 1:].T, strict=True):
            np.add.at(sums.reshape(-1), place, column)

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, GroupStat)
        groups = other.sums.shape[2]
        self._widen(groups)
        self.sums[:, places, :groups] += other.sums

    def _defined(self, metric: SumMetric | GroupMetric) -> NDArray[np.bool_]:
        return super()._defined(metric) if self.sums.shape[2] else np.zeros(len(self.ids), dtype=np.bool_)

    def _values(self, metric: SumMetric | GroupMetric) -> Values:
        return super()._values(metric) if self.sums.shape[2] else np.full(len(self.ids), np.nan)

    def _per_client(self) -> Values:
        return np.moveaxis(self.sums, 1, 2)


class Settled(Stat):
    """Values of clients whose rows are no longer there: they can be merged with those of other clients, and have none over all rows."""

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self._found: dict[str, tuple[Values, NDArray[np.bool_]]] = {}

    @classmethod
    def of(cls, stat: Stat) -> Settled:
        """The values of other statistics."""
        made = cls(stat.metric, stat.ids, stat.scale)
        made.metrics, made.counts = list(stat.metrics), stat.counts
        made._found = {metric.name: (stat._values(metric), stat._defined(metric)) for metric in stat.metrics}
        return made

    def _empty(self, ids: Ids) -> Stat:
        made = Settled(self.metric, ids, self.scale)
        made._found = {name: (np.full(len(ids), np.nan), np.zeros(len(ids), dtype=np.bool_)) for name in self._found}
        return made

    def _add(self, client: Ids, numbers: Values) -> None:
        raise TypeError(f"the values of {self.metric.name} are settled: they take no more rows")

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, Settled)
        for name, (values, defined) in other._found.items():
            self._found[name][0][places], self._found[name][1][places] = values, defined

    def _defined(self, metric: Metric) -> NDArray[np.bool_]:
        return self._found[metric.name][1]

    def _values(self, metric: Metric) -> Values:
        return self._found[metric.name][0]

    def _pooled(self, metric: Metric) -> float:
        return float("nan")


class RowStat(Stat):
    """The numbers of every row, and whose it is."""

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.parts: list[tuple[Ids, Values]] = []

    def settled(self) -> Stat:
        """Each client's value alone."""
        return Settled.of(self)

    def _add(self, client: Ids, numbers: Values) -> None:
        self.parts.append((client, numbers))

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, RowStat)
        self.parts += [(places[client], numbers) for client, numbers in other.parts]

    def _defined(self, metric: RowMetric) -> NDArray[np.bool_]:
        return np.array([len(rows) > 0 and metric.is_defined(rows) for rows in self._by_client()], dtype=np.bool_)

    def _rows(self) -> tuple[Ids, Values]:
        """All rows: client `[n]`, numbers `[n, c]`."""
        if not self.parts:
            return np.zeros(0, dtype=np.int64), np.zeros((0, self.metric.width))
        client, numbers = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        return client, numbers

    def _by_client(self) -> list[Values]:
        client, numbers = self._rows()
        return np.split(numbers[np.lexsort((*numbers.T[::-1], client))], np.cumsum(self.counts)[:-1])

    def _values(self, metric: RowMetric) -> Values:
        return np.array([_value(metric, rows) for rows in self._by_client()], dtype=np.float64)

    def _pooled(self, metric: RowMetric) -> float:
        _, numbers = self._rows()
        return _value(metric, numbers[np.lexsort(numbers.T[::-1])])


def _value(metric: RowMetric, rows: Values) -> float:
    return metric.value(rows) if len(rows) and metric.is_defined(rows) else float("nan")
