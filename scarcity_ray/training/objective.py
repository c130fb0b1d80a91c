"""The two losses: cross-entropy and squared error.

A step stores its *outputs* (log-probabilities, or residuals). From them the losses of a whole block of steps are computed at once.
The gradient needs *grad_inputs* besides the scores. They are computed once per block too.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

TaskKind = Literal["classification", "regression"]

_MANY = 32  # classes: torch's log_softmax works row by row and takes three times as long for shorter rows


GradInputs = tuple[Tensor, ...]
"""The inputs of a gradient besides the scores (targets, weights, step size): arrays with the leading dimensions of the scores."""


class Objective(Protocol):
    """A loss for each row. Shapes: scores, outputs `[..., outputs]`; y `[...]` or `[..., outputs]`; scale `[...]`."""

    def grad_inputs(self, y: Tensor, scale: Tensor, num_outputs: int) -> GradInputs:
        """The inputs of the gradient of `sum(scale * loss)` besides the scores, `[..., 1 or outputs]` each."""

    def gradient(self, scores: Tensor, y: Tensor, grad_inputs: GradInputs, outputs: Tensor, out: Tensor) -> Tensor:
        """The gradient of `sum(scale * loss)` by the scores, written into `out`; writes log-probabilities or residuals into `outputs`."""

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
        below_max = scores - scores.amax(-1, keepdim=True)
        return below_max - below_max.exp().sum(-1, keepdim=True).log()

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
