"""Every client alone: the same local work each round, and nothing sent. What a federation has to beat."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Federation
from scarcity_ray.core.strategy import STRATEGIES, State, Uploads, WeightStrategy
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class LocalOnly(WeightStrategy):
    """Each client goes on with its own model, from the common initial one."""

    kind: Literal["local_only"] = "local_only"

    def start(self, problem: Problem) -> State:
        return {}

    def memory(self, problem: Problem) -> State:
        return {"v": problem.row}

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        return {}, {"v": task.local_sgd(mine["v"])}

    def aggregate(self, server: State, mean: State) -> State:
        return server

    def answer(self, server: State, mine: State) -> Tensor:
        return mine["v"]

    def traffic(self, problem: Problem) -> tuple[int, int]:
        return 0, 0

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.zeros(federation.clients, dtype=np.int64), np.zeros(federation.clients, dtype=np.int64)
