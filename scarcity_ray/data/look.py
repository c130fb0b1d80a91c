"""A first look at a table: its columns as they would be read, from its first rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.data.columns import INDEX, holds_numbers, holds_text
from scarcity_ray.data.dialect import Dialect
from scarcity_ray.data.pool import Categorical, Column
from scarcity_ray.data.reader import Reader, holds_dates
from scarcity_ray.data.table import dialect_of, open_file, reading

ROWS = 200_000
"""Rows that are looked at."""


@dataclass(frozen=True)
class Seen:
    """A column. values: `[rows]`; numbers may be NaN, and the last word of text may stand for none. kind: number, whole, text, yes_no,
    date, or empty. missing: rows without a value. words: those of a column whose words are read as numbers."""

    name: str
    values: Column
    kind: str
    missing: int
    words: Categorical | None = None

    def as_label(self) -> Seen:
        """The same column where it is the label: its words stay words."""
        return self if self.words is None else Seen(self.name, self.words, "text", self.missing)

    @property
    def codes(self) -> NDArray[np.int64]:
        """The place of each row's value among the distinct ones, `[rows]`; -1 for a missing one."""
        if isinstance(self.values, Categorical):
            codes = self.values.codes.astype(np.int64)
            return np.where(codes == len(self.values.words) - 1, -1, codes) if self.values.lacking else codes
        known, codes = np.isfinite(self.values), np.full(len(self.values), -1)
        codes[known] = np.unique(self.values[known], return_inverse=True)[1]
        return codes

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return int(self.codes.max(initial=-1)) + 1

    def word(self, code: int) -> str:
        """What the table holds for a code."""
        if isinstance(self.values, Categorical):
            return self.values.words[code]
        return f"{np.unique(self.values[np.isfinite(self.values)])[code]:g}"


@dataclass(frozen=True)
class Look:
    """columns: by name. rows: that were looked at. whole: whether those are all. unread: columns of types that are no features. dialect: of
    a text file. index: columns that number the rows."""

    columns: dict[str, Seen]
    rows: int
    whole: bool
    unread: tuple[str, ...] = ()
    dialect: Dialect | None = None
    index: tuple[str, ...] = ()


def look_at_file(path: Path) -> Look:
    """The first rows of a Parquet, CSV or tab-separated file. Raises TableError."""
    dialect = dialect_of(path)
    table = open_file(path, lambda schema: schema, dialect)
    with reading(path):
        return look_at(table.schema, lambda names: table.to_batches(columns=names, batch_readahead=1), dialect)


def look_at(schema: pa.Schema, scan: Callable[[list[str]], Iterable[pa.RecordBatch]], dialect: Dialect | None = None) -> Look:
    """The first rows of a table. scan: returns the batches of the named columns."""
    usable = [
        one.name for one in schema if one.name not in INDEX and (holds_text(one.type) or holds_numbers(one.type) or holds_dates(one.type))
    ]
    readers = {name: Reader(name, holds_text(schema.field(name).type)) for name in usable}
    rows, whole = 0, True
    for batch in scan(usable):
        if rows >= ROWS:
            whole = False
            break
        for name, reader in readers.items():
            reader.add(batch.column(name))
        rows += batch.num_rows
    columns = {name: _seen(reader, schema.field(name).type) for name, reader in readers.items()}
    index = tuple(name for name in schema.names if name in INDEX)
    unread = tuple(name for name in schema.names if name not in usable and name not in index)
    return Look(columns, rows, whole, unread, dialect, index)


def _seen(reader: Reader, type: pa.DataType) -> Seen:
    reader.join()
    words = reader.values(None) if reader.text else None
    kind = "yes_no" if reader.as_truth() else "date" if reader.as_days() or holds_dates(type) else "text" if reader.text else "number"
    values, missing = reader.values(None), int(reader.missing().sum())
    if missing == len(reader.parts[0]):
        kind = "empty"
    elif kind == "number" and not isinstance(values, Categorical):
        known = values[np.isfinite(values)]
        kind = "whole" if pa.types.is_integer(type) or (not pa.types.is_floating(type)) or (known == np.floor(known)).all() else "number"
    turned = kind in ("yes_no", "date") and isinstance(words, Categorical)
    return Seen(reader.name, values, kind, missing, words if turned else None)  # type: ignore[arg-type]
