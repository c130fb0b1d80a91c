"""The gate for updates: what a client sends is checked before it may enter a sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.strategies.strategy import State, Uploads
from scarcity_ray.training.sums import magnitudes

LARGEST = 1e30
"""A value beyond this is no honest parameter, and would leave no room for a sum of float32 values."""


@dataclass
class Verdict:
    """Which of k clients may enter the sums (and keep their new memory), `good [k]`, and for the others why not, by
    client id. largest: the magnitude of each row of each upload, which the sums need as well."""

    good: NDArray[np.bool_]
    reasons: dict[int, str]
    largest: dict[str, Tensor]


def judge(clients: NDArray[np.int64], uploads: Uploads, like: State, kept: State) -> Verdict:
    """Judges k clients, one by one.

    uploads: name -> (value `[k, ...]`, weight). like: the server's values by the same names; a value must have their
    shape and type. kept: new memory `[k, ...]`.
    """
    verdict = Verdict(np.ones(len(clients), dtype=np.bool_), {}, {})

    def refuse(bad: NDArray[np.bool_], why: str) -> None:
        if bad.any():
            for client in clients[bad & verdict.good]:
                verdict.reasons[int(client)] = why
            verdict.good[bad] = False

    for name, (value, weight, *to) in uploads.items():
        wanted = like.get(name)
        if wanted is not None and to:
            refuse(((to[0] < 0) | (to[0] >= len(wanted))).numpy(), f"{name} is for a row that the server does not have")
            wanted = wanted[0]
        if wanted is None or not isinstance(value, Tensor) or value.shape != (len(clients), *wanted.shape) or value.dtype != wanted.dtype:
            refuse(np.ones_like(verdict.good), f"{name} is {_looks(value)}, not {_looks(wanted)} for each client")
            continue
        verdict.largest[name] = magnitudes(value)
        refuse(_wild(verdict.largest[name]), f"{name} is not finite, or beyond {LARGEST:g}")
        weights = weight.reshape(len(weight), -1)
        unfit = _wild(magnitudes(weights)) | (weights.amin(1) < 0).numpy()
        refuse(np.broadcast_to(unfit, verdict.good.shape), f"the weight of {name} is not a finite number of at least 0")
    for value in kept.values():
        if value.is_floating_point():
            refuse(_wild(magnitudes(value)), "its model is not finite any more")
    return verdict


def _wild(largest: Tensor) -> NDArray[np.bool_]:
    """Not a number, or too large: NaN compares as false."""
    return ~(largest <= LARGEST).numpy()


def _looks(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "nothing the server has" if value is None else type(value).__name__
