"""Strategies of a user's own, as CONTRIBUTING.md shows them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scarcity_ray.core.exchange import ClientResult, State
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.task import Task


class FedProx(FedAvg):
    """Li et al., MLSys 2020: local training is held near the global model x by mu / 2 |y - x|^2."""

    mu: Annotated[float, Field(ge=0, description="weight of the proximal term")] = 0.1

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        return ClientResult({"x": (task.local_sgd(x, prox_weight=self.mu, prox_center=x), self.weights(task))})
