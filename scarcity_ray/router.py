"""Router: which expert answers, by a fixed table client -> expert, or by the highest score."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Router:
    """Routes to one of `num_experts` experts, ids 0 to num_experts - 1.

    >>> router = Router(num_experts=3, table={7: 2})
    >>> router.lookup([7])
    array([2])
    >>> router.route([[0.1, 0.8, 0.1], [0.5, 0.0, 0.5]])
    array([1, 0])
    """

    def __init__(self, num_experts: int = 1, table: Mapping[int, int] | None = None) -> None:
        if num_experts < 1:
            raise ValueError(f"num_experts is {num_experts}; a router needs at least 1")
        self.num_experts = num_experts
        self._table: dict[int, int] = {}
        self.assign(table or {})

    @property
    def table(self) -> dict[int, int]:
        """The expert of each assigned client. A copy."""
        return dict(self._table)

    def assign(self, table: Mapping[int, int]) -> None:
        """Enters clients in the table; one that is there already moves. Raises ValueError for an unknown expert, and enters none."""
        rows = {index(client): index(expert) for client, expert in table.items()}
        for client, expert in rows.items():
            if not 0 <= expert < self.num_experts:
                raise ValueError(f"client {client} cannot have expert {expert}: there are experts 0 to {self.num_experts - 1}")
        self._table.update(rows)

    def lookup(self, clients: ArrayLike) -> NDArray[np.int64]:
        """The expert of each client, from the table: ids `[n]` to ids `[n]`. Raises KeyError naming clients that are not in it."""
        ids = np.asarray(clients, dtype=np.int64)
        unknown = sorted(set(ids.ravel().tolist()) - self._table.keys())
        if unknown:
            raise KeyError(f"no expert is assigned to client {', '.join(map(str, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}")
        return np.array([self._table[client] for client in ids.ravel().tolist()], dtype=np.int64).reshape(ids.shape)

    def route(self, scores: ArrayLike) -> NDArray[np.int64]:
        """The expert of the highest score of each row, the lowest id of equals: `[n, num_experts]` to ids `[n]`.

        A score may be infinite. Raises ValueError for another shape and for NaN.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.num_experts:
            raise ValueError(f"scores have shape {list(values.shape)}; a router of {self.num_experts} takes [n, {self.num_experts}]")
        nan = np.flatnonzero(np.isnan(values).any(axis=1))
        if len(nan):
            raise ValueError(f"scores of row {nan[0]} are not all numbers (NaN), and of {len(nan) - 1} rows more")
        best: NDArray[np.int64] = np.argmax(values, axis=1).astype(np.int64)
        return best
