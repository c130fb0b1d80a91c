"""FedAdagrad, FedAdam and FedYogi. Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, "Adaptive Federated

Optimization", ICLR 2021, Algorithm 2.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem


@STRATEGIES.register
class FedOpt(SampledStrategy, OneModel):
    """An adaptive optimizer at the server. With D the clients' mean move, mean_i (w_i - x), number by number:

        m <- beta_1 m + (1 - beta_1) D
        v <- v + D^2                                      adagrad
        v <- v - (1 - beta_2) D^2 sign(v - D^2)           yogi
        v <- beta_2 v + (1 - beta_2) D^2                  adam
        x <- x + server_lr m / (sqrt(v) + tau)

    m starts at 0 and v at tau^2; both stay at the server, in float64. As in the paper m and v are not corrected for their
    start, unless `bias_correction` asks for it (adam alone: Kingma and Ba, ICLR 2015; then v starts at 0). The paper's algorithm counts
    sampled clients alike: `weighted: false`.
    """

    kind: Literal["fed_opt"] = "fed_opt"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    method: Annotated[Literal["adam", "yogi", "adagrad"], Field(description="how the second moment of the moves is kept")] = "adam"
    server_lr: Annotated[float, Field(gt=0, description="the server's step size")] = 0.1
    beta_1: Annotated[float | None, Field(ge=0, lt=1, description="decay of the first moment; 0.9 if left out, for adagrad 0")] = None
    beta_2: Annotated[float | None, Field(ge=0, lt=1, description="decay of the second moment; 0.99 if left out; adagrad has none")] = None
    tau: Annotated[float, Field(gt=0, description="degree of adaptivity: added to the root of the second moment")] = 1e-3
    bias_correction: Annotated[bool, Field(description="correct both moments of adam for their start at 0")] = False

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        found = super().refused(problem, federation)
        if self.bias_correction and self.method != "adam":
            message = f"{self.method} has no correction for its start: leave it out, or use `method: adam`"
            found.append(SpecError(("bias_correction",), True, message))
        if self.method == "adagrad" and self.beta_2 is not None:
            found.append(SpecError(("beta_2",), self.beta_2, "adagrad adds up squares without a decay: leave beta_2 out"))
        return found

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        nothing = torch.zeros_like(problem.row, dtype=torch.float64)
        start = 0.0 if self.bias_correction else self.tau**2
        return ServerState({"x": problem.row}, private={"first": nothing, "second": torch.full_like(nothing, start)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        if aggregate.share == 0:  # nobody with rows was heard
            return ServerUpdate(state)
        mean, x = aggregate.mean["x"], state.broadcast["x"].double()
        move, v, beta_2 = mean.double() - x, state.private["second"], 0.99 if self.beta_2 is None else self.beta_2
        beta_1 = (0.0 if self.method == "adagrad" else 0.9) if self.beta_1 is None else self.beta_1
        square = move.square()
        m = beta_1 * state.private["first"] + (1 - beta_1) * move
        if self.method == "adagrad":
            v = v + square
        elif self.method == "yogi":
            v = v - (1 - beta_2) * square * (v - square).sign()
        else:
            v = beta_2 * v + (1 - beta_2) * square
        first, second = m, v
        if self.bias_correction:
            first, second = m / (1 - beta_1**context.round), v / (1 - beta_2**context.round)
        new = x + self.server_lr * first / (second.sqrt() + self.tau)
        return ServerUpdate(ServerState({"x": new.to(mean.dtype)}, private={"first": m, "second": v}))
