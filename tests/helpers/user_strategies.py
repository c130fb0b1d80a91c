"""Strategies of a user's own, as CONTRIBUTING.md shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


class FedProx(FedAvg):
    """Li et al., MLSys 2020: local training is held near the global model x by mu / 2 |y - x|^2."""

    mu: Annotated[float, Field(ge=0, description="weight of the proximal term")] = 0.1

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        return ClientResult({"x": (task.local_sgd(x, prox_weight=self.mu, prox_center=x), self.weights(task))})


class Scaffold(FedAvg):
    """Karimireddy et al., ICML 2020, option II: variates correct the clients' drift; all clients count the same in c."""

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row, "c": torch.zeros_like(problem.row)})

    def init_client(self, problem: Problem) -> State:
        return {"c": torch.zeros_like(problem.row)}

    def weight_limit(self, name: str, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones(len(samples)) if name == "c" else super().weight_limit(name, samples)

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x, c, own = broadcast["x"][None], broadcast["c"][None], client["c"]
        y = task.local_sgd(x, grad_offset=c - own)
        new = torch.where(task.steps > 0, own - c + (x - y) / (task.steps.clamp(min=1) * task.lr), own)
        return ClientResult({"x": (y, self.weights(task)), "c": (new - own, torch.ones(task.k, 1))}, {"c": new})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        c = state.broadcast["c"] + aggregate.count / context.problem.population * aggregate.mean["c"]
        return ServerUpdate(ServerState({"x": aggregate.mean["x"], "c": c}))


class Ditto(FedAvg):
    """Li et al., ICML 2021: beside the global model each client keeps its own, held near it; both are tested."""

    lam: float = 1.0

    def init_client(self, problem: Problem) -> State:
        return {"v": problem.row}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        sums = super().client_update(task, broadcast, client).sums
        return ClientResult(sums, {"v": task.local_sgd(client["v"], prox_weight=self.lam, prox_center=x)})

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"global": broadcast["x"][None], "personal": client["v"]}


class InMetaLearner(FedAvg):
    """FedAvg, whose server half runs in the MetaLearner and counts the insights so far."""

    server_half: ClassVar[Literal["server", "meta_learner"]] = "meta_learner"

    def uploads(self, problem: Problem, state: ServerState) -> State:
        return state.broadcast

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        assert aggregate.history is not None
        return replace(super().server_update(context, state, aggregate), learned={"insights": len(aggregate.history)})
