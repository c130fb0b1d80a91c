"""Traces: a file that says when each client is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from scarcity_ray.core.federation import Spans
from scarcity_ray.core.spec import SpecError
from scarcity_ray.scarcity.availability import SECOND

_FIELD = ("scarcity", "availability", "path")
_COLUMNS = ("client", "start", "end")


def read_trace(path: str, base_dir: Path, names: Sequence[str], absent: Sequence[str] = ()) -> Spans:
    """The spans of clients with these names, by id. absent: names of clients that take no part, whose spans are passed over.

    path: CSV, or Parquet (.parquet, .pq), from the scenario file's folder: client (a name), start and end (seconds of the simulated
    clock), a row a span. Each client's spans rise and do not overlap. Raises SpecError that names the line for anything else.
    """

    def refuse(message: str) -> SpecError:
        return SpecError(_FIELD, path, message)

    file = base_dir / path
    try:
        if file.suffix in (".parquet", ".pq"):
            table = pa.parquet.read_table(file, columns=list(_COLUMNS))
        else:
            types = {"client": pa.string(), "start": pa.float64(), "end": pa.float64()}
            options = pa.csv.ConvertOptions(include_columns=list(_COLUMNS), column_types=types)
            table = pa.csv.read_csv(file, convert_options=options)
        clients = table["client"].cast(pa.string()).to_pylist()
        times = [table[name].cast(pa.float64()).to_numpy() for name in ("start", "end")]
    except FileNotFoundError:
        raise refuse(f"there is no file {file.resolve()}") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise refuse(f"it needs the columns client (a name), start and end (seconds): {error}") from None
    ids = dict.fromkeys(absent, -1) | {name: place for place, name in enumerate(names)}
    first = 1 if file.suffix in (".parquet", ".pq") else 2  # a CSV file's first line is its header
    last: dict[str, float] = {}
    for place, (client, start, end) in enumerate(zip(clients, *(part.tolist() for part in times), strict=True), first):
        if client not in ids:
            raise refuse(f"line {place}: there is no client {client!r}; the first are {', '.join(names[:5])}")
        if not 0 <= start < end < 2**62 / SECOND:
            raise refuse(f"line {place}: a span from {start:g} to {end:g} s: it has to start at 0 or later, and to end after its start")
        if start < last.get(client, 0.0):
            why = f"client {client} is there until {last[client]:g} s already, by a line before"
            raise refuse(f"line {place}: a span from {start:g} s, and {why}: sort its spans by time, and join those that overlap")
        last[client] = end
    owner = np.array([ids[client] for client in clients], dtype=np.int64)
    order = np.argsort(owner, kind="stable")[int((owner < 0).sum()) :]
    begin, end = (np.rint(part[order] * SECOND).astype(np.int64) for part in times)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner[order], minlength=len(names)))]).astype(np.int64)
    return Spans(starts, begin, end)
