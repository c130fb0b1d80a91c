"""Personalised FedAvg. Fallah, Mokhtari and Ozdaglar, "Personalized Federated Learning with Theoretical Guarantees: A

Model-Agnostic Meta-Learning Approach", NeurIPS 2020, Algorithm 1 in its first-order form, Per-FedAvg (FO).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import State
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.strategies.outer_step import OuterStep
from scarcity_ray.training.batches import Batch
from scarcity_ray.training.learner import Learner, Step
from scarcity_ray.training.local import Local
from scarcity_ray.training.objective import GradInputs
from scarcity_ray.training.optimizer import Affine, optimizer_for
from scarcity_ray.training.task import Task
from scarcity_ray.training.train_loss import TrainLoss


@STRATEGIES.register
class PerFedAvg(OuterStep):
    """An initial model that does well after one gradient step of each client: min over x of mean_i f_i(x - alpha grad f_i(x)).

    A local step takes two minibatches D, D' of the client, one after the other in the order of its epochs:

        y~ = y - alpha grad(y; D)
        y <- y - beta grad(y~; D')          beta: `local.lr`; any optimizer of `local` takes this gradient

    so a round of E epochs reads each row 2 E times. Each client is tested after one step of size alpha from x, with the
    gradient over all its training rows (the authors' code adapts on test rows). The paper counts clients alike:
    `weighted: false`.
    """

    kind: Literal["per_fed_avg"] = "per_fed_avg"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    alpha: Annotated[float, Field(ge=0, description="step size of the adaptation")] = 0.1

    @property
    def gradients(self) -> float:
        """One to adapt, and one of the adapted model."""
        return 2.0

    def trained(self, task: Task, x: Tensor) -> Tensor:
        problem, k = task.problem, task.k
        ahead = _Ahead(problem.learner, self.alpha, problem.outputs)
        y = x.expand(k, -1).clone()
        optimizer = optimizer_for(problem.local, ahead, y, Affine(), task.norms)
        loss = TrainLoss(problem.learner.objective, k)
        twice = Task(problem, task.shards, task.ids, task.round, 2 * task.plan.steps)
        batches = twice.batches()
        for step, (first, second) in enumerate(zip(batches, batches, strict=True)):
            ahead.first = first
            batch = Batch(second.x, second.y, second.weight, second.sizes, step)
            outputs = y.new_zeros(*batch.weight.shape, problem.outputs)
            optimizer.step(batch, ahead.grad_inputs(batch, optimizer.scale), outputs)
            loss.add(batch, outputs)
        optimizer.finish(x, task.steps)
        task.train_loss, task.loss_norm = loss.mean(), loss.norm()
        task.grad_norms, task.models = optimizer.norms(k), (x, y)
        return y

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return local.epoch_steps(samples)  # an epoch: its minibatches together are all rows

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        x = broadcast["x"][None]
        return {"adapted": x - self.alpha * task.full_gradient(x)}


class _Ahead:
    """A learner whose gradient is the wrapped one's after a step of size alpha on the minibatch `first`."""

    first: Batch

    def __init__(self, learner: Learner, alpha: float, num_outputs: int) -> None:
        self.learner, self.alpha, self.num_outputs = learner, alpha, num_outputs
        self.layout, self.objective = learner.layout, learner.objective

    def grad_inputs(self, batch: Batch, scale: float) -> GradInputs:
        return self.objective.grad_inputs(batch.y, batch.weight * scale, self.num_outputs)

    def step(self, theta: Tensor, into: Tensor, beta: float) -> Step:
        ahead = torch.empty_like(theta)
        go, descend = self.learner.step(ahead, ahead, 1.0), self.learner.step(ahead, into, beta)

        def step(batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
            ahead[: batch.active].copy_(theta[: batch.active])
            go(self.first, self.grad_inputs(self.first, -self.alpha), torch.empty_like(outputs))
            descend(batch, grad_inputs, outputs)

        return step

    def scores(self, theta: Tensor, x: Tensor) -> Tensor:
        return self.learner.scores(theta, x)
