"""What a model answers to each test row: gathered after the last round, as rows of predictions.parquet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.metrics import Block, Ids, Metric, Stat, Values


def row_bytes(outputs: int, task: str) -> int:
    """What a gathered row takes. outputs: classes, or targets a row, of which there are the true ones too."""
    return 4 + 4 * (outputs + (1 if task == "classification" else outputs))


class Predictions(Metric):
    """Gathers the answers to all rows. It is no column of a table."""

    name, unit, description = "predictions", "", "answers to the clients' test rows"
    higher_is_better = True
    detail = True
    at_last = True

    def __init__(self, task: str) -> None:
        self.task = task

    def per_row(self, block: Block) -> Tensor:
        """Log-probabilities and the class, or residuals and targets."""
        y = block.y if block.y.ndim == 2 else block.y[:, None]
        return torch.cat([block.outputs.double(), y.double()], dim=1)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """No rows yet."""
        return PredictionStat(self, ids, scale)


class PredictionStat(Stat):
    """The answers to every row. They follow no metric: `columns` has them."""

    metric: Predictions

    def __init__(self, metric: Metric, ids: Ids, scale: float) -> None:
        super().__init__(metric, ids, scale)
        self.metrics = []
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = []

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns `[n]` of predictions.parquet, by client and then as the client has its rows: client_id, row (the place among the
        client's test rows, from 0), y, and p_0 .. p_(classes - 1), or prediction. Targets are in the user's unit, less `label_mean` of
        the encoding; where there are several, there are y_0 .. and prediction_0 ..

        Probabilities and targets are float64, from float32 log-probabilities and residuals: metrics follow from them to about 1e-7.
        """
        places = np.concatenate([np.zeros(0, dtype=np.int32), *(client for client, _ in self._parts)])
        order = np.argsort(places, kind="stable")
        places = places[order]
        found: dict[str, NDArray[Any]] = {
            "client_id": self.ids[places],
            "row": np.arange(len(places)) - (np.cumsum(self.counts) - self.counts)[places],
        }
        if not self._parts:
            return found
        numbers = np.concatenate([rows for _, rows in self._parts])[order].astype(np.float64)
        if self.metric.task == "classification":
            found["y"] = numbers[:, -1].astype(np.int64)
            p = np.exp(numbers[:, :-1])
            p /= p.sum(axis=1, keepdims=True)  # float32 logarithms leave their sum off by 1e-7
            return found | {f"p_{place}": column for place, column in enumerate(p.T)}
        targets = numbers.shape[1] // 2
        for place in range(targets):
            end = "" if targets == 1 else f"_{place}"
            residual, y = numbers[:, place], numbers[:, targets + place]
            found |= {f"y{end}": y * self.scale, f"prediction{end}": (y + residual) * self.scale}
        return found

    def _add(self, client: Ids, numbers: Values) -> None:
        self._parts.append((client.astype(np.int32), numbers.astype(np.float32)))

    def _include(self, other: Stat, places: Ids) -> None:
        assert isinstance(other, PredictionStat)
        self._parts += [(places[client].astype(np.int32), numbers) for client, numbers in other._parts]

    def _defined(self, metric: Any) -> NDArray[np.bool_]:
        return np.zeros(len(self.ids), dtype=np.bool_)

    def _values(self, metric: Any) -> Values:
        return np.full(len(self.ids), np.nan)

    def _pooled(self, metric: Any) -> float:
        return float("nan")
