"""q-FFL. Li, Sanjabi, Beirami and Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2 (q-FedAvg)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.revealed import GRADIENTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_SMALLEST = 1e-10  # of a loss, as in the authors' code: F^(q - 1) at a loss of 0 is infinite below q = 1


@STRATEGIES.register
class QFfl(SampledStrategy, OneModel):
    """Clients with a higher loss count more: the least sum_i p_i F_i(x)^(q + 1) / (q + 1), F_i the mean loss over the client's rows.

        g_i = (x - w_i) / lr,    F_i at x, before training
        x <- x - mean_i (F_i^q g_i) / mean_i (q F_i^(q - 1) |g_i|^2 + F_i^q / lr)

    With q 0 it is FedAvg with clients that count alike. The paper weighs F_i by the client's rows, samples clients by these and then counts
    them alike; here they are sampled alike, and count alike (`weighted: true`: by their rows). Losses are taken in units of the mean
    loss of the round before, which goes down with the model: the step is the same, and a high q stays in the range of float32.
    """

    kind: Literal["q_ffl"] = "q_ffl"
    sends: ClassVar[str] = "its move, weighted, as large as a model, and 8 bytes, each round"
    receives: ClassVar[str] = "the model and 4 bytes, each round"
    reveals: ClassVar[str] = f"{GRADIENTS}; and how large its loss is"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    exact_sums: ClassVar[bool] = True
    newest_only: ClassVar[bool] = True  # losses of a round are in one unit
    q: Annotated[float, Field(ge=0, description="0: the mean loss counts; more: the higher losses do; the paper tries 0.001 to 15")] = 1.0
    weighted: Annotated[bool, Field(description="count clients by training samples; false: each client counts the same")] = False

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        found, momentum = super().refused(problem, federation), problem.local.momentum
        if momentum:
            found.append(SpecError(("local", "momentum"), momentum, "a client's move has to be a sum of gradients: set it to 0"))
        return found

    @property
    def extra_passes(self) -> float:
        """The loss before the steps."""
        return 1.0

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row, "unit": problem.row.new_ones(1)})

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, w, lr = broadcast["x"][None], self.weights(task), task.problem.local.lr
        unit = broadcast["unit"].double()
        loss = np.maximum(task.loss(x), 0.0) + _SMALLEST
        y = task.local_sgd(x)
        f, gradient = torch.from_numpy(loss)[:, None] / unit, (x - y).div_(lr)
        square = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64).square()
        curvature = self.q * f ** (self.q - 1) / unit * square + f**self.q / lr
        # A client without rows has no loss: it adds 0 to all sums.
        share, curvature, f = (torch.where(task.samples > 0, value, 0).to(x.dtype) for value in (f**self.q, curvature, f * unit))
        return ClientResult({"gradient": (gradient.mul_(share), w), "curvature": (curvature, w), "loss": (f, w)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        x, curvature = state.broadcast["x"], aggregate.mean["curvature"].double()
        move = aggregate.mean["gradient"].double() / curvature if curvature > 0 else torch.zeros_like(x)
        unit = aggregate.mean["loss"] if aggregate.mean["loss"] > 0 else state.broadcast["unit"]
        return ServerUpdate(ServerState({"x": (x.double() - move).to(x.dtype), "unit": unit}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        one = problem.row.new_zeros(1)
        return {"gradient": problem.row, "curvature": one, "loss": one}
