"""What comes back from a round: each actor's report, and what the Server makes of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.insights import Rejection
from scarcity_ray.metrics.predictions import PredictionStat
from scarcity_ray.metrics.tested_rows import RowNumbers, tested_rows
from scarcity_ray.scarcity.taking_part import TakingPart
from scarcity_ray.training.evaluate import Stats, gathered, merge_metrics
from scarcity_ray.training.rows import Rows
from scarcity_ray.training.sums import Sums

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ChunkReport:
    """What there is to say of some clients that worked together: values `[k]` of each, see Report."""

    ids: Ids
    loss: NDArray[np.float64]
    loss_norm: NDArray[np.float64]
    steps: NDArray[np.int64]
    up_bytes: NDArray[np.int64]
    rejected: Mapping[int, str]


@dataclass
class Report:
    """What one actor says after a round: sums over its clients, and some numbers of each.

    ids: int64 `[n]`, the clients that worked. loss: float64 `[n]`, the mean loss of each in local training, in the user's unit.
    loss_norm: root of the mean square of its rows' losses there.
    up_bytes: what each sent; the uploads of a malformed message do not count. rejected: why a client's update or insight did not
    enter, by client id. rows: the single values, where an aggregator needs them. insights: of its clients, where they are sent.
    """

    ids: Ids
    loss: NDArray[np.float64]
    loss_norm: NDArray[np.float64]
    steps: NDArray[np.int64]
    up_bytes: NDArray[np.int64]
    rejected: dict[int, str]
    sums: Sums = field(default_factory=Sums)
    rows: Rows = field(default_factory=Rows)
    insights: pa.RecordBatch | None = None

    def mean_loss(self, heard: NDArray[np.bool_], samples: NDArray[np.int64]) -> float | None:
        """The mean training loss, weighted by training rows, over the clients that trained and were heard `[n]`; None without any.

        samples: training rows by client id.
        """
        trained = ~np.isnan(self.loss) & heard
        weight = samples[self.ids[trained]].astype(np.float64)
        return float((weight * self.loss[trained]).sum() / weight.sum()) if weight.sum() else None


@dataclass(frozen=True)
class Measured:
    """What testing some clients found. columns: of the clients table, `[n]` each, by rising id. stats: of the metrics. of_global: those
    of the global model, where it is tested beside personal ones."""

    columns: dict[str, NDArray[Any]]
    stats: Stats
    of_global: Stats

    @classmethod
    def merge(cls, parts: Sequence[Measured]) -> Measured:
        """What several actors found, by rising client id."""
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        order = np.argsort(columns["client_id"])
        stats = merge_metrics([part.stats for part in parts])
        of_global = merge_metrics([part.of_global for part in parts]) if parts[0].of_global else {}
        return cls({name: value[order] for name, value in columns.items()}, stats, of_global)


@dataclass
class RoundResult:
    """What one round left.

    row: the round's columns of the rounds table (all but strategy, seed and seconds). steps: local steps of all clients
    together. clients: columns of the clients table, by rising client id; None where the round was not evaluated.
    taking_part: what all clients have done so far, where something is scarce and the round was evaluated.
    tested_rows: what the metric that decides takes from each test row, after the last round.
    predictions: columns of the predictions table (metrics.predictions), after the last round where they are asked for.
    insights: the accepted insights. learned: what summary.json says of the round. rejected: whose update or
    insight did not enter (None where an insight names no client), and why. diverged: not one update could be used. done: the
    strategy has nothing more to learn. server, client_state: the state dicts of the server and of all clients, where they were asked
    for; kept_seconds: what that took. seconds: from the end of the round before to the end of this one, as the driver of a run sees it.
    """

    row: dict[str, Any]
    steps: int
    clients: dict[str, NDArray[Any]] | None = None
    taking_part: TakingPart | None = None
    tested_rows: RowNumbers | None = None
    predictions: dict[str, NDArray[Any]] | None = None
    insights: pa.RecordBatch | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    diverged: bool = False
    done: bool = False
    server: dict[str, Any] | None = None
    client_state: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept_seconds: float = 0.0
    seconds: float = 0.0

    def keep_rows(self, found: Measured) -> None:
        """Takes what the clients' tests say of single rows, where it was gathered."""
        self.tested_rows, answers = tested_rows(found.stats), gathered(found.stats, PredictionStat)
        self.predictions = None if answers is None else answers.columns()


def report_of(parts: Sequence[ChunkReport | Report], **rest: Any) -> Report:
    """One report of all parts, by rising client id. rest: its sums, rows and insights."""
    ids = _joined(parts, "ids", np.int64)
    order = np.argsort(ids)
    loss, norm, steps = (_joined(parts, name, kind)[order] for name, kind in (("loss", float), ("loss_norm", float), ("steps", np.int64)))
    rejected = dict(sorted((client, why) for part in parts for client, why in part.rejected.items()))
    return Report(ids[order], loss, norm, steps, _joined(parts, "up_bytes", np.int64)[order], rejected, **rest)


def _joined(parts: Sequence[ChunkReport | Report], name: str, kind: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *(getattr(part, name) for part in parts)])
