"""FedAvgM. Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual

Classification", arXiv:1909.06335, 2019, section 4.3.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem


@STRATEGIES.register
class FedAvgM(SampledStrategy, OneModel):
    """FedAvg with momentum at the server. With D the clients' mean move, mean_i (w_i - x):

        v <- beta v + D,    x <- x + lr v    (Nesterov: x <- x + lr (beta v + D))

    as `torch.optim.SGD` does on the gradient -D, without dampening. The velocity v starts at 0 and stays at the server, in float64.
    With beta 0 and lr 1 it is FedAvg.
    """

    kind: Literal["fed_avg_m"] = "fed_avg_m"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    beta: Annotated[float, Field(ge=0, lt=1, description="the server's momentum")] = 0.9
    server_lr: Annotated[float, Field(gt=0, description="the server's step size, times the clients' mean move")] = 1.0
    nesterov: Annotated[bool, Field(description="look ahead by one step of the momentum")] = False

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row}, private={"velocity": torch.zeros_like(problem.row, dtype=torch.float64)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        if aggregate.share == 0:  # nobody with rows was heard
            return ServerUpdate(state)
        mean, x = aggregate.mean["x"], state.broadcast["x"].double()
        move = mean.double() - x
        velocity = self.beta * state.private["velocity"] + move
        step = self.beta * velocity + move if self.nesterov else velocity
        # x + (mean - x) has other bits than the mean, which FedAvg takes.
        new = mean if self.beta == 0 and self.server_lr == 1 else (x + self.server_lr * step).to(mean.dtype)
        return ServerUpdate(ServerState({"x": new}, private={"velocity": velocity}))
