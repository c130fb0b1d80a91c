"""Every client alone: the same local work each round, and nothing sent. What a federation has to beat."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class LocalOnly(Strategy):
    """Each client trains its own model, from the common initial one."""

    kind: Literal["local_only"] = "local_only"
    sends: ClassVar[str] = "nothing"
    receives: ClassVar[str] = "nothing"
    reveals: ClassVar[str] = "nothing: nothing leaves it"

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState()

    def init_client(self, problem: Problem) -> State:
        return {"v": problem.row}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        return ClientResult(state={"v": task.local_sgd(client["v"])})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        return ServerUpdate(state)

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": client["v"]}

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.zeros(federation.clients, dtype=np.int64), np.zeros(federation.clients, dtype=np.int64)
