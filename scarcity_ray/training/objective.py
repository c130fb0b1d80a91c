"""The two losses: cross-entropy and squared error, with what a step keeps of them.

A step leaves its *outputs* (log-probabilities, or residuals), from which the losses of a whole block of steps are computed at
once. What the gradient needs besides the scores, its *grad_inputs*, is made once a block as well.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

TaskKind = Literal["classification", "regression"]

_MANY = 32  # classes: torch's own log_softmax works row by row, and takes three times as long for rows shorter than this


GradInputs = tuple[Tensor, ...]
"""What enters a gradient besides the scores (targets, weights, step size): arrays of the same leading dimensions as the scores."""


class Objective(Protocol):
    """A loss a row. Shapes: scores, outputs `[..., outputs]`; y `[...]` or `[..., outputs]`; scale `[...]`."""

    def grad_inputs(self, y: Tensor, scale: Tensor, num_outputs: int) -> GradInputs:
        """What the gradient of `sum(scale * loss)` needs besides the scores, `[..., 1 or outputs]` each."""

    def gradient(self, scores: Tensor, y: Tensor, grad_inputs: GradInputs, outputs: Tensor, out: Tensor) -> Tensor:
        """The gradient of `sum(scale * loss)` by the scores, into `out`; leaves log-probabilities or residuals in `outputs`."""

    def outputs(self, scores: Tensor, y: Tensor) -> Tensor:
        """Log-probabilities or residuals."""

    def total(self, outputs: Tensor, grad_inputs: GradInputs) -> Tensor:
        """`sum(scale * loss)`, differentiable."""

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each row `[...]`."""


class CrossEntropy:
    """Minus the log-probability of the row's class."""

    def grad_inputs(self, y: Tensor, scale: Tensor, num_outputs: int) -> GradInputs:
        """`-scale` at the row's class, and `scale`."""
        scale = scale[..., None]
        return torch.zeros(*y.shape, num_outputs, dtype=scale.dtype).scatter_(-1, y[..., None], -scale), scale

    def gradient(self, scores: Tensor, y: Tensor, grad_inputs: GradInputs, outputs: Tensor, out: Tensor) -> Tensor:
        """`scale * (probabilities - one-hot)`."""
        at_class, scale = grad_inputs
        if scores.shape[-1] >= _MANY:
            torch.log_softmax(scores, -1, out=outputs)
            torch.ops.aten._log_softmax_backward_data.out(at_class, outputs, -1, outputs.dtype, out=out)
            return out
        exponentials = torch.sub(scores, scores.amax(-1, keepdim=True), out=outputs).exp()
        total = exponentials.sum(-1, keepdim=True)
        outputs.sub_(total.log())
        return torch.addcmul(at_class, exponentials, scale / total, out=out)

    def outputs(self, scores: Tensor, y: Tensor) -> Tensor:
        """Log-probabilities."""
        if scores.shape[-1] >= _MANY:
            return torch.log_softmax(scores, -1)
        found = scores - scores.amax(-1, keepdim=True)
        return found - found.exp().sum(-1, keepdim=True).log()

    def total(self, outputs: Tensor, grad_inputs: GradInputs) -> Tensor:
        """Differentiable, for autograd."""
        return (outputs * grad_inputs[0]).sum()

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """`-log p(y)`."""
        return -outputs.gather(-1, y[..., None])[..., 0]


class SquaredError:
    """The squared residual, its mean over the outputs (torch's MSELoss)."""

    def grad_inputs(self, y: Tensor, scale: Tensor, num_outputs: int) -> GradInputs:
        """`2 scale / num_outputs`."""
        return ((2 * scale / num_outputs)[..., None],)

    def gradient(self, scores: Tensor, y: Tensor, grad_inputs: GradInputs, outputs: Tensor, out: Tensor) -> Tensor:
        """Twice the residuals, weighted."""
        return torch.mul(torch.sub(scores, y, out=outputs), grad_inputs[0], out=out)

    def outputs(self, scores: Tensor, y: Tensor) -> Tensor:
        """Residuals."""
        return scores - y

    def total(self, outputs: Tensor, grad_inputs: GradInputs) -> Tensor:
        """Differentiable, for autograd."""
        return (outputs * outputs * (0.5 * grad_inputs[0])).sum()

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean square over the outputs."""
        return outputs.square().mean(-1)


def objective_for(task: TaskKind) -> Objective:
    """The loss of a task."""
    return CrossEntropy() if task == "classification" else SquaredError()
