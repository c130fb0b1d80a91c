"""What comes back from a round: each actor's report, and what the Server makes of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.insights import Rejection
from scarcity_ray.training.sums import Sums

Ids = NDArray[np.int64]


@dataclass
class Report:
    """What one actor says after a round: sums over its clients, and some numbers of each.

    ids: int64 `[n]`, the clients that worked. loss: float64 `[n]`, the mean loss each met in local training, in the user's unit.
    rejected: why a client's update or insight did not enter, by client id. insights: its clients' insights, in an insight round.
    """

    ids: Ids
    loss: NDArray[np.float64]
    steps: NDArray[np.int64]
    rejected: dict[int, str]
    sums: Sums = field(default_factory=Sums)
    insights: pa.RecordBatch | None = None


@dataclass
class RoundResult:
    """What one round left.

    row: the round's columns of the rounds table (all but strategy, seed and seconds). steps: local steps of all clients
    together. clients: columns of the clients table, by rising client id; None where the round was not evaluated.
    insights: the accepted insights. learned: what summary.json is to say of the round's lesson. rejected: whose update or
    insight did not enter (None where an insight did not tell), and why. diverged: not one update could be used. done: the
    strategy has nothing more to learn. held, memory: see Server.held, where they were asked for; kept_seconds: what that took.
    seconds: from the end of the round before to the end of this one, as the driver of a run sees it.
    """

    row: dict[str, Any]
    steps: int
    clients: dict[str, NDArray[Any]] | None = None
    insights: pa.RecordBatch | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    diverged: bool = False
    done: bool = False
    held: dict[str, Any] | None = None
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept_seconds: float = 0.0
    seconds: float = 0.0


def report_of(parts: list[Any], **rest: Any) -> Report:
    """One report from its chunks, by rising client id."""
    if not parts:
        return Report(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.int64), {}, **rest)
    ids = np.concatenate([part[0] for part in parts])
    loss = np.concatenate([part[1] for part in parts])
    steps = np.concatenate([part[2].numpy().reshape(-1) for part in parts]).astype(np.int64)
    order = np.argsort(ids)
    return Report(ids[order], loss[order], steps[order], {k: v for part in parts for k, v in part[3].items()}, **rest)


def joined(reports: Iterable[Report]) -> Report:
    """One report of all clients, by rising id, without sums and insights."""
    parts = list(reports)
    if not parts:
        return Report(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.int64), {})
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    return Report(
        ids[order],
        np.concatenate([part.loss for part in parts])[order],
        np.concatenate([part.steps for part in parts])[order],
        {client: why for part in parts for client, why in sorted(part.rejected.items())},
    )
