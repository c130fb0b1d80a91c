"""New rows for a saved run: a table is read like the training rows, or refused with the column and the value that are wrong."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from scarcity_ray.core.federation import Array, Encoding, Number, Words
from scarcity_ray.data.columns import holds_numbers, holds_text, not_one, some
from scarcity_ray.data.pool import Categorical, Column
from scarcity_ray.data.standardise import spread
from scarcity_ray.data.table import TableError, dialect_of, open_file, reading

Encoded = tuple[NDArray[np.float32], NDArray[Any] | None, NDArray[np.int64] | None]


def encode(table: pa.Table | str | Path, encoding: Encoding, labels: bool = True) -> Encoded:
    """Inputs `[rows, *shape]`; classes `[rows]` or standardised targets `[rows, 1]`; client ids `[rows]`: in the table's order.

    table: rows in memory, or a Parquet, CSV or tab-separated file. Further columns are ignored. Targets and ids are None if the
    table has no such column; ids also if the encoding has no clients. A client that did not take part has id -1.
    labels: false ignores the label's column, whatever it contains.
    Raises TableError for missing columns and values, for values that should be numbers and are not, and for words and labels that
    the training rows did not have.
    """
    rows = _load(table, encoding)
    inputs = encoding.inputs
    if isinstance(inputs, Array):
        x = np.empty((rows.table.num_rows, len(inputs.names)), dtype=np.float32)
        for place, name in enumerate(inputs.names):
            x[:, place] = rows.numbers(name)
        x = x.reshape(-1, *inputs.shape)
    else:
        x = spread([_column(rows, how) for how in inputs], inputs)
    names = rows.table.column_names
    y = _targets(rows, encoding) if labels and encoding.label in names else None
    if encoding.client is None or encoding.clients is None or encoding.client not in names:
        return x, y, None
    return x, y, rows.codes(encoding.client, encoding.clients).astype(np.int64)


def columns(table: pa.Table | str | Path, names: Sequence[str]) -> pa.Table:
    """Columns of a table by name, in this order, every row: those of a text file as text, others with their types.

    Raises TableError, with the nearest name, for a column that is missing or occurs twice, and for a file that cannot be read.
    """
    return _select(table, table if isinstance(table, pa.Table) else open_file(Path(table), _as_text), names)


def file_name(table: pa.Table | str | Path) -> str:
    """What errors call a table: its file, or "the table" for rows in memory."""
    return "the table" if isinstance(table, pa.Table) else str(table)


@dataclass(frozen=True)
class _Rows:
    """The needed columns of a file or of a table in memory."""

    file: str
    table: pa.Table
    decimal: str = "."

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, or of text that contains numbers, `[rows]`. All values are finite."""
        column = self.table.column(name)
        if holds_text(column.type):
            column = self._parsed(name, column.cast(pa.string()))
        elif not (holds_numbers(column.type) or pa.types.is_null(column.type)):
            raise TableError(self.file, name, None, f"the column holds {column.type}; allowed: numbers")
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
        self._complete(name, np.isfinite(values))
        return values

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int32]:
        """The place of each row's word in `words`, `[rows]`; -1 for a word that is not among them."""
        column = self.table.column(name)
        kind = column.type
        if not (holds_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise TableError(self.file, name, None, f"the column holds {kind}; allowed: text")
        column = column.cast(pa.string())
        self._complete(name, column.is_valid().to_numpy())
        codes: NDArray[np.int32] = pc.index_in(column, value_set=pa.array(words, pa.string())).fill_null(-1).to_numpy()
        return codes

    def refuse_unknown(self, name: str, codes: NDArray[Any], allowed: Sequence[object]) -> None:
        """Raises TableError, with the nearest allowed value, for the first code of -1."""
        unknown = np.flatnonzero(codes < 0)
        if not len(unknown):
            return
        value = self.table.column(name)[int(unknown[0])].as_py()
        by_spelling = {str(word).casefold(): word for word in allowed}
        near = difflib.get_close_matches(str(value).casefold(), by_spelling, 1)
        hint = f"; did you mean {by_spelling[near[0]]}?" if near else ""
        others = f", nor are the values of {len(unknown) - 1:,} more rows" if len(unknown) > 1 else ""
        message = f"{value!r} in row {unknown[0] + 1:,} is not among the training rows' values{others}; allowed: {some(allowed)}{hint}"
        raise TableError(self.file, name, value, message)

    def _parsed(self, name: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
        """Text converted to numbers; true and false become 1 and 0. Raises TableError for the first value that is neither."""
        text = pc.utf8_trim_whitespace(text)
        if self.decimal != ".":
            text = pc.replace_substring(text, self.decimal, ".", max_replacements=1)
        for kind in (pa.float64(), pa.bool_()):
            try:
                return text.cast(kind)
            except pa.ArrowInvalid:
                continue
        value = next(value for value in pc.unique(text) if not _is_number(value))
        row, word = pc.index(text, value).as_py() + 1, value.as_py()
        raise TableError(self.file, name, word, f"{word!r} in row {row:,} is not a number; allowed: numbers")

    def _complete(self, name: str, present: NDArray[np.bool_]) -> None:
        """Raises TableError if a row lacks a value."""
        if not present.all():
            first, count = int(np.argmin(present)), int((~present).sum())
            message = f"{count:,} of {len(present):,} rows lack a value (null, NaN or infinite), the first in row {first + 1:,}"
            raise TableError(self.file, name, None, message)


def _load(table: pa.Table | str | Path, encoding: Encoding) -> _Rows:
    """The columns of a table that the encoding uses. Raises TableError if a needed column is missing or occurs twice."""
    dialect = None if isinstance(table, pa.Table) else dialect_of(Path(table))
    source = table if isinstance(table, pa.Table) else open_file(Path(table), _as_text, dialect)
    extra = [name for name in (encoding.label, encoding.client) if name is not None and name in source.schema.names]
    return _Rows(file_name(table), _select(table, source, [*encoding.columns, *extra]), "." if dialect is None else dialect.decimal)


def _select(table: pa.Table | str | Path, source: pa.Table | pyarrow.dataset.Dataset, wanted: Sequence[str]) -> pa.Table:
    """Columns by name, in this order. source: the table itself, or its file, opened. Raises TableError as `_load` does."""
    names = source.schema.names
    times = Counter(names)
    for name in wanted:
        if times[name] != 1 and (fault := not_one(name, names)):
            raise TableError(file_name(table), name, None, fault)
    if isinstance(table, pa.Table):
        return table.select(wanted)
    with reading(Path(table)):
        return source.to_table(columns=wanted)


def _as_text(schema: pa.Schema) -> pa.Schema:
    """All columns of a text file as text. The encoding knows the type of each, so it need not be guessed from the first rows."""
    return pa.schema([(field.name, pa.string()) for field in schema])


def _is_number(word: pa.StringScalar) -> bool:
    try:
        word.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _column(rows: _Rows, how: Number | Words) -> Column:
    """One input column: numbers, or codes that are places in the encoding's words."""
    if isinstance(how, Number):
        return rows.numbers(how.name) ** how.power
    codes = rows.codes(how.name, how.words)
    rows.refuse_unknown(how.name, codes, how.words)
    return Categorical(codes, how.words)


def _targets(rows: _Rows, encoding: Encoding) -> NDArray[Any]:
    """Classes `[rows]`, or targets `[rows, 1]` in units of `label_scale`."""
    name, classes = encoding.label, encoding.classes
    if classes is None:
        return ((rows.numbers(name)[:, None] - encoding.label_mean) / encoding.label_scale).astype(np.float32)
    if isinstance(classes[0], str):
        codes: NDArray[Any] = rows.codes(name, [str(word) for word in classes])
    else:
        place = {float(value): place for place, value in enumerate(classes)}
        values, which = np.unique(rows.numbers(name), return_inverse=True)
        codes = np.array([place.get(value, -1) for value in values.tolist()], dtype=np.int64)[which]
    rows.refuse_unknown(name, codes, classes)
    return codes.astype(np.int64)
