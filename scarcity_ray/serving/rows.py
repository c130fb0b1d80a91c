"""The tables of a run without one client, and with what was learned again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scarcity_ray.serving.replay import Replayed


def without(rows: pa.Table, known: Mapping[int, int]) -> pa.Table:
    """The rows of all other clients. known: the client's id under each seed."""
    seeds, ids = rows["seed"].to_numpy(), rows["client_id"].to_numpy()
    others = np.ones(len(rows), dtype=bool)
    for seed, who in known.items():
        others &= (seeds != seed) | (ids != who)
    return rows.filter(pa.array(others))


def relearned_columns(rows: pa.Table, replayed: Mapping[tuple[str, int], Replayed]) -> pa.Table:
    """The table of clients with what the models that were learned again say of each: its expert, confidence and contribution."""
    titles, seeds, rounds, ids = (np.asarray(rows[name]) for name in ("strategy", "seed", "round", "client_id"))
    for name in dict.fromkeys(name for found in replayed.values() for columns in found.columns.values() for name in columns):
        place = rows.schema.get_field_index(name)
        values = np.asarray(rows[name].cast("float64").to_numpy(), dtype=np.float64).copy()
        for (title, seed), found in replayed.items():
            own = (titles == title) & (seeds == seed)
            values[own] = np.nan
            for round, columns in found.columns.items():
                if name in columns:
                    then = own & (rounds == round)
                    values[then] = columns[name][ids[then]]
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array(values, from_pandas=True).cast(field.type))
    return rows


def replace_table(path: Path, rows: pa.Table) -> None:
    """Replaces a table, in one step."""
    draft, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for folder in (draft, old):
        shutil.rmtree(folder, ignore_errors=True)
    draft.mkdir()
    pq.write_table(rows, draft / "part-00000000.parquet", compression="zstd", write_page_checksum=True)
    path.rename(old)
    draft.rename(path)
    shutil.rmtree(old)
