"""What the cases of published.py share: rounds of a strategy in this process, figures over seeds beside published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import server_of
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import nn

from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.metrics import ACCURACY, GLOBAL
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.data import Data, deal
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One line of a table.

    values: ours, one for each seed; hits: each is 1 or 0, and their number is told. published: as the source prints it; recomputed: by
    an independent NumPy implementation of the same recipe; "" where there is none. form: how a value is printed.
    """

    name: str
    values: list[float]
    published: str = ""
    recomputed: str = ""
    form: str = ".2f"
    hits: bool = False

    @property
    def ours(self) -> str:
        """The mean with its 95 % interval, Student's t over seeds; of a single seed the value."""
        if self.hits:
            return f"{sum(self.values):g} of {len(self.values)}"
        mean = format(np.mean(self.values), self.form)
        if len(self.values) < 2:
            return mean
        return f"{mean} +- {format(half_width(self.values), self.form.lstrip('+'))}"


@dataclass(frozen=True)
class Found:
    """What a case found. notes: sentences below its table, which explain the differences. details: what else the JSON holds."""

    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"figures": [{**asdict(one), "ours": one.ours} for one in self.figures], "notes": self.notes, **self.details}


@dataclass(frozen=True)
class Bench:
    """The size of the benchmark, and its process pool."""

    quick: bool
    pool: Executor

    def map(self, work: Callable[..., Any], settings: Iterable[tuple[Any, ...]]) -> list[Any]:
        """What `work` returns for each setting, side by side, one process a core."""
        return [one.result() for one in [self.pool.submit(work, *setting) for setting in settings]]


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean."""
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def dealt(source: dict[str, Any], clients: int, seed: int) -> Federation:
    """The clients of a generated source, 90 % of each client's rows for training and 10 % for testing."""
    return deal(Data.model_validate({"source": source, "clients": clients, "test_fraction": 0.1}), seed, Path())


def federation(x: NDArray[Any], y: NDArray[Any], counts: Sequence[int]) -> Federation:
    """A regression on given rows, client after client, without test rows."""
    starts, clients = np.cumsum([0, *counts]), len(counts)
    train = Shards(x.astype(np.float32), y.astype(np.float32), starts)
    nothing, empty = np.zeros(clients, dtype=np.int64), Shards(train.x[:0], train.y[:0], np.zeros_like(starts))
    return Federation(train, empty, empty, nothing, "regression", y.shape[1], 1.0, nothing, nothing)


def served(strategy: Strategy, held: Federation, module: nn.Module, local: Local, seed: int) -> Server:
    """A server of a federation before round 1, all in this process."""
    problem = make_problem(
        module, local=local, task=held.task, outputs=held.outputs, shape=held.shape, samples=held.train.counts, seed=seed
    )
    return server_of(held, strategy, strategy.problem(replace(problem, metrics=(ACCURACY,))))


def logistic(inputs: int, classes: int, seed: int) -> nn.Module:
    """A linear model, drawn by the seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, classes))


def own_models(server: Server, name: str) -> Floats:
    """A parameter of each client's own model, `[clients, ...]`, as these keep it."""
    assert isinstance(server.clients, LocalFleet)
    (client,) = server.clients.workers
    rows = [server.problem.layout.state_dict(row)[name] for row in client.state["own"]]
    return np.stack([row.double().numpy() for row in rows])


def accuracy(result: RoundResult, model: str = "") -> float:
    """The share of all clients' test rows that is right, in percent. model: GLOBAL for the global model beside personal ones."""
    assert result.clients is not None
    right, rows = result.clients[f"{ACCURACY.column}{model}"], result.clients["num_test"]
    return float(100 * np.average(right, weights=rows))


__all__ = [
    "GLOBAL",
    "Bench",
    "Figure",
    "Floats",
    "Found",
    "accuracy",
    "dealt",
    "federation",
    "half_width",
    "logistic",
    "own_models",
    "served",
]
