"""The training loss of steps that a strategy takes by itself, without `Task.local_sgd`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.training.batches import Batch
from scarcity_ray.training.evaluate import mean_over_rows
from scarcity_ray.training.objective import Objective


class TrainLoss:
    """Each of k clients' mean loss over all rows of its minibatches, each at the step that used it."""

    def __init__(self, objective: Objective, k: int) -> None:
        self.objective, self.losses, self.squares, self.rows = objective, np.zeros(k), np.zeros(k), np.zeros(k, dtype=np.int64)

    def add(self, batch: Batch, outputs: Tensor) -> None:
        """Adds one minibatch, with the outputs `[a, width, outputs]` that a step wrote."""
        row_losses = self.objective.losses(outputs, batch.y).double().numpy()
        real = np.arange(row_losses.shape[1]) < batch.sizes[:, None]
        self.losses[: batch.active] += np.where(real, row_losses, 0.0).sum(1)
        self.squares[: batch.active] += np.where(real, row_losses**2, 0.0).sum(1)
        self.rows[: batch.active] += batch.sizes

    def mean(self) -> NDArray[np.float64]:
        """Float64 `[k]`; NaN for a client without steps."""
        return mean_over_rows(self.losses, self.rows)

    def norm(self) -> NDArray[np.float64]:
        """Root of the mean square of the same losses."""
        return np.sqrt(mean_over_rows(self.squares, self.rows))
