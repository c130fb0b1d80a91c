"""What needs the scores of all rows: the area under the ROC curve, the slope of a calibration, the specificity at a sensitivity.

They share one gathering of the rows, ordered by client and then as the client has them, so values have the same bits however clients
were distributed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.metrics import METRICS, Block, Ids, Metric, Stat, Values
from scarcity_ray.core.stat import Settled
from scarcity_ray.metrics.decisions import in_a_name
from scarcity_ray.metrics.delong import auc_interval
from scarcity_ray.metrics.ranks import areas, first_specificities, overlaps
from scarcity_ray.metrics.slopes import slopes

SCORES = "scores"
"""The name of the statistics that these metrics share."""

MOST_BYTES = 512 * 2**20
"""The most that the gathered scores of a run's test rows may take."""


def row_bytes(outputs: int) -> int:
    """What a row takes: its client's place, its class, and a score (two classes), or one for each class; 4 bytes each."""
    return 8 + 4 * (1 if outputs == 2 else outputs)


class ScoreStat(Stat):
    """The scores and classes of every row.

    A score is the log-odds of class 1 of two (`[n, 1]`), or the log-probability of each of more classes (`[n, classes]`): a probability
    itself would lose the order of those near 1.
    """

    metrics: list[Any]

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]] = []
        self._found: dict[str, tuple[Values, NDArray[np.bool_]]] = {}  # what was computed since the last rows came

    def settled(self) -> Stat:
        """Each client's values alone."""
        return Settled.of(self)

    def rows(self) -> tuple[Ids, NDArray[np.float32], NDArray[np.int32]]:
        """All rows, by client and then as the client has them: place in `ids` `[n]`, scores `[n, 1 or classes]`, class `[n]`."""
        if not self._parts:
            return np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int32)
        if len(self._parts) > 1 or (np.diff(self._parts[0][0]) < 0).any():
            client, scores, y = (np.concatenate(list(parts)) for parts in zip(*self._parts, strict=True))
            order = np.argsort(client, kind="stable")
            self._parts = [(client[order], scores[order], y[order])]
        client, scores, y = self._parts[0]
        return client.astype(np.int64), scores, y

    def by_client(self) -> tuple[Ids, Values]:
        """The place of each row's client in `ids`, `[n]`, and its scores and class, `[n, c + 1]`, by client and then as the client has
        its rows."""
        client, scores, y = self.rows()
        return client, np.column_stack([scores, y]).astype(np.float64)

    def _add(self, client: Ids, numbers: Values) -> None:
        scores, y = numbers[:, :-1], numbers[:, -1]
        self._found.clear()
        self._parts.append((client.astype(np.int32), scores.astype(np.float32), y.astype(np.int32)))

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, ScoreStat)
        self._found.clear()
        self._parts += [(places[client].astype(np.int32), scores, y) for client, scores, y in other._parts]

    def _defined(self, metric: _OfScores) -> NDArray[np.bool_]:
        return self._of(metric)[1]

    def _values(self, metric: _OfScores) -> Values:
        values, defined = self._of(metric)
        return np.where(defined, values, np.nan)

    def _of(self, metric: _OfScores) -> tuple[Values, NDArray[np.bool_]]:
        if metric.name not in self._found:
            self._found[metric.name] = metric.of(*self.rows(), len(self.ids))
        return self._found[metric.name]

    def interval(self, metric: Metric | None = None) -> tuple[float, float]:
        """Of the AUC, by DeLong; held to 0 and 1."""
        asked = metric or self.metric
        return asked.interval(*self.rows()[1:]) if isinstance(asked, Auc) and len(self.ids) else super().interval(asked)

    def _pooled(self, metric: _OfScores) -> float:
        client, scores, y = self.rows()
        values, defined = metric.of(np.zeros_like(client), scores, y, 1)
        return float(values[0]) if defined[0] else float("nan")


