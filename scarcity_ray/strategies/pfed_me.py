"""pFedMe. T. Dinh, Tran and Nguyen, "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020, Algorithm 1."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, too_steep
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.own_model import OwnModel
from scarcity_ray.training.optimizer import Affine, optimizer_for
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task
from scarcity_ray.training.train_loss import TrainLoss


@STRATEGIES.register
class PFedMe(OwnModel, SampledStrategy, OneModel):
    """A client's own model theta is the minimum of f_i(theta) + lam / 2 |theta - w|^2, and w goes down the gradient of that minimum.

        w = theta = x;  in each local step, on one minibatch:
            inner_steps times:  theta <- theta - personal_lr (grad f_i(theta) + lam (theta - w))       (equation 7)
            w <- w - local.lr lam (w - theta)
        x <- (1 - beta) x + beta mean_i w_i

    The minibatch stays the same for the inner steps. Each client keeps its theta, which is tested; x is tested beside it. The authors' code
    adds 0.001 theta to the gradient: `local.weight_decay`. It may diverge where `local.lr lam` is beyond 2.
    """

    kind: Literal["pfed_me"] = "pfed_me"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    lam: Annotated[float, Field(gt=0, description="how strongly a client's own model is pulled to the local copy of the global one")] = 15.0
    inner_steps: Annotated[int, Field(ge=1, description="steps of the own model on each minibatch (the paper's K)")] = 5
    personal_lr: Annotated[float, Field(gt=0, description="step size of the own model")] = 0.01
    beta: Annotated[float, Field(gt=0, description="how far the global model moves to the clients' mean; 1: all the way")] = 1.0

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        local, found = problem.local, super().refused(problem, federation)
        if local.momentum:
            found.append(SpecError(("local", "momentum"), local.momentum, "the steps of pfed_me have no momentum: set it to 0"))
        return found + too_steep("lam", self.lam, local.model_copy(update={"lr": self.personal_lr}), "personal_lr")

    @property
    def gradients(self) -> float:
        """The inner steps."""
        return float(self.inner_steps)

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        problem, x = task.problem, broadcast["x"][None]
        w, theta = x.expand(task.k, -1).clone(), x.expand(task.k, -1).clone()
        inner = problem.local.model_copy(update={"lr": self.personal_lr})
        descent = optimizer_for(inner, problem.learner, theta, Affine(self.lam), task.norms)  # lam w is added after each step
        loss = TrainLoss(problem.learner.objective, task.k)
        for batch in task.batches():
            a = batch.active
            inputs = problem.learner.objective.grad_inputs(batch.y, batch.weight * descent.scale, problem.outputs)
            for i in range(self.inner_steps):
                outputs = theta.new_zeros(*batch.weight.shape, problem.outputs)
                descent.step(batch, inputs, outputs)
                theta[:a].add_(w[:a], alpha=self.personal_lr * self.lam)
                if i == 0:
                    loss.add(batch, outputs)
            w[:a].lerp_(theta[:a], problem.local.lr * self.lam)
        task.train_loss, task.loss_norm = loss.mean(), loss.norm()
        task.grad_norms, task.models = descent.norms(task.k), (x, theta)
        return ClientResult({"x": (w, self.weights(task))}, self.kept(task, client, theta))

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        mean, x = aggregate.mean["x"], state.broadcast["x"]
        new = mean if self.beta == 1 else torch.lerp(x.double(), mean.double(), self.beta).to(x.dtype)
        return ServerUpdate(ServerState({"x": new}))
