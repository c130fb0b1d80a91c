"""Strategies of a user's own, as CONTRIBUTING.md shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

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


class InMetaLearner(FedAvg):
    """FedAvg, whose server half runs in the MetaLearner and counts the insights so far."""

    server_half: ClassVar[Literal["server", "meta_learner"]] = "meta_learner"

    def uploads(self, problem: Problem, state: ServerState) -> State:
        return state.broadcast

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        assert aggregate.history is not None
        return replace(super().server_update(context, state, aggregate), learned={"insights": len(aggregate.history)})
