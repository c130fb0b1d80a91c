"""MetaLearner: keeps the history of insights, says what a round was like, and asks the strategy what to learn from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.insights import SCHEMA, Rejection, Sent, merge, schema, validate_insights
from scarcity_ray.core.strategy import Guidance, InsightStrategy, Lesson
from scarcity_ray.training.problem import Problem

_log = logging.getLogger(f"{__name__}.MetaLearner")

KEPT_BYTES = 256 << 20
"""The most a round's insights may hold for their payload to be written down with them."""

DESCRIBED = ("uncertainty", "mean_grad", "loss_improvement")
"""The columns that a round's summary describes."""


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
        self._clients: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # everybody ever heard of

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
        """The newest insight of every client ever heard of: `client_id` and the columns asked for, arrays `[clients]` by client.

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


def describe(ids: NDArray[np.int64], values: NDArray[Any]) -> dict[str, Any]:
    """What a column was like over the clients of a round: mean, std (of these clients, not an estimate), the quantiles
    0.1, 0.5 and 0.9 (linear between values), and the ids of who lies more than one std above (high) or below (low)."""
    numbers = values.astype(np.float64)
    if not len(numbers):
        return {"mean": None, "std": None, "quantiles": None, "high": [], "low": []}
    mean, std = float(numbers.mean()), float(numbers.std())
    quantiles = np.quantile(numbers, (0.1, 0.5, 0.9)).tolist()
    high, low = ids[numbers > mean + std], ids[numbers < mean - std]
    return {"mean": mean, "std": std, "quantiles": quantiles, "high": high.tolist(), "low": low.tolist()}


class MetaLearner:
    """Learns across clients and rounds, from insights alone.

    Without a strategy it keeps the history and describes each round; with one, it asks the strategy's server half for
    a lesson. problem: what the strategy learns; its population is who may send insights (anybody without one). run:
    the scenario's name; any where empty. put, get: an object store's, see History.
    """

    def __init__(
        self,
        strategy: InsightStrategy | None = None,
        problem: Problem | None = None,
        run: str = "",
        put: Callable[[Any], Any] | None = None,
        get: Callable[[Any], Any] | None = None,
    ) -> None:
        self._put, self._get = put, get
        self.begin(strategy, problem, run)

    def begin(self, strategy: InsightStrategy | None = None, problem: Problem | None = None, run: str = "") -> None:
        """Starts a strategy, with an empty history. Raises ValueError for a strategy without a problem."""
        if strategy is not None and problem is None:
            raise ValueError("a strategy learns for a problem: give the MetaLearner both")
        self.strategy, self.problem, self.run = strategy, problem, run
        self.insight_history = History(self._put, self._get)

    def restore(self, history: dict[int, pa.RecordBatch]) -> None:
        """Takes up the insights of earlier rounds, as it kept them then."""
        for round, batch in history.items():
            self.insight_history.add(round, batch)

    def aggregate(self, insights: pa.RecordBatch | Iterable[Any], round: int | None = None) -> Lesson:
        """Gates a round's insights, keeps the good ones, and returns what is learned from the history with them.

        insights: a record batch, or by hand a list of dicts with the fields of an insight. round: theirs, and one with
        another is refused; without it they are filed under the next round, whatever they say.
        The lesson's summary: round, insights and rejected (counts), rejections (client id and reason of each), and for
        each column of DESCRIBED what `describe` says; then whatever the strategy adds. No malformed insight raises.
        """
        return self.learn(insights, round)[0]

    def learn(self, insights: pa.RecordBatch | Iterable[Any], round: int | None = None) -> tuple[Lesson, pa.RecordBatch, list[Rejection]]:
        """As `aggregate`; also the insights that were kept, by client id (without payload where it is past KEPT_BYTES), and
        why others were not. insights: also a list of Sent, of which each sender is heard for its own clients alone."""
        history = self.insight_history
        number = max(history.rounds, default=0) + 1 if round is None else round
        known = payload = None
        if self.strategy is not None and self.problem is not None:
            payload = self.strategy.payload(self.problem, number)
        if self.problem is not None:
            known = range(self.problem.population)
        several = isinstance(insights, list) and len(insights) > 0 and all(isinstance(one, Sent) for one in insights)
        sent: Iterable[Sent] = insights if several else [Sent(known, insights)]
        gated = [validate_insights(one.insights, payload=payload, run=self.run or None, round=round, clients=one.clients) for one in sent]
        good, rejections = merge(batch for batch, _ in gated), [rejection for _, found in gated for rejection in found]
        if round is None:
            place = good.schema.get_field_index("round")
            good = good.set_column(place, good.schema.field(place), pa.array(np.full(len(good), number, dtype=np.int32)))
        history.add(number, good)

        summary: dict[str, Any] = {"round": number, "insights": len(good), "rejected": len(rejections), "rejections": rejections}
        summary |= {name: describe(good["client_id"].to_numpy(), good[name].to_numpy()) for name in DESCRIBED}
        for client, reason in rejections:
            _log.warning("round %d: the insight of client %s is rejected: %s", number, client, reason)
        mean, std, high, low = (summary["uncertainty"][name] for name in ("mean", "std", "high", "low"))
        spread = "" if mean is None else f"; uncertainty {mean:.3f} +- {std:.3f}, high for {len(high)} clients, low for {len(low)}"
        _log.info("round %d: %d insights, %d rejected%s", number, len(good), len(rejections), spread)

        lesson = Lesson({}, Guidance())
        if self.strategy is not None and self.problem is not None:
            lesson = self.strategy.learn(self.problem, history, number)
        told = good if good.nbytes <= KEPT_BYTES else good.select(SCHEMA.names)
        return replace(lesson, summary={**summary, **lesson.summary}), told, rejections
