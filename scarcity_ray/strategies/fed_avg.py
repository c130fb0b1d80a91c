"""Federated averaging. McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep

Networks from Decentralized Data", AISTATS 2017, Algorithm 1 (FedAvg).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, Strategy
from scarcity_ray.strategies.revealed import WEIGHTS
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


class OneModel(Strategy):
    """One global model x, replaced by the mean of what the clients' training makes of it."""

    reveals: ClassVar[str] = WEIGHTS

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"x": problem.row})

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        return ClientResult({"x": (task.local_sgd(broadcast["x"][None]), self.weights(task))})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        return ServerUpdate(ServerState({"x": aggregate.mean["x"]}))

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"global": broadcast["x"][None]}

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return problem.layout.state_dict(state.broadcast["x"])


@STRATEGIES.register
class FedAvg(SampledStrategy, OneModel):
    """One global model: w <- sum over the cohort of (n_i / n) w_i, each w_i from local SGD that starts at w."""

    kind: Literal["fed_avg"] = "fed_avg"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
