"""Numbers of every test row, gathered after the last round. They make no column of a metric: what needs them reads them by client."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.metrics import Ids, Metric, Stat, Values


class Gathered(Metric):
    """A metric that only gathers its rows' numbers."""

    unit = ""
    higher_is_better = True
    detail = True
    at_last = True


class GatheredStat(Stat):
    """The numbers of every row, and whose it is. They follow no metric: `by_client` has them. kept_as: how a number is kept."""

    kept_as: type[np.floating[Any]] = np.float64

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.metrics = []
        self.parts: list[tuple[NDArray[np.int32], NDArray[Any]]] = []

    def by_client(self) -> tuple[Ids, Values]:
        """The place of each row's client in `ids`, `[n]`, and its numbers `[n, c]`, by client and then as the client has its rows."""
        if not self.parts:
            return np.zeros(0, dtype=np.int64), np.zeros((0, self.metric.width))
        client, numbers = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        order = np.argsort(client, kind="stable")
        return client[order].astype(np.int64), numbers[order].astype(np.float64)

    def _add(self, client: Ids, numbers: Values) -> None:
        self.parts.append((client.astype(np.int32), numbers.astype(self.kept_as)))

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, GatheredStat)
        self.parts += [(places[client].astype(np.int32), numbers) for client, numbers in other.parts]

    def _defined(self, metric: Any) -> NDArray[np.bool_]:
        return np.zeros(len(self.ids), dtype=np.bool_)

    def _values(self, metric: Any) -> Values:
        return np.full(len(self.ids), np.nan)

    def _pooled(self, metric: Any) -> float:
        return float("nan")
