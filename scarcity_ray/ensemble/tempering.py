"""The temperature of scores: how sharp their softmax may be."""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 24


def tempered(scores: Tensor, classes: Tensor, weights: Tensor, low: float, high: float) -> float:
    """The T from low to high for which `softmax(scores / T)` has the least log-loss, weighted by row.

    scores `[n, outputs]`, classes `[n]`, weights `[n]`. In 1 / T the log-loss is convex: its slope is bisected, on T's
    logarithm.
    """
    true = scores.gather(1, classes[:, None])[:, 0]

    def too_soft(t: float) -> bool:
        """Whether the log-loss falls as T does."""
        expected = (torch.softmax(scores / t, dim=1) * scores).sum(1)
        return float((weights * (expected - true)).sum()) < 0

    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if too_soft(middle) else (middle, high)
    return high
