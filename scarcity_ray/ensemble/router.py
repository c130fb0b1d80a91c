"""Router: selects the experts that answer, and their weights, by a table of rules or by scores."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Router:
    """Routes to `num_experts` experts, ids 0 to num_experts - 1.

    By rule: a table from tags to experts. A tag is any hashable value: a client's id, the name of a group or of a domain.
    By scores `[n, num_experts]`: the best expert, the k best, or all experts with weights. A score is a log-probability up to
    a constant for each row. -inf means that an expert cannot answer. A row of -inf alone, and NaN, raise ValueError.

    >>> router = Router(num_experts=3, table={7: 2, "north": 0})
    >>> router.lookup([7, "north"])
    array([2, 0])
    >>> router.route([[0.1, 0.8, 0.1], [0.5, 0.0, 0.5]])
    array([1, 0])
    >>> router.weights([[0.0, 0.0, -9.0]], k=2)
    array([[0.5, 0.5, 0. ]])
    """

    def __init__(self, num_experts: int = 1, table: Mapping[Any, int] | None = None) -> None:
        if num_experts < 1:
            raise ValueError(f"num_experts is {num_experts}; a router needs at least 1")
        self.num_experts = num_experts
        self._table: dict[Hashable, int] = {}
        self.assign(table or {})

    # -- by rule -----------------------------------------------------------------------------------------------------

    @property
    def table(self) -> dict[Hashable, int]:
        """The expert of each assigned tag. A copy."""
        return dict(self._table)

    def assign(self, table: Mapping[Any, int]) -> None:
        """Adds tags to the table; a tag that is already there gets its new expert. Raises ValueError for an unknown expert; then the
        table does not change."""
        rows = {tag: index(expert) for tag, expert in table.items()}
        for tag, expert in rows.items():
            if not 0 <= expert < self.num_experts:
                raise ValueError(f"{tag!r} cannot have expert {expert}: there are experts 0 to {self.num_experts - 1}")
        self._table.update(rows)

    def lookup(self, tags: Iterable[Hashable]) -> NDArray[np.int64]:
        """The expert of each tag, from the table: ids `[n]`. Raises KeyError naming tags that are not in it."""
        wanted = tags.tolist() if isinstance(tags, np.ndarray) else list(tags)
        unknown = [tag for tag in dict.fromkeys(wanted) if tag not in self._table]
        if unknown:
            raise KeyError(f"no expert is assigned to {', '.join(map(repr, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}")
        return np.array([self._table[tag] for tag in wanted], dtype=np.int64)

    # -- by scores ---------------------------------------------------------------------------------------------------

    def route(self, scores: ArrayLike) -> NDArray[np.int64]:
        """The expert with the highest score of each row (of equal scores, the lowest id): `[n, num_experts]` to ids `[n]`."""
        best: NDArray[np.int64] = np.argmax(self._below_best(scores), axis=1).astype(np.int64)
        return best

    def top(self, scores: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best experts of each row in descending order of scores (of equal scores, the lowest id first): ids `[n, k]`, and
        their weights `[n, k]`, the softmax over these k."""
        return self._top(self._below_best(scores), k)

    def weights(self, scores: ArrayLike, k: int | None = None, temperature: float = 1.0) -> NDArray[np.float64]:
        """The weight of each expert, `[n, num_experts]`; each row sums to 1.

        The softmax of `scores / temperature` over each row's k best experts, 0 for the others; k None: over all experts. A
        temperature near 0 selects the best expert alone; a high temperature gives nearly equal weights.
        """
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature is {temperature}; it must be a finite number above 0")
        ids, chosen = self._top(self._below_best(scores, temperature), self.num_experts if k is None else k)
        weights = np.zeros((len(ids), self.num_experts))
        np.put_along_axis(weights, ids, chosen, axis=1)
        return weights

    def load(self, routed: ArrayLike) -> NDArray[np.float64]:
        """The share of inputs that each expert answers, `[num_experts]`. It sums to 1; NaN without inputs.

        routed: the result of `route` or `lookup` (ids `[n]`), or of `weights` (`[n, num_experts]`).
        """
        values = np.asarray(routed)
        ids = values.ndim == 1 and (values.dtype.kind in "iu" or not len(values))
        total = np.bincount(values.astype(np.int64), minlength=self.num_experts) if ids else values.sum(axis=0)
        if not (ids or values.ndim == 2) or total.shape != (self.num_experts,):
            raise ValueError(
                f"load takes ids [n] below {self.num_experts}, or weights [n, {self.num_experts}]; "
                f"this is {values.dtype} of shape {list(values.shape)}"
            )
        share: NDArray[np.float64] = total / len(values) if len(values) else np.full(self.num_experts, np.nan)
        return share

    def _top(self, below_best: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if not 1 <= k <= self.num_experts:
            raise ValueError(f"k is {k}; it must be from 1 to {self.num_experts}, the number of experts")
        ids: NDArray[np.int64] = np.argsort(-below_best, axis=1, kind="stable")[:, :k].astype(np.int64)
        odds = np.exp(np.take_along_axis(below_best, ids, axis=1))
        return ids, odds / odds.sum(axis=1, keepdims=True)

    def _below_best(self, scores: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
        """(scores - best score of the row) / temperature, so at most 0. If the best is inf, all others are -inf."""
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.num_experts:
            raise ValueError(f"scores have shape {list(values.shape)}; a router of {self.num_experts} takes [n, {self.num_experts}]")
        for bad, why in (
            (np.isnan(values).any(axis=1), "are not all numbers (NaN)"),
            (np.isneginf(values).all(axis=1), "are all -inf: no expert can answer"),
        ):
            rows = np.flatnonzero(bad)
            if len(rows):
                raise ValueError(f"scores of row {rows[0]} {why}; the same holds for {len(rows) - 1} more rows")
        best = values.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is replaced; a score far below the best becomes -inf
            below: NDArray[np.float64] = np.where(values == best, 0.0, (values - best) / temperature)
        return below
