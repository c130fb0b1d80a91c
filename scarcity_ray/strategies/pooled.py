"""All clients' rows in one place: what no federation may do, and the bound it is measured against."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem


@STRATEGIES.register
class Pooled(OneModel):
    """One virtual client holds all training rows and trains as any client does; its model is tested on every client.

    Its bytes are the training rows themselves, sent up once; nothing comes down.
    """

    kind: Literal["pooled"] = "pooled"
    sends: ClassVar[str] = "all rows, once (what no federation may do: the upper bound)"
    receives: ClassVar[str] = "nothing"
    reveals: ClassVar[str] = "everything: the rows themselves leave it"

    def trains_on(self, train: Shards) -> Shards:
        return train.pooled()

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        train = federation.train
        row_bytes = (train.x[:1].nbytes + train.y[:1].nbytes) if len(train.x) else 0
        return train.counts * row_bytes, np.zeros(federation.clients, dtype=np.int64)

    def traffic(self, problem: Problem, up: NDArray[np.int64], down: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.zeros_like(up), np.zeros_like(down)
