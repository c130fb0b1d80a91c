"""FedDyn. Acar, Zhao, Matas, Mattina, Whatmough and Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR

2021, Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, too_steep
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FedDyn(SampledStrategy, OneModel):
    """Each client's loss is changed from round to round, so that all clients' minima meet at the minimum of all.

        y_i = argmin_y f_i(y) - <lam_i, y> + alpha / 2 |y - x|^2,    by local training that starts at x
        lam_i <- lam_i - alpha (y_i - x)
        h <- h - alpha s mean_i (y_i - x),    x <- mean_i y_i - h / alpha

    lam_i, about grad f_i(y_i), is kept by the client; h stays at the server, in float64. s is the share of all clients' weight that was
    heard (the paper divides by all clients), so that h = sum_i p_i lam_i after every round. What the server needs for h follows from
    the mean of y. The paper counts clients alike (`weighted: false`), and its
    authors also test the mean (`tested: mean`). Their code trains with gradients clipped at a norm of 10 (`local.clip_norm`).
    """

    kind: Literal["fed_dyn"] = "fed_dyn"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    exact_sums: ClassVar[bool] = True
    newest_only: ClassVar[bool] = True  # h is made from how far the mean moved from x
    alpha: Annotated[float, Field(gt=0, description="weight of the proximal term; the paper uses 0.1, 0.01 and 0.001")] = 0.01
    tested: Annotated[
        Literal["x", "mean"], Field(description="the model that is tested and saved: x, or the mean of the clients' models")
    ] = "x"

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        return super().refused(problem, federation) + too_steep("alpha", self.alpha, problem.local)

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return self._state(problem.row, problem.row, torch.zeros_like(problem.row, dtype=torch.float64))

    def init_client(self, problem: Problem) -> State:
        return {"lam": torch.zeros_like(problem.row)}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, lam = broadcast["x"][None], client["lam"]
        y = task.local_sgd(x, grad_offset=-lam, prox_weight=self.alpha, prox_center=x)
        return ClientResult({"x": (y, self.weights(task))}, {"lam": lam - self.alpha * (y - x)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        if aggregate.share == 0:  # nobody with rows was heard
            return ServerUpdate(state)
        mean, x = aggregate.mean["x"], state.broadcast["x"]
        h = state.private["h"] - self.alpha * aggregate.share * (mean.double() - x.double())
        return ServerUpdate(self._state((mean.double() - h / self.alpha).to(x.dtype), mean, h))

    def eval_models(self, broadcast: State, client: State) -> dict[str, torch.Tensor]:
        return {"global": broadcast[self.tested][None]}

    def saved(self, problem: Problem, state: ServerState) -> dict[str, torch.Tensor]:
        return problem.layout.state_dict(state.broadcast[self.tested])

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, torch.Tensor]:
        return {"x": problem.row}

    def traffic(self, problem: Problem, up: NDArray[np.int64], down: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return up, np.full_like(down, problem.bytes)  # the mean goes along to be tested; training does not need it

    def _state(self, x: torch.Tensor, mean: torch.Tensor, h: torch.Tensor) -> ServerState:
        beside = {"mean": mean} if self.tested == "mean" else {}
        return ServerState({"x": x, **beside}, private={"h": h})
