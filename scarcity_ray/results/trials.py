"""trials.parquet: what each trial of a search was, and what it reached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scarcity_ray.core.tables import column
from scarcity_ray.results.files import new_file
from scarcity_ray.results.reading import believing

FILE = "trials.parquet"

Status = Literal["finished", "diverged", "too large", "impossible"]
"""too large: not one round fits into the bytes that are allowed. impossible: values that are allowed one by one, but not together."""

SCHEMA = pa.schema(
    [
        column("strategy", pa.string(), "", "whose settings are searched"),
        column("trial", pa.int64(), "", "its number in the search of the strategy, from 0"),
        column("rung", pa.int64(), "", "how often it was promoted"),
        column("rounds", pa.int64(), "rounds", "that it played at most"),
        column("parameters", pa.string(), "", "the setting, in JSON"),
        column("validation", pa.float64(), "", "the metric that is searched for, where it finished", nullable=True),
        column("updates", pa.int64(), "", "client updates that were trained for it"),
        column("played", pa.int64(), "rounds", "that its bytes allowed, where it finished", nullable=True),
        column("bytes", pa.float64(), "bytes", "a client's, up and down, in the mean, where it finished", nullable=True),
        column("seconds", pa.float64(), "seconds", "wall-clock time"),
        column("status", pa.string(), "", "finished, diverged, too large for the bytes that are allowed, or impossible"),
    ]
)


@dataclass(frozen=True)
class Trial:
    """A row of SCHEMA; parameters as they are."""

    strategy: str
    trial: int
    rung: int
    rounds: int
    parameters: Mapping[str, Any]
    validation: float | None
    updates: int
    played: int | None
    bytes: float | None
    seconds: float
    status: Status

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies it in a search."""
        return self.strategy, self.trial, self.rung


def write_trials(directory: Path, trials: Sequence[Trial]) -> None:
    """Writes all of them, or leaves the file as it was. Raises Unwritable."""
    rows = [{**vars(one), "parameters": json.dumps(dict(one.parameters), sort_keys=True)} for one in trials]
    with new_file(directory / FILE) as draft:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), draft)


def read_trials(directory: Path) -> list[Trial]:
    """Those of a folder; none where it has no such file. Raises BrokenFile."""
    path = directory / FILE
    if not path.exists():
        return []
    with believing(path):
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
        return [Trial(**{**row, "parameters": json.loads(row["parameters"])}) for row in rows]


def trials_hash(trials: Sequence[Trial]) -> str:
    """SHA-256 over all but the wall-clock times, 64 hexadecimal digits: whether two searches were the same."""
    rows = [{name: value for name, value in vars(one).items() if name != "seconds"} for one in trials]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=dict).encode()).hexdigest()
