"""The validation of updates: what a client sends is checked before it may enter a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.exchange import ClientResult, ServerState, State
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.sums import magnitudes

LARGEST = 1e30
"""A value beyond this is no honest parameter, and would leave no room for a sum of float32 values."""

_ROUNDING = 1 + 2.0**-20
"""A weight comes as a float32."""


class MalformedUpdate(ValueError):
    """What clients send has another form than the server asked for, so that no number can be assigned to a client."""


@dataclass
class Validation:
    """Which of k clients may enter the sums (and keep their new memory), `good [k]`, and for the others why not, by
    client id. largest: the magnitude of each row of each upload, which the sums need as well."""

    good: NDArray[np.bool_]
    reasons: dict[int, str]
    largest: dict[str, Tensor]

    def check_encoded(self, clients: NDArray[np.int64], values: State, memory: State) -> None:
        """Judges what transforms made of uploads: values `[k, m]` by name, and their new memory, which need be finite."""
        for name, value in values.items():
            self.largest[name] = magnitudes(value)
            self.refuse(clients, _wild(self.largest[name]), f"{name}, encoded, is not finite, or beyond {LARGEST:g}")
        for name, value in memory.items():
            if value.is_floating_point():
                self.refuse(clients, _wild(magnitudes(value)), f"its state {name} is not finite, or beyond {LARGEST:g}")

    def refuse(self, clients: NDArray[np.int64], bad: NDArray[np.bool_], why: str) -> None:
        """Leaves out those of the clients that are bad."""
        for client in clients[bad & self.good].tolist():
            self.reasons[client] = why
        self.good[bad] = False


@dataclass(frozen=True)
class Wanted:
    """What the server asks clients for in a round.

    uploads: one client's value of each upload; a value must have its shape and type. rows: how many rows the server has for each
    upload that goes to one of several, by name. limit: `limit(name)` is the most that each of the k clients may weigh in the upload
    of that name, float64 `[k]`.
    """

    uploads: State
    rows: Mapping[str, int]
    limit: Callable[[str], NDArray[np.float64]]

    @classmethod
    def of(cls, uploads: State, state: ServerState, limit: Callable[[str], NDArray[np.float64]]) -> Wanted:
        """The uploads that update a state."""
        return cls(uploads, rows_of(uploads, state), limit)


def rows_of(uploads: State, state: ServerState) -> dict[str, int]:
    """How many rows the server has for each upload that goes to one of several, by name."""
    held = {**state.broadcast, **state.private}
    return {name: len(held[name]) for name, one in uploads.items() if name in held and held[name].ndim > one.ndim}


def validate_updates(clients: NDArray[np.int64], sent: Any, wanted: Wanted, kept: Any, old: State) -> Validation:
    """Judges k clients, one by one.

    sent: name -> (value `[k, ...]`, weight), see core.exchange.Uploads. kept: new client state `[k, ...]`, in place of `old`.
    Raises MalformedUpdate for what has another form.
    """
    checked = Validation(np.ones(len(clients), dtype=np.bool_), {}, {})

    def refuse(bad: NDArray[np.bool_], why: str) -> None:
        checked.refuse(clients, bad, why)

    for name, (value, weight, *to) in _triples(sent):
        if to:
            if name not in wanted.rows:
                raise MalformedUpdate(f"{name} is for a row, and the server has none of that name")
            _require(to[0], torch.zeros((), dtype=torch.int64), len(clients), f"the place of {name}")
            refuse(((to[0] < 0) | (to[0] >= wanted.rows[name])).numpy(), f"{name} is for a row that the server does not have")
        elif name in wanted.rows:
            raise MalformedUpdate(f"{name} does not say which of the server's {wanted.rows[name]} rows it is for")
        _require(value, wanted.uploads.get(name), len(clients), name)
        checked.largest[name] = magnitudes(value)
        refuse(_wild(checked.largest[name]), f"{name} is not finite, or beyond {LARGEST:g}")
        if not _is_plain(weight) or not weight.is_floating_point() or not _fits(weight.shape, value.shape):
            raise MalformedUpdate(f"the weight of {name} is {_looks(weight)}, not a number for each client")
        weights = weight.reshape(len(weight), -1)
        unfit = _wild(magnitudes(weights)) | (weights.amin(1) < 0).numpy()
        refuse(np.broadcast_to(unfit, checked.good.shape), f"the weight of {name} is not a finite number of at least 0")
        limit = torch.from_numpy(np.asarray(wanted.limit(name), dtype=np.float64))[:, None]
        refuse((weights.double() > limit * _ROUNDING).any(1).numpy(), f"the weight of {name} is more than its rows are worth")
    if not isinstance(kept, Mapping):
        raise MalformedUpdate(f"its state is {_looks(kept)}, not a mapping of names")
    for name, value in kept.items():
        _require(value, old[name][0] if name in old else None, len(clients), f"its state {name}")
        if value.is_floating_point():
            refuse(_wild(magnitudes(value)), "its model is not finite any more")
    return checked


def cause(reasons: Sequence[str]) -> tuple[str, bool]:
    """The reason to give where a round's messages were all rejected for these, and whether it is that numbers grew beyond all
    bounds, which smaller steps may prevent. One of that kind is given before others."""
    wild = [why for why in reasons if any(word in why for word in ("not finite", "is not a number from"))]
    return next(iter(wild or reasons), "nobody sent one"), bool(wild)


def require_result(result: Any, k: int, layout: Layout) -> None:
    """What the client half returns is a ClientResult; if it names models, two of them `[1 or k, P]`. Raises MalformedUpdate."""
    if not isinstance(result, ClientResult):
        raise MalformedUpdate(f"client_update returned {_looks(result)}, not a ClientResult")
    if result.models is None:
        return
    models: Any = result.models
    if not isinstance(models, tuple) or len(models) != 2:
        raise MalformedUpdate(f"its models are {_looks(models)}, not one before and one after the round's work")
    for model in models:
        if not _is_plain(model) or model.shape not in ((1, layout.width), (k, layout.width)) or model.dtype != layout.dtype:
            raise MalformedUpdate(f"one of its models is {_looks(model)}, not a row of {layout.width} parameters for each client")


def require_payload(payload: Any, sizes: Mapping[str, int], k: int) -> None:
    """An insight's payload has the round's columns, each with so many numbers for each of k clients. Raises MalformedUpdate."""
    if not isinstance(payload, Mapping) or set(payload) != set(sizes):
        raise MalformedUpdate(f"its payload is {_named(payload)}, not {_named(sizes)}")
    for name, value in payload.items():
        if not _is_plain(value) or not value.is_floating_point() or value.shape != (k, sizes[name]):
            raise MalformedUpdate(f"{name} is {_looks(value)}, not {sizes[name]} numbers for each client")


def _named(payload: Any) -> str:
    if not isinstance(payload, Mapping):
        return _looks(payload)
    return ", ".join(str(name)[:80] for name in payload) or "empty"


def _triples(uploads: Any) -> list[tuple[str, Any]]:
    """What was sent, by name: values, weights, and whose mean they enter where that is said."""
    if not isinstance(uploads, Mapping):
        raise MalformedUpdate(f"its update is {_looks(uploads)}, not a mapping of names")
    for name, sent in uploads.items():
        if not isinstance(sent, tuple) or len(sent) not in (2, 3):
            raise MalformedUpdate(f"{name} is {_looks(sent)}, not a value and a weight")
    return list(uploads.items())


def _require(value: object, wanted: Tensor | None, k: int, name: str) -> None:
    """A value of the wanted shape and type for each of k clients."""
    if wanted is None:
        raise MalformedUpdate(f"{name} is {_looks(value)}, and the server has nothing of that name")
    if not _is_plain(value) or value.shape != (k, *wanted.shape) or value.dtype != wanted.dtype:
        raise MalformedUpdate(f"{name} is {_looks(value)}, not {_looks(wanted)} for each client")


def _is_plain(value: Any) -> TypeGuard[Tensor]:
    """A tensor of numbers in memory, that no gradient flows through."""
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu" and not value.requires_grad


def _fits(weight: Sequence[int], value: Sequence[int]) -> bool:
    """Whether weights of this shape are one for each client, or one for each number."""
    return len(weight) > 0 and weight[0] in (1, value[0]) and (math.prod(weight[1:]) == 1 or tuple(weight[1:]) == tuple(value[1:]))


def _wild(largest: Tensor) -> NDArray[np.bool_]:
    """Not a number, or too large: NaN compares as false."""
    return ~(largest <= LARGEST).numpy()


def _looks(value: object) -> str:
    if isinstance(value, Tensor):
        graph = "a part of a graph of gradients, "
        kind = "" if _is_plain(value) else graph if value.requires_grad else f"{value.layout} on {value.device}, "
        return f"{kind}{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "nothing" if value is None else type(value).__name__
