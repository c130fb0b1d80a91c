"""The two losses: cross-entropy and squared error, with what a step keeps of them.

A step leaves its *evidence* (log-probabilities, or residuals), from which the losses of a whole block of steps are
read at once; what enters the gradient besides (targets, weights, step size) is its *seeds*, made once a block.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

TaskKind = Literal["classification", "regression"]

_MANY = 32  # classes: torch's own log_softmax works row by row, and takes three times as long for rows shorter than this


class Objective(Protocol):
    """A loss a row. Shapes: scores, evidence `[..., outputs]`; y `[...]` or `[..., outputs]`; scale `[...]`."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Tensor:
        """What `delta` needs for the gradient of `sum(scale * loss)`; flat arrays, `[slots, ...]`."""

    def evidence(self, scores: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Log-probabilities or residuals."""

    def delta(self, evidence: Tensor, seeds: Tensor, out: Tensor | None = None) -> Tensor:
        """The gradient of `sum(scale * loss)` by the scores."""

    def total(self, evidence: Tensor, seeds: Tensor) -> Tensor:
        """`sum(scale * loss)`, differentiable."""

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """The loss of each row `[...]`."""


class CrossEntropy:
    """Minus the log-probability of the row's class."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Tensor:
        """`-scale` at the row's class."""
        return torch.zeros(*y.shape, outputs, dtype=scale.dtype).scatter_(-1, y[..., None], -scale[..., None])

    def evidence(self, scores: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Log-probabilities."""
        if scores.shape[-1] >= _MANY:
            return torch.log_softmax(scores, -1) if out is None else torch.log_softmax(scores, -1, out=out)
        found = torch.sub(scores, scores.amax(-1, keepdim=True), out=out)
        return found.sub_(found.exp().sum(-1, keepdim=True).log_())

    def delta(self, evidence: Tensor, seeds: Tensor, out: Tensor | None = None) -> Tensor:
        """`scale * (probabilities - one-hot)`."""
        if evidence.shape[-1] < _MANY:
            return torch.sub(seeds, evidence.exp().mul_(seeds.sum(-1, keepdim=True)), out=out)
        if out is None:
            out = torch.empty_like(evidence)
        torch.ops.aten._log_softmax_backward_data.out(seeds, evidence, -1, evidence.dtype, out=out)
        return out

    def total(self, evidence: Tensor, seeds: Tensor) -> Tensor:
        """Differentiable, for autograd."""
        return (evidence * seeds).sum()

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """`-log p(y)`."""
        return -evidence.gather(-1, y[..., None])[..., 0]


class SquaredError:
    """The squared residual, its mean over the outputs (torch's MSELoss)."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Tensor:
        """`scale / outputs`."""
        return (scale / outputs)[..., None]

    def evidence(self, scores: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Residuals."""
        return torch.sub(scores, y, out=out) if out is not None else scores - y

    def delta(self, evidence: Tensor, seeds: Tensor, out: Tensor | None = None) -> Tensor:
        """Twice the residuals, weighted."""
        return torch.mul(evidence, 2 * seeds, out=out) if out is not None else evidence * (2 * seeds)

    def total(self, evidence: Tensor, seeds: Tensor) -> Tensor:
        """Differentiable, for autograd."""
        return (evidence * evidence * seeds).sum()

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """Mean square over the outputs."""
        return evidence.square().mean(-1)


def objective_for(task: TaskKind) -> Objective:
    """The loss of a task."""
    return CrossEntropy() if task == "classification" else SquaredError()
