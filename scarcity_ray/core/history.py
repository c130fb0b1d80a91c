"""The history of insights: one record batch a round, each in an object store, and queries by client, round and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.insights import schema


def _same(value: Any) -> Any:
    return value


class History:
    """The insights of a run, one record batch a round, each put into an object store and read from there.

    `put` and `get` are the store's; without them the batches stay here. An insight's scalar part takes 60 bytes and the
    letters of the run's name, its payload 4 bytes a number, and a round 1.5 kB once (its schema, pickled).
    """

    def __init__(self, put: Callable[[Any], Any] | None = None, get: Callable[[Any], Any] | None = None) -> None:
        self._put, self._get = put or _same, get or _same
        self._references: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._clients: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # every client that has sent an insight

    def __len__(self) -> int:
        """How many insights there are."""
        return sum(self._sizes.values())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every insight, by round and client, as a dict."""
        for round in self.rounds:
            yield from self._get(self._references[round]).to_pylist()

    @property
    def rounds(self) -> list[int]:
        """The rounds that there are insights of, rising."""
        return sorted(self._references)

    def add(self, round: int, batch: pa.RecordBatch) -> None:
        """Keeps the insights of a round. A round that is there already is replaced: repeated after a fault, it is the same."""
        self._references[round] = self._put(batch)
        self._sizes[round] = batch.num_rows
        self._clients = np.union1d(self._clients, batch["client_id"].to_numpy())

    def query(
        self,
        clients: Iterable[int] | int | None = None,
        rounds: Iterable[int] | tuple[int, int] | int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Insights by round and client; only the rounds and columns asked for are read.

        clients: ids, or one; all if left out. rounds: a pair (first, last) is a range with both ends, anything else
        the rounds themselves; all if left out. columns: names, in the order wanted; a column that only some rounds
        have is null in the others. Rounds and clients that are not there give no rows. Raises KeyError for a column
        that is not there.
        """
        ids = None if clients is None else np.array([clients] if isinstance(clients, int | np.integer) else list(clients))
        parts = []
        for round in self._chosen(rounds):
            batch = self._get(self._references[round])
            there = batch.schema.names if columns is None else [name for name in columns if name in batch.schema.names]
            part = pa.Table.from_batches([batch]).select(there)
            parts.append(part if ids is None else part.filter(pa.array(np.isin(batch["client_id"].to_numpy(), ids))))
        table = pa.concat_tables(parts or [self._empty()], promote_options="default")
        return table if columns is None else table.select(list(columns))

    def latest(self, *columns: str) -> dict[str, NDArray[Any]]:
        """The newest insight of every client: `client_id` and the columns asked for, arrays `[clients]` by client.

        Reads back from the last round, as far as somebody's newest insight lies; rounds without one of the columns are
        passed over. Raises KeyError for a column that no round has.
        """
        names = list(dict.fromkeys(["client_id", *columns]))
        missing, parts = self._clients, []
        for round in reversed(self.rounds):
            if not len(missing):
                break
            table = self.query(rounds=round)
            if set(names) <= set(table.column_names):
                ids = table["client_id"].to_numpy()
                parts.append(table.select(names).filter(pa.array(np.isin(ids, missing))))
                missing = np.setdiff1d(missing, ids)
        table = pa.concat_tables(parts) if parts else self.query(columns=names)
        table = table.take(pa.array(np.argsort(table["client_id"].to_numpy())))
        return {name: _numbers(table[name]) for name in names}

    def _chosen(self, rounds: Iterable[int] | tuple[int, int] | int | None) -> list[int]:
        if rounds is None:
            return self.rounds
        if isinstance(rounds, int | np.integer):
            return [int(rounds)] if rounds in self._references else []
        if isinstance(rounds, tuple) and len(rounds) == 2:
            return [round for round in self.rounds if rounds[0] <= round <= rounds[1]]
        return sorted(self._references.keys() & set(rounds))

    def _empty(self) -> pa.Table:
        known = self._get(self._references[self.rounds[-1]]).schema if self._references else schema()
        return known.empty_table()


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as an array `[n]`, a payload's `[n, size]`."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(array.flatten()).reshape(len(column), column.type.list_size)
    return np.asarray(array)
