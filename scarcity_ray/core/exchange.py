"""What the two halves of a strategy pass to each other: the server's state, a client's result, their aggregate, the server's update.

A state is a flat dict of tensors. A client's part of a state is a row: for k clients `[k, ...]`, without it `[...]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.history import History
from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.problem import Problem

State = Mapping[str, Tensor]
Uploads = Mapping[str, tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]]
"""What k clients add to the sums: name -> (value `[k, ...]`, weight `[k, 1]`, or a weight for each number).

Where the server has a row for each of several experts, a third tensor says which expert's mean a value enters: int64 `[k]`.
"""


@dataclass(frozen=True)
class ServerState:
    """What the server half holds between rounds. Each part is a State.

    broadcast: goes down, the same for every client. each: `[clients, ...]`, a row for each client, which gets its own row alone.
    private: stays on the server. new_bytes: bytes that go down to a client that has received all states before this one; None where
    clients keep no copy, and all of broadcast and each goes down in every round.
    """

    broadcast: State = field(default_factory=dict)
    each: State = field(default_factory=dict)
    private: State = field(default_factory=dict)
    new_bytes: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory."""
        return sum(value.nbytes for part in _PARTS for value in getattr(self, part).values())

    def sent(self) -> ServerState:
        """The part that leaves the server."""
        return replace(self, private={})

    def received(self, ids: NDArray[np.int64]) -> State:
        """What clients `[k]` get: the broadcast values, and each client's own row of the others, `[k, ...]`."""
        return {**self.broadcast, **{name: value[torch.from_numpy(ids)] for name, value in self.each.items()}}

    def down_bytes(self, layout: Layout) -> int:
        """Bytes that go down to one client in a round, where it gets everything."""
        rows = [value[:1] for value in self.each.values()]
        return sum(packed_bytes(value, layout) for value in (*self.broadcast.values(), *rows))

    def as_arrays(self) -> dict[str, Any]:
        """The same as plain dicts of NumPy arrays, which share memory with the tensors; `of_arrays` reads it."""
        parts = {name: getattr(self, name) for name in _PARTS}
        arrays = {name: {key: value.numpy() for key, value in part.items()} for name, part in parts.items()}
        return {**arrays, "new_bytes": self.new_bytes}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> ServerState:
        """The state that `as_arrays` gave."""
        parts = {name: {key: torch.as_tensor(value) for key, value in arrays[name].items()} for name in _PARTS}
        return cls(**parts, new_bytes=arrays["new_bytes"])

    def __reduce__(self) -> Any:
        # As NumPy arrays: Ray moves arrays between processes without a copy, but copies tensors. By a function of the module:
        # Ray's pickler sends a class method as code, which took 3 ms.
        return _state_of, (self.as_arrays(),)


def _state_of(arrays: Mapping[str, Any]) -> ServerState:
    return ServerState.of_arrays(arrays)


_PARTS = ("broadcast", "each", "private")


def packed_bytes(value: Tensor, layout: Layout) -> int:
    """Bytes of a tensor when it is sent: rows of parameters `[..., P]` travel without their padding."""
    if value.ndim and value.shape[-1] == layout.width and value.dtype == layout.dtype:
        return value.numel() // layout.width * layout.num_parameters * value.element_size()
    return value.numel() * value.element_size()


@dataclass(frozen=True)
class ClientResult:
    """What the client half returns for k clients.

    sums: what they add to the server's sums. state: their new state, `[k, ...]` each; a name that is left out keeps its value.
    payload: columns of their insights beside the scalar part, `[k, n]` each. models: rows before and after the round's work, `[1, P]`
    or `[k, P]` each, whose losses the scalar part gives. Left out, they are those that `Task.local_sgd` started from and returned, or
    without local training what `eval_models` makes of the old and the new state.
    """

    sums: Uploads = field(default_factory=dict)
    state: State = field(default_factory=dict)
    payload: State = field(default_factory=dict)
    models: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class RoundContext:
    """What the server half may know of a round beside its state. round: from 1. plan: None where the round is made by hand."""

    problem: Problem
    round: int
    plan: RoundPlan | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.problem.seed


@dataclass(frozen=True)
class Aggregate:
    """What arrived from the clients of a round.

    mean: the weighted mean of each upload; where nobody sent one, the server's value of that name, or 0 without one. weight: the sum of
    the weights of each that was sent, float64 `[1 or rows, 1]`, or one for each number. share: the weight of the clients that were
    heard over that of all clients, from 0 to 1. count: clients that were heard. history: all insights so far, where the server half
    runs in the MetaLearner.
    """

    mean: State = field(default_factory=dict)
    weight: State = field(default_factory=dict)
    share: float = 0.0
    count: int = 0
    history: History | None = None

    @property
    def sum(self) -> State:
        """The sum of weight times value of each upload that was sent, float64: weight times mean."""
        sums = {name: self.mean[name].double().reshape(len(weight), -1) * weight for name, weight in self.weight.items()}
        return {name: value.reshape(self.mean[name].shape) for name, value in sums.items()}


@dataclass(frozen=True)
class ServerUpdate:
    """What the server half returns.

    state: its new state. experts: what each Expert (by id, from 0) is to fit, the arguments of `Expert.fit`; `Strategy.with_experts`
    then gets what they returned. clients: columns of the clients table, name -> `[clients]` (NaN where nothing is known). learned:
    what summary.json says of the round. summary: statistics of the round, see `MetaLearner.aggregate`. deliver: the state goes down
    to all clients at the end of this round. done: it does, and the strategy ends, as there is nothing more to learn.
    """

    state: ServerState
    experts: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    clients: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    learned: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    deliver: bool = False
    done: bool = False
