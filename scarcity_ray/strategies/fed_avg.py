"""Federated averaging. McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep

Networks from Decentralized Data", AISTATS 2017, Algorithm 1 (FedAvg).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, State, Uploads
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FedAvg(SampledStrategy):
    """One global model: w <- sum over the cohort of (n_i / n) w_i, each w_i from local SGD that starts at w."""

    kind: Literal["fed_avg"] = "fed_avg"

    def start(self, problem: Problem) -> State:
        return {"x": problem.row}

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        return {"x": (task.local_sgd(server["x"][None]), self.weights(task))}, mine

    def aggregate(self, server: State, mean: State) -> State:
        return {"x": mean["x"]}

    def answer(self, server: State, mine: State) -> Tensor:
        return server["x"][None]

    def traffic(self, problem: Problem) -> tuple[int, int]:
        return problem.bytes, problem.bytes

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        return problem.learner.layout.state_dict(server["x"])
