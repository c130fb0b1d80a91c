"""The optimizers of local training on rows of parameters, in PyTorch's conventions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.training.batches import Batch
from scarcity_ray.training.learner import Learner
from scarcity_ray.training.local import Local
from scarcity_ray.training.objective import GradInputs
from scarcity_ray.training.parameters import runs


@dataclass(frozen=True)
class Affine:
    """A term that is added to the gradient at y: `prox_weight * y + constant` (`constant` is `[1 or k, P]` or None)."""

    prox_weight: float = 0.0
    constant: Tensor | None = None

    @classmethod
    def of(cls, grad_offset: Tensor | None, prox_weight: float, prox_center: Tensor | None) -> Affine:
        """`grad_offset + prox_weight (y - prox_center)`."""
        constant = grad_offset
        if prox_weight and prox_center is not None:
            constant = -prox_weight * prox_center if grad_offset is None else grad_offset - prox_weight * prox_center
        return cls(prox_weight, constant)


class Optimizer:
    """Updates the rows y `[k, P]` in place. scale: factor of the sample weights that are given to `step`.

    free: boolean `[P]`, the numbers of a row that are trained; None for all.
    """

    scale = 1.0

    def __init__(self, local: Local, learner: Learner, y: Tensor, affine: Affine, free: Tensor | None = None) -> None:
        self.local, self.learner, self.y, self.free = local, learner, y, free
        self.decay = local.weight_decay + affine.prox_weight
        self.constant = None if affine.constant is None else affine.constant.expand(len(y), -1)
        self.frozen = [] if free is None else [(run, y[:, run].clone()) for run in runs(~free)]

    def step(self, batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
        """One local step of the clients of the batch."""
        raise NotImplementedError

    def keep_frozen(self, active: int) -> None:
        """Gives the numbers that are not trained back to the first `active` clients, whose step just changed them."""
        for run, before in self.frozen:
            self.y[:active, run] = before[:active]

    def finish(self, x: Tensor, steps: Tensor) -> None:
        """Called once after the last step. x: `[1 or k, P]`, the rows before training. steps: `[k, 1]`."""

    def norms(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the gradient's norm over the steps of each client; NaN if they are not kept."""
        return np.full(k, np.nan), np.full(k, np.nan)


class PlainSGD(Optimizer):
    """`y <- (1 - lr decay) y - lr g - lr constant`: one product computes the first two terms; the sample weights contain the step size."""

    def __init__(self, local: Local, learner: Learner, y: Tensor, affine: Affine, free: Tensor | None = None) -> None:
        super().__init__(local, learner, y, affine, free)
        self.scale = -local.lr
        self.beta = 1 - local.lr * self.decay
        self.offset = None if self.constant is None else -local.lr * self.constant
        self.descend = learner.step(y, y, self.beta)

    def step(self, batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
        """One local step of the clients of the batch."""
        self.descend(batch, grad_inputs, outputs)
        if self.offset is not None:
            self.y[: batch.active].add_(self.offset[: batch.active])

    def finish(self, x: Tensor, steps: Tensor) -> None:
        """Corrects the rounding of beta to the rows' precision: each step loses 3e-8 of y, as much as a small decay takes."""
        lost = (1 - self.local.lr * self.decay) - float(torch.tensor(self.beta, dtype=x.dtype))
        if lost:
            self.y.add_(steps * lost * x)


class Momentum(Optimizer):
    """`v <- mu v + g + decay y + constant; y <- y - lr v`: the gradient's product is added to the velocity directly."""

    def __init__(self, local: Local, learner: Learner, y: Tensor, affine: Affine, free: Tensor | None = None) -> None:
        super().__init__(local, learner, y, affine, free)
        self.v = torch.zeros_like(y)
        self.accumulate = learner.step(y, self.v, local.momentum)

    def step(self, batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
        """One local step of the clients of the batch."""
        a = batch.active
        self.accumulate(batch, grad_inputs, outputs)
        if self.decay:
            self.v[:a].add_(self.y[:a], alpha=self.decay)
        if self.constant is not None:
            self.v[:a].add_(self.constant[:a])
        self.y[:a].add_(self.v[:a], alpha=-self.local.lr)


class Buffered(Optimizer):
    """Computes the gradient separately first, for clipping, Adam, and norms."""

    def __init__(self, local: Local, learner: Learner, y: Tensor, affine: Affine, free: Tensor | None = None) -> None:
        super().__init__(local, learner, y, affine, free)
        self.g, self.m, self.v = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
        self.count = np.zeros(len(y))
        self.norm_stats = np.zeros((2, len(y)))
        self.gradient = learner.step(y, self.g, 0.0)

    def step(self, batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
        """One local step of the clients of the batch."""
        a, local = batch.active, self.local
        g, y = self.g[:a], self.y[:a]
        self.gradient(batch, grad_inputs, outputs)
        if self.free is not None:
            g.mul_(self.free)
        norm = torch.linalg.vector_norm(g, dim=1, dtype=torch.float64)
        self.keep(norm.numpy())
        if local.clip_norm is not None:
            g.mul_((local.clip_norm / (norm + 1e-6)).clamp(max=1).to(g.dtype)[:, None])  # torch's clip_grad_norm_
        if self.decay:
            g.add_(y, alpha=self.decay)
        if self.constant is not None:
            g.add_(self.constant[:a])
        if local.optimizer == "adam":
            t = batch.step + 1
            m = self.m[:a].lerp_(g, 0.1)
            v = self.v[:a].mul_(0.999).addcmul_(g, g, value=0.001)
            y.addcdiv_(m, v.sqrt().div_((1 - 0.999**t) ** 0.5).add_(1e-8), value=-local.lr / (1 - 0.9**t))
        elif local.momentum:
            v = self.v[:a].mul_(local.momentum).add_(g)
            y.add_(v, alpha=-local.lr)
        else:
            y.add_(g, alpha=-local.lr)

    def keep(self, norm: NDArray[np.float64]) -> None:
        """Welford's running mean and sum of squares of each client's norms."""
        a = len(norm)
        self.count[:a] += 1
        with np.errstate(invalid="ignore", over="ignore"):  # a client that diverged
            change = norm - self.norm_stats[0, :a]
            self.norm_stats[0, :a] += change / self.count[:a]
            self.norm_stats[1, :a] += change * (norm - self.norm_stats[0, :a])

    def norms(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the gradient's norm over the steps of each client; NaN for a client without steps."""
        some = np.where(self.count > 0, self.count, np.nan)
        return np.where(self.count > 0, self.norm_stats[0], np.nan), np.sqrt(self.norm_stats[1] / some)


def optimizer_for(local: Local, learner: Learner, y: Tensor, affine: Affine, norms: bool, free: Tensor | None = None) -> Optimizer:
    """The fastest optimizer that supports the settings of `local`."""
    if norms or local.clip_norm is not None or local.optimizer == "adam":
        return Buffered(local, learner, y, affine, free)
    return (Momentum if local.momentum else PlainSGD)(local, learner, y, affine, free)
