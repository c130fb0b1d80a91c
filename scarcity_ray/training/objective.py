"""The two losses: cross-entropy and squared error, with what a step keeps of them.

A step leaves its *evidence* (log-probabilities, or residuals), from which the losses of a whole block of steps are
read at once; its *seeds* are made once a block as well.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

TaskKind = Literal["classification", "regression"]

_MANY = 32  # classes: torch's own log_softmax works row by row, and takes three times as long for rows shorter than this


Seeds = tuple[Tensor, ...]
"""What enters a gradient besides the scores (targets, weights, step size): arrays of the same leading dimensions as the scores."""


class Objective(Protocol):
    """A loss a row. Shapes: scores, evidence `[..., outputs]`; y `[...]` or `[..., outputs]`; scale `[...]`."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Seeds:
        """What the gradient of `sum(scale * loss)` needs besides the scores, `[..., 1 or outputs]` each."""

    def gradient(self, scores: Tensor, y: Tensor, seeds: Seeds, evidence: Tensor, out: Tensor) -> Tensor:
        """The gradient of `sum(scale * loss)` by the scores, into `out`; leaves the evidence in `evidence`."""

    def evidence(self, scores: Tensor, y: Tensor) -> Tensor:
        """Log-probabilities or residuals."""

    def total(self, evidence: Tensor, seeds: Seeds) -> Tensor:
        """`sum(scale * loss)`, differentiable."""

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """The loss of each row `[...]`."""


class CrossEntropy:
    """Minus the log-probability of the row's class."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Seeds:
        """`-scale` at the row's class, and `scale`."""
        scale = scale[..., None]
        return torch.zeros(*y.shape, outputs, dtype=scale.dtype).scatter_(-1, y[..., None], -scale), scale

    def gradient(self, scores: Tensor, y: Tensor, seeds: Seeds, evidence: Tensor, out: Tensor) -> Tensor:
        """`scale * (probabilities - one-hot)`."""
        at_class, scale = seeds
        if scores.shape[-1] >= _MANY:
            torch.log_softmax(scores, -1, out=evidence)
            torch.ops.aten._log_softmax_backward_data.out(at_class, evidence, -1, evidence.dtype, out=out)
            return out
        exponentials = torch.sub(scores, scores.amax(-1, keepdim=True), out=evidence).exp()
        total = exponentials.sum(-1, keepdim=True)
        evidence.sub_(total.log())
        return torch.addcmul(at_class, exponentials, scale / total, out=out)

    def evidence(self, scores: Tensor, y: Tensor) -> Tensor:
        """Log-probabilities."""
        if scores.shape[-1] >= _MANY:
            return torch.log_softmax(scores, -1)
        found = scores - scores.amax(-1, keepdim=True)
        return found - found.exp().sum(-1, keepdim=True).log()

    def total(self, evidence: Tensor, seeds: Seeds) -> Tensor:
        """Differentiable, for autograd."""
        return (evidence * seeds[0]).sum()

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """`-log p(y)`."""
        return -evidence.gather(-1, y[..., None])[..., 0]


class SquaredError:
    """The squared residual, its mean over the outputs (torch's MSELoss)."""

    def seeds(self, y: Tensor, scale: Tensor, outputs: int) -> Seeds:
        """`2 scale / outputs`."""
        return ((2 * scale / outputs)[..., None],)

    def gradient(self, scores: Tensor, y: Tensor, seeds: Seeds, evidence: Tensor, out: Tensor) -> Tensor:
        """Twice the residuals, weighted."""
        return torch.mul(torch.sub(scores, y, out=evidence), seeds[0], out=out)

    def evidence(self, scores: Tensor, y: Tensor) -> Tensor:
        """Residuals."""
        return scores - y

    def total(self, evidence: Tensor, seeds: Seeds) -> Tensor:
        """Differentiable, for autograd."""
        return (evidence * evidence * (0.5 * seeds[0])).sum()

    def losses(self, evidence: Tensor, y: Tensor) -> Tensor:
        """Mean square over the outputs."""
        return evidence.square().mean(-1)


def objective_for(task: TaskKind) -> Objective:
    """The loss of a task."""
    return CrossEntropy() if task == "classification" else SquaredError()
