"""FedBuff. Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated Learning with Buffered Asynchronous Aggregation",

AISTATS 2022, Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.revealed import GRADIENTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FedBuff(OneModel):
    """The server waits for nobody: clients train at their own pace, and each `buffer` moves make a new model.

        x <- x + server_lr / buffer sum_i (1 + tau_i)^(-1/2) (y_i - x_i),    y_i from local training that starts at x_i

    x_i is the model that client i started from, tau_i versions ago. `concurrency` clients train at any time: when one has sent, the next
    one that is there, by a hash, starts from the newest model. A move older than `max_staleness` versions is wasted. A client enters a
    version once at most. A round is a version; clients count alike. Needs `scarcity`, whose clock says who is slow.
    """

    kind: Literal["fed_buff"] = "fed_buff"
    sends: ClassVar[str] = "its move, as large as a model, each time it has trained"
    receives: ClassVar[str] = "the model, each time it starts"
    reveals: ClassVar[str] = f"{GRADIENTS}; and when it was there"
    reads_versions: ClassVar[bool] = True
    concurrency: Annotated[int, Field(ge=1, description="clients that train at the same time")] = 100
    buffer: Annotated[int, Field(ge=1, description="moves that make a version")] = 10
    max_staleness: Annotated[int, Field(ge=0, le=100, description="versions after which a move is wasted; so many models are kept")] = 10
    server_lr: Annotated[float, Field(gt=0, description="the server's step size; 1: the mean move of those in time")] = 1.0

    @property
    def answer(self) -> Answer:
        """Asynchronous: so many at a time, so many a version."""
        return Answer(concurrency=self.concurrency, stalest=self.max_staleness, late="stale")

    def sampled(self, population: int) -> int:
        return min(self.buffer, population)

    def client_weights(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones(len(samples))

    def weights(self, task: Task) -> Tensor:
        return torch.ones_like(task.samples)

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"].view(-1, task.problem.layout.width)  # of each client's own version, or one for all
        return ClientResult({"move": (task.local_sgd(x) - x, self.weights(task))})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        if not aggregate.count:
            return ServerUpdate(state)
        # Moves came with their discounts as weights: their sum over the number of clients, not over that of the discounts.
        x, total = state.broadcast["x"], aggregate.sum["move"]
        return ServerUpdate(ServerState({"x": (x.double() + self.server_lr / aggregate.count * total).to(x.dtype)}))

    def uploads(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return {"move": problem.row}
