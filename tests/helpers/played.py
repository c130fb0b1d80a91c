"""Rounds of a strategy on arrays, through one Client and one Server in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem


def shards(x: NDArray[Any], y: NDArray[Any], counts: list[int]) -> Shards:
    return Shards(x.astype(np.float32), y, np.cumsum([0, *counts]))


def federation(train: Shards, test: Shards | None = None, group: NDArray[np.int64] | None = None) -> Federation:
    """Classes where labels are integers; every client is tested on its training rows if no others are given."""
    clients, classes = len(train.counts), train.y.ndim == 1
    nothing = np.zeros(clients, dtype=np.int64)
    empty = Shards(train.x[:0], train.y[:0], np.zeros(clients + 1, dtype=np.int64))
    return Federation(
        train, empty, test or train, nothing if group is None else group, "classification" if classes else "regression",
        int(train.y.max()) + 1 if classes else train.y.shape[1], 1.0, nothing, nothing,
    )  # fmt: skip


def server(
    strategy: Strategy, held: Federation, module: nn.Module, local: Local, seed: int = 1, dtype: torch.dtype = torch.float32
) -> Server:
    """A server before round 1."""
    client = Client(np.arange(held.clients))
    client.load_federation(held)
    made = Server(clients=LocalFleet([client]))
    made.load_federation()
    known: dict[str, Any] = {"samples": held.train.counts, "groups": held.group, "seed": seed, "dtype": dtype}
    problem = make_problem(module, local=local, task=held.task, outputs=held.outputs, shape=held.shape, **known)
    made.set_strategy(strategy, problem)
    return made


def play(made: Server, rounds: int) -> list[RoundResult]:
    """So many rounds; the last result is of the last."""
    return [made.run_round() for _ in range(rounds)]
