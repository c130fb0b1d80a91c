"""How good probabilities of classes are: the Brier score, and how far they are from what happens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.core.metrics import METRICS, Block, GroupMetric, Ids, MeanMetric, Metric, Values

BINS = 15
"""Of the expected calibration error, as in the paper."""


@METRICS.register
class Brier(MeanMetric):
    """The mean squared error of the probabilities (Brier, Monthly Weather Review 78, 1950).

    Two classes: of the probability of one of them, from 0 to 1. More: summed over the classes, from 0 to 2.
    """

    name, unit, description = "brier", "squared probability", "mean squared error of the class probabilities on the client's test rows"
    title = "Brier score"
    higher_is_better = False
    tasks = ("classification",)
    detail = True

    def per_row(self, block: Block) -> Tensor:
        """The squared error of each row."""
        missed = block.outputs.double().exp()
        missed.scatter_add_(1, block.y[:, None], torch.full((len(missed), 1), -1.0, dtype=missed.dtype))
        total = missed.square().sum(1)
        return total / 2 if missed.shape[1] == 2 else total


@METRICS.register
class CalibrationInTheLarge(MeanMetric):
    """The share of rows of the positive class less its mean probability: above 0 where it is predicted too rarely (Steyerberg, Clinical
    Prediction Models, 2019, section 15.3). It has a value for any rows, also of one class."""

    name, unit = "calibration_in_the_large", "share"
    description = "share of the positive class in the client's test rows, less its mean predicted probability"
    higher_is_better, ideal = False, 0.0
    detail = True

    def __init__(self, positive: int = 1) -> None:
        self.positive = positive

    def applies(self, task: str, outputs: int) -> bool:
        """To two classes."""
        return task == "classification" and outputs == 2

    def seen_from(self, positive: int) -> Metric:
        """With this class as the positive one."""
        return CalibrationInTheLarge(positive)

    def per_row(self, block: Block) -> Tensor:
        """1 or 0, less the probability."""
        return (block.y == self.positive).double() - block.outputs[:, self.positive].double().exp()


@METRICS.register
class CalibrationError(GroupMetric):
    """The expected calibration error: the distance between confidence (the greatest probability) and accuracy in 15 bins of equal width,
    averaged over rows (Guo et al., ICML 2017). It is above 0 for few rows even where probabilities hold."""

    name, unit, description = "calibration_error", "share", "expected calibration error over the client's test rows, in 15 bins"
    higher_is_better = False
    tasks = ("classification",)
    detail = True

    def groups(self, outputs: int) -> int:
        """The bins."""
        return BINS

    def per_row(self, block: Block) -> Tensor:
        """The bin, and by how much confidence is above accuracy."""
        greatest, chosen = block.outputs.max(-1)
        confidence = greatest.double().exp()
        # A row of a diverged model has no confidence; what it adds to whichever bin is not a number.
        place = (confidence.nan_to_num() * BINS).long().clamp(max=BINS - 1)
        return torch.stack([place.double(), confidence - (chosen == block.y).double()], dim=1)

    def value(self, sums: Values, counts: Ids) -> Values:
        """The distances in all bins, a row."""
        return np.asarray(np.abs(sums[1]).sum(axis=0) / counts)
