"""A table of a run, read back and checked: only what a run can have written there is accepted.

Pages have checksums; their description at a file's end has none, so it is compared with itself and with the schemas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scarcity_ray.core import tables
from scarcity_ray.core.insights import PAYLOADS, SCHEMA
from scarcity_ray.metrics import METRICS
from scarcity_ray.results.environment import memory_bytes
from scarcity_ray.results.reading import BrokenFile, RunError, inside

TABLES = ("rounds", "clients", "insights")
"""What every run has."""

PREDICTIONS = "predictions"
"""The table that a run has where its scenario asks for it."""

_PART = re.compile(r"part-(\d{8,})\.parquet")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def declared(name: str, *, details: bool = True) -> pa.Schema:
    """The schema that this version writes a table with, for all metrics, or without details. Raises KeyError for another name."""
    metrics = [metric for metric in METRICS if details or not metric.detail]
    schemas = {"rounds": tables.rounds(metrics), "clients": tables.clients(metrics), "insights": tables.insights(SCHEMA, PAYLOADS)}
    return (schemas | {PREDICTIONS: tables.predictions("classification", 0)})[name]


def read_table(
    directory: Path,
    name: str,
    columns: list[str] | None = None,
    filters: list[tuple[str, str, Any]] | None = None,
    *,
    complete: bool = True,
) -> pa.Table:
    """A table of a run's directory: all of it, or columns and rows as `pyarrow.parquet.read_table` chooses them.

    Columns that this version does not know (a later version's, another metric's) are passed through. complete: columns that were
    added after the run are null; without it they are left out.
    Raises RunError where there is none; BrokenFile where it is cut, altered, of a newer major version or larger than it can be.
    """
    if name not in (*TABLES, PREDICTIONS):
        raise RunError(f"a run has no table {name!r}; it has {', '.join((*TABLES, PREDICTIONS))}")
    path = inside(directory, f"{name}.parquet")
    if not path.exists():
        hint = ": the scenario did not ask for it, by `evaluation: {predictions: true}`" if name == PREDICTIONS else ""
        raise RunError(f"{path} is missing{hint}")
    parts, stored = parts_of(path, name)
    known = declared(name, details=tables.version_of(stored) < (1, 2))
    added = [field for field in known if tables.is_optional(field) and field.name not in stored.names]
    asked = None if columns is None else [column for column in columns if column not in {field.name for field in added}]
    try:
        table = pq.read_table(
            [str(part) for part in parts], columns=asked, filters=filters, partitioning=None, page_checksum_verification=True
        )
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BrokenFile(path, _short(error)) from error
    if not complete or (columns is not None and len(columns) == len(asked or ())):
        return table
    for field in added if columns is None else [field for field in added if field.name in columns]:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table if columns is None else table.select(columns)


def read_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    """The rows of the table `name` at `path`, in order, some at a time. Raises BrokenFile."""
    for part in parts_of(path, name)[0]:
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                yield from file.iter_batches()
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise BrokenFile(part, _short(error)) from error


def parts_of(path: Path, name: str) -> tuple[list[Path], pa.Schema]:
    """The files of the table `name` at `path`, in order, and their schema. Each file's description of itself is checked: it fits, and
    its content fits into memory.

    Raises BrokenFile.
    """
    parts = sorted(inside(path, part.name) for part in path.glob("part-*.parquet"))
    numbers = [match and int(match[1]) for match in (_PART.fullmatch(part.name) for part in parts)]
    if not parts or numbers != list(range(len(parts))):
        raise BrokenFile(path, f"parts are missing: it has {', '.join(part.name for part in parts[:8]) or 'none'}")
    size = 0
    schemas: list[pa.Schema] = []
    for part in parts:
        if not part.is_file():
            raise BrokenFile(part, "it is no regular file")
        try:
            with pq.ParquetFile(part) as file:
                description, schema = file.metadata, file.schema_arrow
                groups = [description.row_group(place) for place in range(description.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise BrokenFile(path, f"{part.name}: {_short(error)}") from error
        if description.num_rows != sum(group.num_rows for group in groups):
            raise BrokenFile(path, f"{part.name}: it says it has {description.num_rows:,} rows, and its groups say otherwise")
        _check(path, name, schema)
        if schemas and not schema.equals(schemas[0]):
            raise BrokenFile(path, f"{part.name} has other columns than {parts[0].name}")
        schemas.append(schema)
        size += description.num_rows * 8 * len(schema) + sum(group.total_byte_size for group in groups)
    memory = memory_bytes()
    if memory is not None and size > memory:
        raise BrokenFile(path, f"it says it holds {size:,} bytes, more than the memory of this machine")
    return parts, schemas[0]


def _check(path: Path, name: str, schema: pa.Schema) -> None:
    """Raises BrokenFile unless these are columns that a run of this major version writes."""
    try:
        version = tables.version_of(schema)
    except ValueError as error:
        raise BrokenFile(path, error) from error
    if version[0] > tables.SCHEMA_VERSION[0]:
        mine, newer = (".".join(map(str, one)) for one in (tables.SCHEMA_VERSION, version))
        raise BrokenFile(path, f"it has version {newer} of the tables, and this scarcity_ray reads up to {mine}: read it with a newer one")
    known = {field.name: field for field in declared(name)}
    required = ["strategy", "seed"] if name == "insights" else [field.name for field in known.values() if not tables.is_optional(field)]
    wrong = [f"{field.name[:100]!r} ({field.type})" for field in schema if not _is_sound(field, known.get(field.name))]
    wrong += [f"no {column}" for column in required if column not in schema.names]
    wrong += [f"{field[:100]!r} twice" for field in [name for name, count in Counter(schema.names).items() if count > 1]]
    if wrong:
        raise BrokenFile(path, f"altered, or of another version; its columns are not those of {name}: {', '.join(wrong[:8])}")


def _is_sound(field: pa.Field, known: pa.Field | None) -> bool:
    """Whether a column is as declared; one that this version does not know has a plain name and holds numbers, words or their lists."""
    if known is not None:
        return bool(field.type == known.type)
    kind = field.type
    listed = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return bool(_NAME.fullmatch(field.name)) and any(is_kind(kind.value_type if listed else kind) for is_kind in plain)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
