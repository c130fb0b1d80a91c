"""Seven clients of a linear regression, some of whom lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scarcity_ray import Client, MetaLearner, Server
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem

Lie = Callable[[dict[str, Any], int], Any]
"""Makes of what k clients send, of which one (its place) is hostile, what is sent."""

CLIENTS, INPUTS = 7, 3
NUMBERS = (math.nan, math.inf, -math.inf, 1e38, -1e38, 2e30, -2e30)
ROWS = [4, 9, 5, 6, 4, 8, 7]


@cache
def federation() -> Federation:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((sum(ROWS), INPUTS)).astype(np.float32)
    shards = Shards(x, x[:, :1] - x[:, 1:2], np.concatenate([[0], np.cumsum(ROWS)]))
    nothing = np.zeros(CLIENTS, dtype=np.int64)
    none = Shards(shards.x[:0], shards.y[:0], np.zeros(CLIENTS + 1, dtype=np.int64))
    return Federation(shards, none, shards, np.arange(CLIENTS) % 2, "regression", 1, 1.0, nothing, nothing)


@cache
def problem() -> Problem:
    torch.manual_seed(0)
    return make_problem(torch.nn.Linear(INPUTS, 1), local=Local(lr=0.1, batch_size=4), task="regression", outputs=1, shape=(INPUTS,),
                        samples=np.array(ROWS), groups=np.arange(CLIENTS) % 2, seed=1)  # fmt: skip


def server_of(strategy: Strategy, actors: int = 2, fleet: type[LocalFleet] = LocalFleet) -> Server:
    """A server and so many actors, that share out the seven clients."""
    clients = [Client(block) for block in np.array_split(np.arange(CLIENTS), actors)]
    for client in clients:
        client.load_federation(federation())
    server = Server(CLIENTS, fleet(clients), LocalFleet([MetaLearner()]))
    server.load_federation()
    server.set_strategy(strategy, problem(), "run")
    return server


def objects(value: Tensor) -> Any:
    return np.array(value.tolist(), dtype=object)
