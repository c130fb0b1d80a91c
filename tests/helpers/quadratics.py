"""Clients whose loss is a parabola in one number, f_i(x) = a_i / 2 (x - b_i)^2, in float64: fixed points are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from helpers.played import federation, server, shards
from scarcity_ray.actors.server import Server
from scarcity_ray.core.exchange import ServerUpdate
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.schedules import Uniform
from scarcity_ray.training.local import Local

COUNTS = [1, 4, 2, 3, 2]
STEPS = [5, 1, 3, 2, 4]
LR = 0.1


class StepsOf(Uniform):
    """Each client takes its own number of steps."""

    kind: str = "import"
    of: list[int]

    def next(self, before: RoundInput) -> RoundPlan:
        plan = super().next(before)
        return replace(plan, steps=np.where(plan.steps > 0, np.array(self.of)[plan.ids], 0))


@dataclass(frozen=True)
class Parabolas:
    """a, b: of each client's loss. p: its share of all rows. steps: local steps a round. lr: their size."""

    held: Federation
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    p: NDArray[np.float64]
    steps: NDArray[np.int64]
    lr: float = LR

    @property
    def optimum(self) -> float:
        """Of sum_i p_i f_i."""
        return float((self.p * self.a * self.b).sum() / (self.p * self.a).sum())

    def fixed_point(self, u: NDArray[np.float64]) -> float:
        """sum u b / sum u."""
        return float((u * self.b).sum() / u.sum())

    def reach(self, a: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """r_i = 1 - (1 - lr a_i)^K_i: what share of the way to b_i a client goes in a round."""
        result: NDArray[np.float64] = 1 - (1 - self.lr * (self.a if a is None else a)) ** self.steps
        return result

    def server(self, strategy: Strategy, momentum: float = 0.0, **changes: Any) -> Server:
        """A server that starts from 0. A client's rows are alike, so a minibatch of one has the gradient of all (and all share a chunk)."""
        schedule = StepsOf(of=self.steps.tolist())
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(module.weight)
        local = Local(steps=1, batch_size=1, lr=self.lr, momentum=momentum, **changes)
        return server(strategy.model_copy(update={"schedule": schedule}), self.held, module, local, dtype=torch.float64)


def parabolas(counts: list[int] = COUNTS, steps: list[int] = STEPS, seed: int = 0, equal_a: bool = False) -> Parabolas:
    """Each client's rows are alike, x = sqrt(a / 2) and y = b x: our squared error has no half."""
    draw = np.random.default_rng(seed)
    a, b = draw.uniform(0.5, 3.0, len(counts)), draw.normal(0, 2, len(counts))
    if equal_a:
        a[:] = 1.5
    x = np.repeat(np.sqrt(a / 2), counts).astype(np.float32)
    y = (np.repeat(b, counts) * x).astype(np.float32)
    held = federation(shards(x[:, None], y[:, None], counts))
    first = np.cumsum([0, *counts])[:-1]
    # As they are stored: in float32.
    a = 2 * x.astype(np.float64)[first] ** 2
    b = y.astype(np.float64)[first] / x.astype(np.float64)[first]
    return Parabolas(held, a, b, np.array(counts) / sum(counts), np.array(steps))


def value(made: Server, name: str = "x") -> float:
    """The global number."""
    return float(made.state.broadcast[name][0])


def kept(made: Server, name: str) -> NDArray[np.float64]:
    """What each client keeps of that name, `[clients]`."""
    values: NDArray[np.float64] = made._client_state()[name][:, 0]
    return values


def put(made: Server, x: float) -> Server:
    """The server with another global number."""
    row = torch.zeros_like(made.state.broadcast["x"])
    row[0] = x
    made._set_state(ServerUpdate(replace(made.state, broadcast={**made.state.broadcast, "x": row})))
    return made


def end(make: Callable[[], Server]) -> float:
    """Where the rounds of a strategy end whose round is affine in x: from a round that starts at 0, and one that starts at 1."""
    at_0, at_1 = (value(settled(put(make(), x), 1)) for x in (0.0, 1.0))
    return at_0 / (1 - (at_1 - at_0))


def settled(made: Server, rounds: int) -> Server:
    """The server after so many rounds, none of which was refused."""
    for _ in range(rounds):
        result = made.run_round(test=False)
        assert not result.rejected
        assert not result.diverged
    return made
