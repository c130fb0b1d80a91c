"""q-FFL. Li, Sanjabi, Beirami and Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2 (q-FedAvg)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_SMALLEST = 1e-10  # of a loss, as in the authors' code: F^(q - 1) at a loss of 0 is infinite below q = 1


@STRATEGIES.register
class QFfl(SampledStrategy, OneModel):
    """Clients with a higher loss count more: the least sum_i p_i F_i(x)^(q + 1) / (q + 1), F_i the mean loss over the client's rows.

        g_i = (x - w_i) / lr,    F_i at x, before training
        x <- x - mean_i (F_i^q g_i) / mean_i (q F_i^(q - 1) |g_i|^2 + F_i^q / lr)

    With q 0 it is FedAvg. The paper samples clients by their rows and then counts them alike; here they are sampled alike and
    count alike (`weighted: true`: by their rows).
    """

    kind: Literal["q_ffl"] = "q_ffl"
    sends: ClassVar[str] = "its move, weighted, as large as a model, and 4 bytes, each round"
    receives: ClassVar[str] = "the model, each round"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    q: Annotated[float, Field(ge=0, description="0: the mean loss counts; more: the higher losses do; the paper tries 0.001 to 15")] = 1.0
    weighted: Annotated[bool, Field(description="count clients by training samples; false: each client counts the same")] = False

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, w, lr = broadcast["x"][None], self.weights(task), task.problem.local.lr
        loss = np.maximum(task.loss(x), 0.0) + _SMALLEST
        y = task.local_sgd(x)
        f, gradient = torch.from_numpy(loss)[:, None], (x - y).div_(lr)
        square = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64).square()
        curvature = self.q * f ** (self.q - 1) * square + f**self.q / lr
        # A client without rows has no loss: it adds 0 to both sums.
        share, curvature = (torch.where(task.samples > 0, value, 0).to(x.dtype) for value in (f**self.q, curvature))
        return ClientResult({"gradient": (gradient.mul_(share), w), "curvature": (curvature, w)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        x, curvature = state.broadcast["x"], aggregate.mean["curvature"].double()
        move = aggregate.mean["gradient"].double() / curvature if curvature > 0 else torch.zeros_like(x)
        return ServerUpdate(ServerState({"x": (x.double() - move).to(x.dtype)}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return {"gradient": problem.row, "curvature": problem.row.new_zeros(1)}
