"""The gate for updates: what a client sends is checked before it may enter a sum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.strategies.strategy import State, Uploads
from scarcity_ray.training.sums import magnitudes

LARGEST = 1e30
"""A value beyond this is no honest parameter, and would leave no room for a sum of float32 values."""


def judge(clients: NDArray[np.int64], uploads: Uploads, like: State, kept: State) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Which of k clients may enter the sums (and keep their new memory), and for the others why not, by client id.

    uploads: name -> (value `[k, ...]`, weight). like: the server's values by the same names; a value must have their
    shape and type. kept: new memory `[k, ...]`.
    """
    reasons: dict[int, str] = {}
    good = np.ones(len(clients), dtype=np.bool_)

    def refuse(bad: NDArray[np.bool_], why: str) -> None:
        for client in clients[bad & good]:
            reasons[int(client)] = why
        good[bad] = False

    for name, (value, weight) in uploads.items():
        wanted = like.get(name)
        if wanted is None or not isinstance(value, Tensor) or value.shape != (len(clients), *wanted.shape) or value.dtype != wanted.dtype:
            refuse(np.ones_like(good), f"{name} is {_looks(value)}, not {_looks(wanted)} for each client")
            continue
        refuse(_wild(value), f"{name} is not finite, or beyond {LARGEST:g}")
        least = weight.reshape(len(weight), -1).amin(1).expand(len(clients)).numpy()
        refuse(
            ~(least >= 0) | _wild(weight.expand(len(clients), *weight.shape[1:])),
            f"the weight of {name} is not a finite number of at least 0",
        )
    refuse(_any_wild(kept, len(clients)), "its model is not finite any more")
    return good, reasons


def _any_wild(state: Mapping[str, Tensor], k: int) -> NDArray[np.bool_]:
    bad = np.zeros(k, dtype=np.bool_)
    for value in state.values():
        bad |= _wild(value)
    return bad


def _wild(value: Tensor) -> NDArray[np.bool_]:
    if not value.is_floating_point():
        return np.zeros(len(value), dtype=np.bool_)
    largest = magnitudes(value)
    return (~(torch.isfinite(largest) & (largest <= LARGEST))).numpy()


def _looks(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "nothing the server has" if value is None else type(value).__name__
