"""A strategy's view of k clients in one round: their numbers, minibatches, gradients, and local training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Shards
from scarcity_ray.training.batches import Batch, BatchPlan, gather, padded_rows
from scarcity_ray.training.evaluate import evaluate, mean_over_rows, predictive_entropy
from scarcity_ray.training.optimizer import Affine, optimizer_for
from scarcity_ray.training.problem import Problem


class Task:
    """k clients of one round, with one row of parameters each.

    Arguments:
    ids: int64 `[k]`, in descending order of steps, as `training.chunks` returns them.
    steps: local steps of each client; None: as `problem.local` says.
    norms: whether local training keeps the norms of the gradients (then it is slower).

    Attributes:
    samples, steps, lr: `[k, 1]`, training rows, local steps and step size of each client.
    train_loss: float64 `[k]`, mean loss over all rows of the last local training, each at the step that used it. NaN
    for a client without steps.
    loss_norm: float64 `[k]`, root of the mean square of the same rows' losses.
    grad_norms: mean and standard deviation, float64 `[k]` each, of the gradient's norm over the local steps. NaN for a
    client without steps, or if `norms` is false.
    models: the rows that the last local training started from, and those that it returned; None without one.
    """

    def __init__(
        self,
        problem: Problem,
        shards: Shards,
        ids: NDArray[np.int64],
        round: int,
        steps: NDArray[np.int64] | None = None,
        norms: bool = False,
    ) -> None:
        self.problem, self.shards, self.round, self.norms = problem, shards, round, norms
        self.ids = np.asarray(ids, dtype=np.int64)
        self.k = len(self.ids)
        starts = shards.starts[self.ids]
        counts = shards.starts[self.ids + 1] - starts
        taken = problem.local.steps_for(counts) if steps is None else np.where(counts > 0, steps, 0).astype(np.int64)
        widths = padded_rows(counts, problem.local.batch_size)
        if np.any(np.diff(taken) > 0) or np.any(widths != widths[:1]):
            raise ValueError("the clients of a task must be in descending order of steps and have one minibatch width: use chunks()")
        dtype = problem.layout.dtype
        self.samples = torch.from_numpy(counts).to(dtype)[:, None]
        self.steps = torch.from_numpy(taken).to(dtype)[:, None]
        self.lr = torch.full((self.k, 1), problem.local.lr, dtype=dtype)
        width = int(widths[0]) if self.k else 1
        self.plan = BatchPlan(problem.seed, round, self.ids, starts, counts, taken, problem.local.batch_size, width)
        self.train_loss, self.loss_norm = np.full(self.k, np.nan), np.full(self.k, np.nan)
        self.grad_norms = (np.full(self.k, np.nan), np.full(self.k, np.nan))
        self.models: tuple[Tensor, Tensor] | None = None

    def rows(self, i: int) -> tuple[Tensor, Tensor]:
        """The i-th client's training rows (x `[n, *shape]`, y), in the order of the shard. A copy."""
        index = np.arange(self.plan.starts[i], self.plan.starts[i] + self.plan.counts[i])
        dtype = self.problem.layout.dtype
        return gather(self.shards.x, index, dtype), gather(self.shards.y, index, dtype)

    def batches(self) -> Iterator[Batch]:
        """The minibatches of local training, step by step. Each has the rows of the clients that still train, `[a, width, ...]`."""
        for block in self.plan.blocks(self.shards, self.problem.layout.dtype):
            yield from block.batches

    def grad(self, theta: Tensor, batch: Batch) -> Tensor:
        """The gradient `[a, P]` of the mean loss of one minibatch, at the first a rows of `theta`."""
        rows = theta[: batch.active].contiguous()
        into = torch.zeros_like(rows)
        objective = self.problem.learner.objective
        outputs = rows.new_zeros(*batch.weight.shape, self.problem.outputs)
        self.problem.learner.step(rows, into, 0.0)(batch, objective.grad_inputs(batch.y, batch.weight, self.problem.outputs), outputs)
        return into

    def again(self, steps: NDArray[np.int64]) -> tuple[Task, Tensor]:
        """The same clients with other steps `[k]`: a task, and which of the clients here each of its clients is, int64 `[k]`."""
        order = np.argsort(-steps, kind="stable")
        return Task(self.problem, self.shards, self.ids[order], self.round, steps[order], self.norms), torch.from_numpy(order)

    @property
    def effective_steps(self) -> Tensor:
        """The steps A `[k, 1]` for which `x - y` counts, in units of the step size: `(x - y) / (lr A)` is a mean of the gradients.

        The number of steps K, and with momentum rho `(K - rho (1 - rho^K) / (1 - rho)) / (1 - rho)`, as each gradient acts again in
        later steps (Wang et al., NeurIPS 2020, section 3). For SGD alone.
        """
        rho, steps = self.problem.local.momentum, self.steps.double()
        return self.steps if not rho else ((steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)).to(self.steps.dtype)

    def full_gradient(self, theta: Tensor) -> Tensor:
        """The gradient `[k, P]` of each client's mean loss over all its training rows, at `theta [1 or k, P]`; 0 without rows."""
        all_rows, order = self.again(self.problem.local.epoch_steps(self.plan.counts))
        x, gradient = theta.expand(self.k, -1)[order], theta.new_zeros(self.k, theta.shape[1])
        for batch in all_rows.batches():
            share = torch.from_numpy(batch.sizes).to(x.dtype)[:, None] / all_rows.samples[: batch.active]
            gradient[: batch.active] += share * all_rows.grad(x, batch)
        return gradient[torch.argsort(order)]

    def loss(self, theta: Tensor) -> NDArray[np.float64]:
        """Mean loss over each client's training rows, float64 `[k]`, at `theta [k or 1, P]`."""
        return evaluate(self.problem, theta, self.shards, self.ids)[0]

    def predictive_entropy(self, theta: Tensor) -> NDArray[np.float64]:
        """Mean entropy of the predictions for each client's training rows, nats, float64 `[k]`; NaN for regression."""
        return predictive_entropy(self.problem, theta, self.shards, self.ids)

    def local_sgd(
        self,
        x: Tensor,
        *,
        grad_offset: Tensor | None = None,
        prox_weight: float = 0.0,
        prox_center: Tensor | None = None,
        free: Tensor | None = None,
    ) -> Tensor:
        """Trains the clients from `x [1 or k, P]` and returns their new rows y `[k, P]`.

        The optimizer of `problem.local` gets `g + grad_offset + prox_weight (y - prox_center)` in place of the loss's
        gradient g; grad_offset and prox_center are `[1 or k, P]`. Clipping applies to g alone. free: the numbers of a row that are
        trained, boolean `[P]`; the others keep their bits, and their gradient does not count in a norm. All are trained if left out.
        """
        learner, local, num_outputs = self.problem.learner, self.problem.local, self.problem.outputs
        y = torch.empty(self.k, x.shape[1], dtype=x.dtype).copy_(x)
        optimizer = optimizer_for(local, learner, y, Affine.of(grad_offset, prox_weight, prox_center), self.norms, free)
        losses, squares, rows = np.zeros(self.k), np.zeros(self.k), np.zeros(self.k, dtype=np.int64)
        for block in self.plan.blocks(self.shards, y.dtype):
            grad_inputs = learner.objective.grad_inputs(block.y, block.weight * optimizer.scale, num_outputs)
            outputs = torch.empty(len(block.y), num_outputs, dtype=y.dtype)
            split = [batch.active * self.plan.width for batch in block.batches]
            parts = [torch.split(part, split) for part in (outputs, *grad_inputs)]
            for batch, step_outputs, *own in zip(block.batches, *parts, strict=True):
                shape = (batch.active, self.plan.width, -1)
                optimizer.step(batch, tuple(part.view(shape) for part in own), step_outputs.view(shape))
                optimizer.keep_frozen(batch.active)
            row_losses = learner.objective.losses(outputs, block.y).double().numpy()
            real = row_losses[block.real]
            np.add.at(losses, block.client, real)  # each client's losses are added in the order of its own steps
            np.add.at(squares, block.client, real * real)
            rows += np.bincount(block.client, minlength=self.k)
        optimizer.finish(x, self.steps)
        optimizer.keep_frozen(self.k)
        self.train_loss, self.loss_norm = mean_over_rows(losses, rows), np.sqrt(mean_over_rows(squares, rows))
        self.grad_norms, self.models = optimizer.norms(self.k), (x, y)
        return y
