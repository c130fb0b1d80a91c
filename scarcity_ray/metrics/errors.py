"""How far predicted numbers are from the targets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.metrics import METRICS, Block, Ids, MeanMetric, SumMetric, Values

_ALL_EQUAL = 1e-12
"""Targets whose squared distances from their mean are this small a part of their squares are equal apart from rounding."""


@METRICS.register
class AbsoluteError(MeanMetric):
    """The mean absolute error; with several targets, its mean over them."""

    name, unit, description = "mae", "label", "mean absolute error on the client's test rows"
    title = "MAE"
    higher_is_better = False
    tasks = ("regression",)
    label_power = 1
    detail = True

    def per_row(self, block: Block) -> Tensor:
        """The absolute residual of each row."""
        return block.outputs.double().abs().mean(-1)


@METRICS.register
class Determination(SumMetric):
    """The coefficient of determination R2 = 1 - squared errors / squared distances of the targets from their own mean over the rows.

    Rows with equal targets, and a single one, have none. It is 0 for a model that predicts the mean of the test rows, and below 0 for
    worse ones.
    """

    name, unit, description = "r2", "share", "coefficient of determination on the client's test rows"
    title = "R2"
    higher_is_better = True
    partial = True
    detail = True
    width = 3

    def applies(self, task: str, outputs: int) -> bool:
        """To one target."""
        return task == "regression" and outputs == 1

    def per_row(self, block: Block) -> Tensor:
        """The squared error, the target and its square."""
        y = block.y.double()
        return torch.cat([block.outputs.double().square(), y, y.square()], dim=1)

    def value(self, sums: Values, counts: Ids) -> Values:
        """1 less the share of the targets' spread that is left."""
        return np.asarray(1.0 - sums[0] / _spread(sums, counts))

    def is_defined(self, sums: Values, counts: Ids) -> NDArray[np.bool_]:
        """Where targets differ."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(_spread(sums, counts) > _ALL_EQUAL * sums[2])


def _spread(sums: Values, counts: Ids) -> Values:
    """The targets' squared distances from their mean."""
    return np.asarray(sums[2] - sums[1] ** 2 / counts)
