"""The values of single clients, for aggregators that need more than sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Rows:
    """Values and weights of clients, for named uploads. `+=` adds those of other clients."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[NDArray[Any], ...]]] = {}

    def add(self, name: str, ids: NDArray[np.int64], values: Tensor, weights: Tensor, to: Tensor | None = None) -> None:
        """Adds the values `[k, ...]` of clients `[k]` under a name. weights: float64 `[k, 1]`, or as many as values.

        to: int64 `[k]`, the row of the server's that each is for; 0 if left out.
        """
        rows = torch.zeros(len(ids), dtype=torch.int64) if to is None else to
        part = (ids, values.numpy(), weights.reshape(len(ids), -1).double().numpy(), rows.numpy())
        self._parts.setdefault(name, []).append(part)

    def __iadd__(self, other: Rows) -> Rows:
        for name, parts in other._parts.items():
            self._parts[name] = [*self._parts.get(name, []), *parts]
        return self

    def weights(self, several: Mapping[str, int]) -> dict[str, Tensor]:
        """The sums of weights by name, float64 `[rows, 1]`, or one for each number. several: how many rows the server has for a name."""
        sums = {}
        for name in self._parts:
            _, _, weights, to = self._sorted(name)
            sums[name] = torch.zeros(several.get(name, 1), weights.shape[1], dtype=torch.float64).index_add_(0, to, weights)
        return sums

    def combined(self, name: str, combine: Callable[[Tensor, Tensor], Tensor], old: Tensor, several: bool) -> Tensor:
        """`combine(values, weights)` of a name, clients by rising id; `old` where nobody sent one.

        several: the server has a row for each of several experts, and each is combined from the values that are for it.
        """
        if name not in self._parts:
            return old
        _, values, weights, to = self._sorted(name)
        new = []
        for row, before in enumerate(old if several else old[None]):
            chosen = to == row
            one = combine(values[chosen], weights[chosen]) if chosen.any() else before
            new.append(one.to(old.dtype).reshape(before.shape))
        return torch.stack(new) if several else new[0]

    def _sorted(self, name: str) -> tuple[Tensor, ...]:
        ids, values, weights, to = zip(*self._parts[name], strict=True)
        width = max(one.shape[1] for one in weights)  # some may have a weight for each number, and others one alone
        weights = tuple(np.broadcast_to(one, (len(one), width)) for one in weights)
        parts = [np.concatenate(part) for part in (ids, values, weights, to)]
        order = np.argsort(parts[0])
        return tuple(torch.from_numpy(part[order]) for part in parts)
