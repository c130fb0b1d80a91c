"""How good decisions are: the most probable class, and two classes told apart at a threshold of the positive one's probability."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.metrics import METRICS, Block, GroupMetric, Ids, Values


@METRICS.register
class BalancedAccuracy(GroupMetric):
    """The accuracy on the rows of each class, averaged over the classes that occur (Brodersen et al., ICPR 2010)."""

    name, unit = "balanced_accuracy", "share"
    description = "accuracy on the client's test rows of each class, averaged over the classes that occur in them"
    higher_is_better = True
    tasks = ("classification",)
    detail = True

    def groups(self, outputs: int) -> int:
        """The classes."""
        return outputs

    def per_row(self, block: Block) -> Tensor:
        """The class, and 1 for a hit."""
        return torch.stack([block.y, (block.outputs.argmax(-1) == block.y).long()], dim=1)

    def value(self, sums: Values, counts: Ids) -> Values:
        """The mean of the classes' shares of hits."""
        rows, hits = sums[0], sums[1]
        shares = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
        return np.asarray(shares.sum(axis=0) / (rows > 0).sum(axis=0))


def in_a_name(share: float) -> str:
    """A share as part of a column's name: 0.1 is 0_1."""
    return np.format_float_positional(share, trim="-").replace(".", "_")


class _AtThreshold(GroupMetric):
    """Two classes: a row is flagged where the probability of the positive class is at least the threshold."""

    unit = "share"
    higher_is_better = True
    detail = True

    def __init__(self, threshold: float, positive: int = 1) -> None:
        self.threshold, self.positive = threshold, positive
        self.name = f"{self.kind}_at_{in_a_name(threshold)}"
        self.description = f"{self.words}; flagged: where the positive class has a probability of at least {threshold:g}"

    kind: str
    words: str

    @property
    def statistic(self) -> str:
        """The flagged rows of both classes, from which all three numbers follow."""
        return f"flagged_at_{in_a_name(self.threshold)}"

    def applies(self, task: str, outputs: int) -> bool:
        """To two classes."""
        return task == "classification" and outputs == 2

    def groups(self, outputs: int) -> int:
        """The other class, and the positive one."""
        return 2

    def per_row(self, block: Block) -> Tensor:
        """Whether the row is of the positive class, and whether it is flagged."""
        probability = block.outputs[:, self.positive].double().exp()
        flagged = torch.where(probability.isnan(), torch.nan, (probability >= self.threshold).double())
        return torch.stack([(block.y == self.positive).double(), flagged], dim=1)


class Sensitivity(_AtThreshold):
    """The share of the positive class that is flagged. Rows without one have none."""

    kind, words = "sensitivity", "share of the client's test rows of the positive class that are flagged"
    partial = True

    def value(self, sums: Values, counts: Ids) -> Values:
        """Flagged by all, of the positive class."""
        return np.asarray(sums[1, 1] / sums[0, 1])

    def is_defined(self, sums: Values, counts: Ids) -> NDArray[np.bool_]:
        """Where the positive class occurs."""
        return np.asarray(sums[0, 1] > 0)


class Specificity(_AtThreshold):
    """The share of the other class that is not flagged. Rows without one have none."""

    kind, words = "specificity", "share of the client's test rows of the other class that are not flagged"
    partial = True

    def value(self, sums: Values, counts: Ids) -> Values:
        """Not flagged by all, of the other class."""
        return np.asarray(1.0 - sums[1, 0] / sums[0, 0])

    def is_defined(self, sums: Values, counts: Ids) -> NDArray[np.bool_]:
        """Where the other class occurs."""
        return np.asarray(sums[0, 0] > 0)


class NetBenefit(_AtThreshold):
    """True positives less false positives weighted by the odds of the threshold, a row (Vickers and Elkin, Medical Decision Making 26,
    2006): what acting on the flagged is worth, in true positives."""

    kind, words = "net_benefit", "net benefit of acting on the flagged of the client's test rows, in true positives a row"

    def value(self, sums: Values, counts: Ids) -> Values:
        """Flagged rows of both classes, weighed."""
        odds = self.threshold / (1.0 - self.threshold)
        return np.asarray((sums[1, 1] - odds * sums[1, 0]) / counts)
