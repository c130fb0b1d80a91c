"""A run's tables as CSV, for programs that read no Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from scarcity_ray.results.files import new_file
from scarcity_ray.results.reading import inside
from scarcity_ray.results.results import Results
from scarcity_ray.results.seed_rows import seed_rows
from scarcity_ray.results.stored_table import TABLES, parts_of, read_batches


def write_csv(results: Results, folder: Path) -> list[Path]:
    """Writes rounds.csv, clients.csv, insights.csv and summary.csv, and returns their paths. Files of these names are replaced.

    All columns of the tables, and `seed_rows`, with all digits; null is empty. Insights without their payloads, which are lists. A table is
    read and written some rows at a time. Raises RunError and Unwritable.
    """
    rows = seed_rows(results)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.csv" for name in (*TABLES, "summary")}
    for name in TABLES:
        _write_table(inside(results.directory, f"{name}.parquet"), name, paths[name])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with new_file(paths["summary"]) as draft:
        csv.write_csv(pa.table({column: _column([row.get(column) for row in rows]) for column in columns}), draft)
    return list(paths.values())


def _write_table(source: Path, name: str, path: Path) -> None:
    columns = [field.name for field in parts_of(source, name)[1] if not _is_list(field.type)]
    schema = pa.schema([parts_of(source, name)[1].field(column) for column in columns])
    with new_file(path) as draft, csv.CSVWriter(draft, schema) as writer:
        for batch in read_batches(source, name):
            writer.write_batch(batch.select(columns))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _column(values: list[Any]) -> pa.Array:
    """Values of JSON as a column: whole numbers stay whole where all are."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [None if value is None else str(value) for value in values]
    return pa.array(values)
