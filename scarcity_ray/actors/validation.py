"""The gate for updates: what a client sends is checked before it may enter a sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.strategy import State, Uploads
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


def validate_updates(
    clients: NDArray[np.int64], uploads: Uploads, like: State, kept: State, mine: State, most: Tensor | None = None
) -> Validation:
    """Judges k clients, one by one.

    uploads: name -> (value `[k, ...]`, weight). like: the server's values by the same names; a value must have their
    shape and type. kept: new memory `[k, ...]`, in place of `mine`. most: float64 `[k, 1]`, what each client may weigh.
    Raises MalformedUpdate for what has another form.
    """
    checked = Validation(np.ones(len(clients), dtype=np.bool_), {}, {})

    def refuse(bad: NDArray[np.bool_], why: str) -> None:
        if bad.any():
            for client in clients[bad & checked.good]:
                checked.reasons[int(client)] = why
            checked.good[bad] = False

    for name, (value, weight, *to) in _triples(uploads):
        wanted = like.get(name)
        if wanted is not None and to:
            _require(to[0], torch.zeros((), dtype=torch.int64), len(clients), f"whose mean {name} enters")
            refuse(((to[0] < 0) | (to[0] >= len(wanted))).numpy(), f"{name} is for a row that the server does not have")
            wanted = wanted[0]
        _require(value, wanted, len(clients), name)
        checked.largest[name] = magnitudes(value)
        refuse(_wild(checked.largest[name]), f"{name} is not finite, or beyond {LARGEST:g}")
        if not isinstance(weight, Tensor) or not weight.is_floating_point() or not _fits(weight.shape, value.shape):
            raise MalformedUpdate(f"the weight of {name} is {_looks(weight)}, not a number for each client")
        weights = weight.reshape(len(weight), -1)
        unfit = _wild(magnitudes(weights)) | (weights.amin(1) < 0).numpy()
        refuse(np.broadcast_to(unfit, checked.good.shape), f"the weight of {name} is not a finite number of at least 0")
        if most is not None:
            refuse((weights.double() > most * _ROUNDING).any(1).numpy(), f"the weight of {name} is more than its rows are worth")
    for name, value in kept.items():
        _require(value, mine[name][0] if name in mine else None, len(clients), f"its memory {name}")
        if value.is_floating_point():
            refuse(_wild(magnitudes(value)), "its model is not finite any more")
    return checked


def cause(reasons: Sequence[str]) -> tuple[str, bool]:
    """The reason to give where a round's messages were all rejected for these, and whether it is that numbers grew beyond all
    bounds, which smaller steps may prevent. One of that kind is given before others."""
    wild = [why for why in reasons if any(word in why for word in ("not finite", "is not a number from"))]
    return next(iter(wild or reasons), "nobody sent one"), bool(wild)


def require_payload(payload: Any, sizes: Mapping[str, int], k: int) -> None:
    """An insight's payload has the round's columns, each with so many numbers for each of k clients. Raises MalformedUpdate."""
    if not isinstance(payload, Mapping) or set(payload) != set(sizes):
        raise MalformedUpdate(f"its payload is {_named(payload)}, not {_named(sizes)}")
    for name, value in payload.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != (k, sizes[name]):
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
    if not isinstance(value, Tensor) or value.shape != (k, *wanted.shape) or value.dtype != wanted.dtype:
        raise MalformedUpdate(f"{name} is {_looks(value)}, not {_looks(wanted)} for each client")


def _fits(weight: Sequence[int], value: Sequence[int]) -> bool:
    """Whether weights of this shape are one for each client, or one for each number."""
    return len(weight) > 0 and weight[0] in (1, value[0]) and (math.prod(weight[1:]) == 1 or tuple(weight[1:]) == tuple(value[1:]))


def _wild(largest: Tensor) -> NDArray[np.bool_]:
    """Not a number, or too large: NaN compares as false."""
    return ~(largest <= LARGEST).numpy()


def _looks(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "nothing" if value is None else type(value).__name__
