"""FedAU. Wang and Ji, "A Lightweight Method for Tackling Unknown Participation Statistics in Federated Averaging", ICLR 2024,

Algorithms 1 and 2.
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


@STRATEGIES.register
class FedAu(SampledStrategy, OneModel):
    """A client counts by the mean number of rounds from one of its own to the next, w_i, so that clients that are rarely there count as
    the others do: x <- x + server_lr sum_S p_i w_i (y_i - x), with p_i that sum to 1 over all clients.

    w_i is the mean of its gaps before this round; a gap that reaches `cutoff` counts as one of that length, and another one begins. Before
    the first gap w_i is 1. Each client counts its own gaps; nothing more is sent.
    """

    kind: Literal["fed_au"] = "fed_au"
    sends: ClassVar[str] = "its move, as large as a model, times its weight, each round"
    receives: ClassVar[str] = "the model, each round"
    reveals: ClassVar[str] = f"{GRADIENTS}; and how often it was there"
    exact_sums: ClassVar[bool] = True
    cutoff: Annotated[int, Field(ge=1, description="longest gap that counts as one, in rounds")] = 50
    server_lr: Annotated[float, Field(gt=0, description="the server's step size; 1: as the clients moved")] = 1.0

    def init_client(self, problem: Problem) -> State:
        """The sum and number of its gaps until it was last heard, and that round."""
        return {name: torch.zeros(1, dtype=torch.float64) for name in ("total", "gaps", "last")}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        gap = task.round - client["last"]
        cut = ((gap - 1) / self.cutoff).floor()  # gaps that have ended before this round
        total, gaps = client["total"] + cut * self.cutoff, client["gaps"] + cut
        w = torch.where(gaps > 0, total / gaps.clamp(min=1), 1.0)
        new = {"total": total + gap - cut * self.cutoff, "gaps": gaps + 1, "last": torch.full_like(gap, task.round)}
        state = {name: torch.where(task.samples > 0, value, client[name]) for name, value in new.items()}
        move = (task.local_sgd(x) - x) * w.to(x.dtype)
        return ClientResult({"move": (move, self.weights(task))}, state)

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        x = state.broadcast["x"]
        step = self.server_lr * aggregate.share * aggregate.mean["move"].double()
        return ServerUpdate(ServerState({"x": (x.double() + step).to(x.dtype)}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, torch.Tensor]:
        return {"move": problem.row}
