"""What a model answers to each test row: gathered after the last round, as rows of predictions.parquet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.metrics import Block, Ids, Stat
from scarcity_ray.metrics.gathered import Gathered, GatheredStat


def row_bytes(outputs: int, task: str) -> int:
    """What a gathered row takes. outputs: classes, or targets a row, of which there are the true ones too."""
    return 4 + 4 * (outputs + (1 if task == "classification" else outputs))


class Predictions(Gathered):
    """Gathers the answers to all rows."""

    name, description = "predictions", "answers to the clients' test rows"

    def __init__(self, task: str) -> None:
        self.task = task

    def per_row(self, block: Block) -> Tensor:
        """Log-probabilities and the class, or residuals and targets."""
        y = block.y if block.y.ndim == 2 else block.y[:, None]
        return torch.cat([block.outputs.double(), y.double()], dim=1)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """No rows yet."""
        return PredictionStat(self, ids, scale)


class PredictionStat(GatheredStat):
    """The answers to every row: `columns` has them."""

    metric: Predictions
    kept_as = np.float32

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns `[n]` of predictions.parquet, by client and then as the client has its rows: client_id, row (the place among the
        client's test rows, from 0), y, and p_0 .. p_(classes - 1), or prediction. Targets are in the user's unit, less `label_mean` of
        the encoding; where there are several, there are y_0 .. and prediction_0 ..

        Probabilities and targets are float64, from float32 log-probabilities and residuals: metrics follow from them to about 1e-7.
        """
        places, numbers = self.by_client()
        found: dict[str, NDArray[Any]] = {
            "client_id": self.ids[places],
            "row": np.arange(len(places)) - (np.cumsum(self.counts) - self.counts)[places],
        }
        if not self.parts:
            return found
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
