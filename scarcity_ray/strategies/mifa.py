"""MIFA. Gu, Huang, Zhang and Huang, "Fast Federated Learning in the Presence of Arbitrary Device Unavailability", NeurIPS 2021,

Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.revealed import GRADIENTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


class KeepsMoves(SampledStrategy, OneModel):
    """Each client keeps how far its training last moved the model, g_i, and sends by how much its new move differs from it.

    So the server knows g = sum_i p_i g_i over all clients, in float64, where it hears some of them and holds none of the g_i. p_i are the
    clients' weights, which sum to 1 over all; g_i is 0 until client i is heard for the first time.
    """

    sends: ClassVar[str] = "the change of its move since it was last heard, as large as a model, each round"
    receives: ClassVar[str] = "the model, each round"
    reveals: ClassVar[str] = GRADIENTS
    exact_sums: ClassVar[bool] = True
    keeps_moves: ClassVar[bool] = True
    server_lr: Annotated[float, Field(gt=0, description="the server's step size; 1: as the clients moved")] = 1.0

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row}, private={"g": torch.zeros_like(problem.row, dtype=torch.float64)})

    def init_client(self, problem: Problem) -> State:
        return {"g": torch.zeros_like(problem.row)}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        move = task.local_sgd(x) - x
        return ClientResult({"change": (move - client["g"], self.weights(task))}, {"g": move})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        if aggregate.share == 0:  # nobody with rows was heard
            return ServerUpdate(state)
        x, change = state.broadcast["x"], aggregate.mean["change"].double()
        g = state.private["g"] + aggregate.share * change
        step = self.step(change, state.private["g"], g)
        return ServerUpdate(ServerState({"x": (x.double() + self.server_lr * step).to(x.dtype)}, private={"g": g}))

    def step(self, change: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """The move of the model `[P]`. change: mean of the changes of those heard. before, after: g without and with these."""
        raise NotImplementedError

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, torch.Tensor]:
        return {"change": problem.row}


@STRATEGIES.register
class Mifa(KeepsMoves):
    """The model moves by all clients' latest moves, those that are away included: x <- x + server_lr sum_i p_i g_i.

    So a client counts the same however rarely it is there, where FedAvg counts it by how often. Its moves may be old.
    """

    kind: Literal["mifa"] = "mifa"

    def step(self, change: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return after
