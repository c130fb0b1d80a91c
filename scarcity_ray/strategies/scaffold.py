"""SCAFFOLD. Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated

Learning", ICML 2020, Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.revealed import WEIGHTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class Scaffold(SampledStrategy, OneModel):
    """Control variates take out of each client's steps what its gradients differ from those of all.

        y_i <- y_i - lr (g_i(y_i) - c_i + c)                                           (equation 3)
        c_i+ = grad f_i(x) over all its rows, or c_i - c + (x - y_i) / (A_i lr)        (equation 4, options I and II)
        x <- x + server_lr mean_i (y_i - x),    c <- c + s mean_i (c_i+ - c_i)         (equation 5)

    c_i is kept by the client, c goes down beside x. s is the share of all clients' weight that was heard (|S| / N in the
    paper), so that c = sum_i p_i c_i after every round, with the same weights p in x and c: x then reaches the optimum of
    sum_i p_i f_i. A_i are the steps, counted as `Task.effective_steps` does (Algorithm 1 has K, for SGD without momentum; with a
    momentum of 0.9 and K it diverges).
    """

    kind: Literal["scaffold"] = "scaffold"
    sends: ClassVar[str] = "a model's weights and a control variate as large, each round"
    receives: ClassVar[str] = "the model and a control variate as large, each round"
    reveals: ClassVar[str] = f"{WEIGHTS}; the control variate is a mean gradient of its rows and tells as much again"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    exact_sums: ClassVar[bool] = True
    keeps_moves: ClassVar[bool] = True
    option: Annotated[
        Literal[1, 2], Field(description="a client's new variate: 1, its gradient over all rows at x; 2, the mean gradient of its steps")
    ] = 2
    server_lr: Annotated[float, Field(gt=0, description="the server's step size, times the clients' mean move")] = 1.0

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row, "c": torch.zeros_like(problem.row)})

    @property
    def extra_passes(self) -> float:
        """With option 1 the gradient over all rows."""
        return 3.0 if self.option == 1 else 0.0

    def init_client(self, problem: Problem) -> State:
        return {"c": torch.zeros_like(problem.row)}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, c, own, w = broadcast["x"][None], broadcast["c"][None], client["c"], self.weights(task)
        y = task.local_sgd(x, grad_offset=c - own)
        if self.option == 1:
            new = task.full_gradient(x) + task.problem.local.weight_decay * x
        else:
            new = own - c + (x - y) / (task.effective_steps.clamp(min=1) * task.lr)
        change = torch.where(task.steps > 0, new - own, 0)
        return ClientResult({"x": (y, w), "c_change": (change, w)}, {"c": own + change})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        mean, x, c = aggregate.mean["x"], state.broadcast["x"], state.broadcast["c"]
        new = mean if self.server_lr == 1 else (x.double() + self.server_lr * (mean.double() - x.double())).to(x.dtype)
        return ServerUpdate(ServerState({"x": new, "c": (c.double() + aggregate.share * aggregate.mean["c_change"].double()).to(c.dtype)}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return {"x": problem.row, "c_change": problem.row}
