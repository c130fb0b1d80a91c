"""Exact weighted means: the same bits for any order and any grouping of the clients.

Floating-point addition is exact as long as every term is a multiple of one grid and the sum stays below 2**53 grid
steps (the pre-rounding of Demmel and Nguyen, "Parallel Reproducible Summation", IEEE Trans. Computers 2015). The grid of
a term depends on its client alone: on the power-of-two bin of the client's largest value. One bin covers a factor of
2**16, so a round needs one or two bins. Means near 1e-9 and near 1e9 are as accurate as means near 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BIN = 16  # bits of magnitude that share a grid
_LONG = 4096  # from this many columns on, adding row by row is faster than all rows at once: a row's copy stays in the cache
_OFFSET = 8  # so that no bin ends at 1, near which most parameters lie


class Sums:
    """Sums over clients of `w v` and of `w`, for named values. `+=` adds another Sums.

    Weights are shares (`n_i / N`): each is at least 0, and over all clients of a round they sum to at most 1. This bounds
    every sum by the largest value of its bin. The rounding error of a term is at most 2**-37 of its client's largest value.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._buffer: Tensor | None = None

    def add(
        self, name: str, values: Tensor, weights: Tensor, largest: Tensor | None = None, to: Tensor | None = None, height: int = 1
    ) -> None:
        """Adds the rows of k clients under a name.

        values: `[k, ...]`, all finite. weights: float64, broadcastable to the values.
        largest: `magnitudes(values)`, if they are known already.
        to: int64 `[k]`, which of `height` sums each client's row is added to (the sum of its expert, for example); None: one
        sum for all.
        """
        rows = values.reshape(len(values), -1)
        shares = weights.double().expand(values.shape).reshape(rows.shape) if weights[0].numel() > 1 else weights.double().reshape(-1, 1)
        places = [_bin(most) for most in (magnitudes(rows) if largest is None else largest).tolist()]
        for place in sorted(set(places)):
            chosen = [i for i, other in enumerate(places) if other == place]
            whole = len(chosen) == len(places)
            key = (name, place)
            if key not in self._values:
                self._values[key] = torch.zeros(height, rows.shape[1], dtype=torch.float64)
            some = (rows, shares, to) if whole else (rows[chosen], shares[chosen], None if to is None else to[chosen])
            self._add_rows(self._values[key], *some, place)
        held, width = self._weights.get(name), shares.shape[1]
        if held is None or held.shape[1] < width:  # one weight a client so far, and now one for each number
            self._weights[name] = torch.zeros(height, width, dtype=torch.float64) + (0.0 if held is None else held)
        sums = self._weights[name]
        _into(sums, torch.round(shares * 2.0**52).mul_(2.0**-52).expand(-1, sums.shape[1]), to)

    def _add_rows(self, total: Tensor, rows: Tensor, shares: Tensor, to: Tensor | None, place: int) -> None:
        """Adds the rows of one bin to the bin's totals."""
        # Adding and subtracting 1.5 * 2**top rounds to multiples of 2**(top - 52): the grid of values below 2**top.
        shifter = 1.5 * 2.0 ** (place * _BIN + _OFFSET)
        one_by_one = rows.shape[1] >= _LONG and shares.shape[1] == 1
        size = rows.shape[1] if one_by_one else rows.numel()
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.float64)  # reused, because new memory costs page faults
        terms = self._buffer[:size]
        if one_by_one:
            start = torch.tensor(shifter, dtype=torch.float64)
            sums = [total[0]] * len(rows) if to is None else [total[i] for i in to.tolist()]
            for sum_, row, share in zip(sums, rows, shares[:, 0].tolist(), strict=True):
                torch.add(start, row, alpha=share, out=terms)
                sum_ += terms.sub_(shifter)
        else:
            terms = terms.view(rows.shape)
            terms.copy_(rows)
            _into(total, terms.mul_(shares).add_(shifter).sub_(shifter), to)

    def __iadd__(self, other: Sums) -> Sums:
        for key, value in other._values.items():
            self._values[key] = self._values[key] + value if key in self._values else value
        for name, value in other._weights.items():
            self._weights[name] = self._weights[name] + value if name in self._weights else value
        return self

    def __getstate__(self) -> dict[str, Any]:
        # As NumPy arrays: Ray moves arrays between processes without a copy, but copies tensors.
        return {
            "_values": {key: value.numpy() for key, value in self._values.items()},
            "_weights": {name: value.numpy() for name, value in self._weights.items()},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._values = {key: torch.from_numpy(value) for key, value in state["_values"].items()}
        self._weights = {name: torch.from_numpy(value) for name, value in state["_weights"].items()}
        self._buffer = None

    def __bool__(self) -> bool:
        return bool(self._weights)

    @property
    def names(self) -> list[str]:
        """The names that values were added under."""
        return list(self._weights)

    def total(self, name: str) -> tuple[Tensor, Tensor]:
        """`sum(w v)` and `sum(w)` of a name: float64 `[height, n]` and `[height, 1 or n]`."""
        weight = self._weights[name]
        places = sorted((key for key in self._values if key[0] == name), reverse=True)
        total = torch.zeros_like(self._values[places[0]])
        for place in places:
            total += self._values[place]
        return total, weight

    def weights(self) -> dict[str, Tensor]:
        """`sum(w)` of each name, float64 `[height, 1 or n]`."""
        return dict(self._weights)

    def mean(self, name: str) -> Tensor:
        """`sum(w v) / sum(w)` of a name, float64 `[height, n]`; 0 where all weights are 0."""
        total, weight = self.total(name)
        return torch.where(weight > 0, total / weight, torch.zeros_like(total))

    def means(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`sum(w v) / sum(w)` of each name, elementwise, with the shape and type of `like[name]`.

        Where all weights are 0, or a name has no sum, the value of `like` is returned.
        """
        means = {}
        for name, old in like.items():
            if name not in self._weights:
                means[name] = old
                continue
            total, weight = self.total(name)
            mean = torch.where(weight > 0, total / weight, old.reshape(total.shape).double())
            means[name] = mean.to(old.dtype).reshape(old.shape)
        return means


def magnitudes(values: Tensor) -> Tensor:
    """The largest absolute value `[k]` of each row `[k, ...]`; NaN or infinite for a row with such a value."""
    rows = values.reshape(len(values), -1)
    return torch.maximum(rows.amax(1), -rows.amin(1)) if rows.shape[1] else torch.zeros(len(rows), dtype=values.dtype)


def _into(totals: Tensor, terms: Tensor, to: Tensor | None) -> None:
    """Adds each term to the total that `to` names; all terms to the first total if `to` is None."""
    if to is None:
        totals[0] += terms.sum(0)
    else:
        totals.index_add_(0, to, terms)


def _bin(largest: float) -> int:
    """The bin b with `largest < 2**(16 b + 8)`; its grid is `2**(16 b + 8 - 52)`."""
    exponent = math.frexp(largest)[1]  # largest < 2**exponent
    return max(-(-(exponent - _OFFSET) // _BIN), -50)
