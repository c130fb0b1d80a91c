"""A table of a run read back: nothing but what a run writes there is taken for one.

Pages have checksums; their description at a file's end has none, so what it says is held against itself and the schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scarcity_ray.core import tables
from scarcity_ray.core.insights import PAYLOADS, SCHEMA
from scarcity_ray.results.environment import memory_bytes
from scarcity_ray.results.reading import BrokenFile, RunError, inside

TABLES = ("rounds", "clients", "insights")

_PART = re.compile(r"part-(\d{8,})\.parquet")


def read_table(directory: Path, name: str, columns: list[str] | None = None, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
    """A table of a run's directory: all of it, or columns and rows as `pyarrow.parquet.read_table` chooses them.

    Raises RunError where there is none; BrokenFile where it is cut, altered, of another version or larger than it can be.
    """
    if name not in TABLES:
        raise RunError(f"a run has no table {name!r}; it has {', '.join(TABLES)}")
    path = inside(directory, f"{name}.parquet")
    if not path.exists():
        raise RunError(f"{path} is missing")
    parts = parts_of(path, name)
    try:
        table = pq.read_table(
            [str(part) for part in parts], columns=columns, filters=filters, partitioning=None, page_checksum_verification=True
        )
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BrokenFile(path, _short(error)) from error
    return table


def read_batches(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    """The rows of the table `name` at `path`, in order, some at a time. Raises BrokenFile."""
    for part in parts_of(path, name):
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                yield from file.iter_batches()
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise BrokenFile(part, _short(error)) from error


def parts_of(path: Path, name: str) -> list[Path]:
    """The files of the table `name` at `path`, in order, each looked at: what it says of itself fits, and fits into memory.

    Raises BrokenFile.
    """
    parts = sorted(inside(path, part.name) for part in path.glob("part-*.parquet"))
    numbers = [match and int(match[1]) for match in (_PART.fullmatch(part.name) for part in parts)]
    if not parts or numbers != list(range(len(parts))):
        raise BrokenFile(path, f"parts are missing: it has {', '.join(part.name for part in parts[:8]) or 'none'}")
    size = 0
    for part in parts:
        if not part.is_file():
            raise BrokenFile(part, "it is no regular file")
        try:
            with pq.ParquetFile(part) as file:
                told, schema = file.metadata, file.schema_arrow
                groups = [told.row_group(place) for place in range(told.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise BrokenFile(path, f"{part.name}: {_short(error)}") from error
        if told.num_rows != sum(group.num_rows for group in groups):
            raise BrokenFile(path, f"{part.name}: it says it has {told.num_rows:,} rows, and its groups say otherwise")
        _check(path, name, schema)
        size += told.num_rows * 8 * len(schema) + sum(group.total_byte_size for group in groups)
    memory = memory_bytes()
    if memory is not None and size > memory:
        raise BrokenFile(path, f"it says it holds {size:,} bytes, more than the memory of this machine")
    return parts


def _check(path: Path, name: str, schema: pa.Schema) -> None:
    """Raises BrokenFile unless these are columns that this version's runs write."""
    if name == "insights":
        known = {field.name: field.type for field in tables.insights(SCHEMA, PAYLOADS)}
        wrong = [f"{field.name} ({field.type})" for field in schema if known.get(field.name) != field.type]
        wrong += [f"no {field}" for field in ("strategy", "seed") if field not in schema.names]
    else:
        expected = tables.ROUNDS if name == "rounds" else tables.CLIENTS
        found, wanted = ({f"{field.name} ({field.type})" for field in one} for one in (schema, expected))
        wrong = sorted(found - wanted) + [f"no {column}" for column in sorted(wanted - found)]
    wrong += [f"{field} twice" for field in {field for field in schema.names if schema.names.count(field) > 1}]
    if wrong:
        raise BrokenFile(path, f"altered, or of another version; its columns are not those of {name}: {', '.join(wrong[:8])}")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
