"""FedNova. Wang, Liu, Liang, Joshi and Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated

Optimization", NeurIPS 2020, equations 6 and 8.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, too_steep
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.revealed import GRADIENTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FedNova(SampledStrategy, OneModel):
    """Clients that take different numbers of steps count by their data alone, not by their steps.

        d_i = (x - w_i) / A_i,    x <- x - (sum_i p_i A_i) (sum_i p_i d_i)

    p_i are the weights of the clients heard, which sum to 1; A_i is `Task.effective_steps` K_i (more with momentum), or
    with a proximal term (1 - (1 - lr mu)^K) / (lr mu), and then x moves by sum_i p_i K_i in place of sum_i p_i A_i (the paper's
    tau_eff). Where all take the same number of steps it is FedAvg. The optimum is reached only as lr goes to 0.
    """

    kind: Literal["fed_nova"] = "fed_nova"
    sends: ClassVar[str] = "its mean gradient, as large as a model, and 4 bytes, each round"
    receives: ClassVar[str] = "the model, each round"
    reveals: ClassVar[str] = f"{GRADIENTS}; and how many steps it took, so about how many rows it has"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    exact_sums: ClassVar[bool] = True
    mu: Annotated[float, Field(ge=0, description="weight of a proximal term as FedProx has it; 0 for none")] = 0.0

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        found = super().refused(problem, federation) + too_steep("mu", self.mu, problem.local)
        if self.mu and problem.local.momentum:
            message = (
                f"the steps of local momentum ({problem.local.momentum:g}) and a proximal term cannot be counted together: use one of them"
            )
            found.append(SpecError(("mu",), self.mu, message))
        return found

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, w, steps = broadcast["x"][None], self.weights(task), task.steps
        y = task.local_sgd(x, prox_weight=self.mu, prox_center=x)
        counted = task.effective_steps
        if self.mu:
            lr_mu = task.problem.local.lr * self.mu
            counted = (-torch.expm1(steps.double() * math.log1p(-lr_mu)) / lr_mu).to(x.dtype)
        direction = torch.where(steps > 0, (x - y) / torch.where(steps > 0, counted, 1), 0)
        did_steps = torch.where(steps > 0, w, 0)  # a client without rows has no number of steps; its model stays x
        return ClientResult({"direction": (direction, w), "steps": (steps if self.mu else counted, did_steps)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        move = aggregate.mean["steps"].double() * aggregate.mean["direction"].double()
        return ServerUpdate(ServerState({"x": (state.broadcast["x"].double() - move).to(state.broadcast["x"].dtype)}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return {"direction": problem.row, "steps": problem.row.new_zeros(1)}
