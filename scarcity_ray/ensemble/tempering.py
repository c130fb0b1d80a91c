"""The temperature of scores: it sets how sharp their softmax is."""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 24


def tempered(scores: Tensor, classes: Tensor, weights: Tensor, low: float, high: float) -> float:
    """The T from low to high for which `softmax(scores / T)` has the lowest weighted log-loss.

    scores: `[n, outputs]`. classes, weights: `[n]`. The log-loss is convex in 1 / T, so the zero of its slope is found by
    bisection on the logarithm of T.
    """
    true = scores.gather(1, classes[:, None])[:, 0]

    def too_soft(t: float) -> bool:
        """Whether a lower T would have a lower log-loss."""
        expected = (torch.softmax(scores / t, dim=1) * scores).sum(1)
        return float((weights * (expected - true)).sum()) < 0

    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if too_soft(middle) else (middle, high)
    return high
