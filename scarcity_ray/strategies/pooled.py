"""Everybody's rows in one place: what no federation may do, and the bound it is measured against."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import STRATEGIES, State, Uploads, WeightStrategy
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_ONE_MODEL = FedAvg()  # with a single client, averaging is that client's training


@STRATEGIES.register
class Pooled(WeightStrategy):
    """One virtual client holds all training rows and trains as any client does; its model is tested on every client.

    Its bytes are the training rows themselves, sent up once; nothing comes down.
    """

    kind: Literal["pooled"] = "pooled"

    def trains_on(self, train: Shards) -> Shards:
        return train.pooled()

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        train = federation.train
        row_bytes = (train.x[:1].nbytes + train.y[:1].nbytes) if len(train.x) else 0
        return train.counts * row_bytes, np.zeros(federation.clients, dtype=np.int64)

    def start(self, problem: Problem) -> State:
        return _ONE_MODEL.start(problem)

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        return _ONE_MODEL.update(task, server, mine)

    def aggregate(self, server: State, mean: State) -> State:
        return _ONE_MODEL.aggregate(server, mean)

    def answer(self, server: State, mine: State) -> Tensor:
        return _ONE_MODEL.answer(server, mine)

    def traffic(self, problem: Problem) -> tuple[int, int]:
        return 0, 0

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        return _ONE_MODEL.saved(problem, server)