class _OfScores(Metric):
    tasks = ("classification",)
    partial = True
    detail = True
    at_last = True
    unit = "share"
    higher_is_better = True

    @property
    def statistic(self) -> str:
        """The same rows for all of them."""
        return SCORES

    def per_row(self, block: Block) -> Tensor:
        """The scores, and the class."""
        scores = block.outputs[:, 1:] - block.outputs[:, :1] if block.outputs.shape[1] == 2 else block.outputs
        return torch.cat([scores.double(), block.y[:, None].double()], dim=1)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """No rows yet."""
        return ScoreStat(self, ids, scale)

    def of(self, client: Ids, scores: NDArray[np.float32], y: NDArray[np.int32], k: int) -> tuple[Values, NDArray[np.bool_]]:
        """The value of each of k clients, and whether it has one, `[k]` each, from rows by client. Where it has none, any value is
        ignored; not a number where a score is none."""
        raise NotImplementedError


@METRICS.register
class Auc(_OfScores):
    """The area under the ROC curve: the chance that a row of one class has a higher score than one of the other, ties counting half
    (Mann and Whitney, 1947; Hanley and McNeil, Radiology 143, 1982).

    More than two classes: each class that occurs against the rest, and the mean of these areas. Rows of one class have none.
    """

    name, title = "auc", "AUC"
    description = "area under the ROC curve of the client's test rows; mean over the classes in them where there are more than two"
    has_interval = bounded = True

    def of(self, client: Ids, scores: NDArray[np.float32], y: NDArray[np.int32], k: int) -> tuple[Values, NDArray[np.bool_]]:
        """The area, or the mean of the areas."""
        total, classes = np.zeros(k), np.zeros(k, dtype=np.int64)
        for place in range(scores.shape[1]):
            positive = y == (1 if scores.shape[1] == 1 else place)
            area, defined = areas(client, scores[:, place], positive, k)
            total[defined] += area[defined]
            classes += defined
        return np.divide(total, classes, out=np.full(k, np.nan), where=classes > 0), classes > 0

    def interval(self, scores: NDArray[np.float32], y: NDArray[np.int32]) -> tuple[float, float]:
        """The 95 % interval of the area over all rows, or of the mean of the areas; NaN without two classes."""
        places = [place for place in range(scores.shape[1]) if 0 < (y == (1 if scores.shape[1] == 1 else place)).sum() < len(y)]
        if not places or np.isnan(scores).any():
            return float("nan"), float("nan")
        positive = np.stack([y == (1 if scores.shape[1] == 1 else place) for place in places])
        _, low, high = auc_interval(np.nan_to_num(scores.T[places]), positive)
        return low, high


class _OfTwo(_OfScores):
    def applies(self, task: str, outputs: int) -> bool:
        """To two classes."""
        return task == "classification" and outputs == 2


@METRICS.register
class CalibrationSlope(_OfTwo):
    """The slope of a logistic regression of the class on the log-odds of its probability: below 1 where probabilities are too extreme
    (Cox, Biometrika 45, 1958; Steyerberg, Clinical Prediction Models, 2019, section 15.3).

    Rows that a threshold tells apart without an error have none: their likelihood has no maximum. Nor have rows of one class.
    """

    name, unit, ideal = "calibration_slope", "", 1.0
    description = "slope of a logistic regression of the client's test labels on the predicted log-odds"

    def of(self, client: Ids, scores: NDArray[np.float32], y: NDArray[np.int32], k: int) -> tuple[Values, NDArray[np.bool_]]:
        """The slope where both classes overlap."""
        defined = overlaps(client, scores[:, 0], y == 1, k)
        return slopes(client, scores[:, 0], y == 1, defined), defined


class SpecificityAtSensitivity(_OfTwo):
    """The highest specificity that a threshold of the positive class's probability has where its sensitivity is at least the given one
    (in (0, 1]). Rows of one class have none."""

    def __init__(self, sensitivity: float, positive: int = 1) -> None:
        self.sensitivity, self.positive = sensitivity, positive
        self.name = f"specificity_at_sensitivity_{in_a_name(sensitivity)}"
        self.description = f"highest specificity on the client's test rows at which the sensitivity is at least {sensitivity:g}"

    def of(self, client: Ids, scores: NDArray[np.float32], y: NDArray[np.int32], k: int) -> tuple[Values, NDArray[np.bool_]]:
        """The specificity just below the score that so many of the positive rows reach."""
        signed = scores[:, 0] if self.positive == 1 else -scores[:, 0]
        return first_specificities(client, signed, y == self.positive, k, self.sensitivity)
