"""New rows for a saved run: a table is read like the training rows, or refused with the column and the value that are wrong."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from scarcity_ray.core.federation import Array, Date, Encoding, Missing, Scaled, Words, WordsOrNone, YesNo
from scarcity_ray.data.columns import holds_numbers, holds_text, not_one, some
from scarcity_ray.data.pool import Categorical, Column
from scarcity_ray.data.reader import day_number, days, days_of_text, holds_dates, truth_of
from scarcity_ray.data.standardise import spread
from scarcity_ray.data.table import TableError, dialect_of, open_file, reading


@dataclass(frozen=True)
class Encoded:
    """Rows of a table, in its order. x: inputs `[rows, *shape]`. y: classes `[rows]` or standardised targets `[rows, 1]`; None if the table
    has no such column. clients: ids `[rows]`, -1 for a client that did not take part; None if the table has no such column, or the
    encoding no clients. notes: what is new in the rows and was read as in training, a sentence for each column."""

    x: NDArray[np.float32]
    y: NDArray[Any] | None
    clients: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()


def encode(table: pa.Table | str | Path, encoding: Encoding, labels: bool = True) -> Encoded:
    """The rows of a table, read as the training rows were.

    table: rows in memory, or a Parquet, CSV or tab-separated file. Further columns are ignored. A word that the training rows did not have
    becomes all zeros, as the word of a client that never took part; a missing value the mean or, where training rows lacked one too, its
    own input. Both are counted. labels: false ignores the label's column, whatever it contains.
    Raises TableError for missing columns, for labels that are missing or that the training rows did not have, and for values that should be
    numbers and are not.
    """
    rows = _load(table, encoding)
    inputs = encoding.inputs
    if isinstance(inputs, Array):
        x = np.empty((rows.table.num_rows, len(inputs.names)), dtype=np.float32)
        for place, name in enumerate(inputs.names):
            x[:, place] = rows.complete(name, rows.numbers(name))
        x = x.reshape(-1, *inputs.shape)
    else:
        found: list[Column] = []
        for how in inputs:
            found.append(found[-1] if isinstance(how, Missing) else _column(rows, how))  # it stands behind the column that it is of
        x = spread(found, inputs)
    notes = () if isinstance(inputs, Array) else tuple(rows.notes)
    names = rows.table.column_names
    y = _targets(rows, encoding) if labels and encoding.label in names else None
    if encoding.client is None or encoding.clients is None or encoding.client not in names:
        return Encoded(x, y, None, notes)
    return Encoded(x, y, rows.known(encoding.client, encoding.clients).astype(np.int64), notes)


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
    notes: list[str] = field(default_factory=list)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, or of text that contains numbers, `[rows]`; NaN where a value is missing."""
        column = self.table.column(name)
        if holds_text(column.type):
            column = self._parsed(name, column.cast(pa.string()))
        elif not (holds_numbers(column.type) or pa.types.is_null(column.type)):
            raise TableError(self.file, name, None, f"the column holds {column.type}; allowed: numbers")
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
        return np.where(np.isfinite(values), values, np.nan)

    def truth(self, name: str) -> NDArray[np.float64]:
        """A column of yes and no, `[rows]`; NaN where a value is missing."""
        column = self.table.column(name)
        if not holds_text(column.type):
            return self.numbers(name)
        words = pc.unique(column.cast(pa.string())).drop_null()
        values = [truth_of(word) for word in words.to_pylist()]
        if None in values:
            word = words[values.index(None)]
            self._refuse_word(name, word, pc.index(column.cast(pa.string()), word).as_py(), "yes or no; allowed: yes, no, true, false")
        places = pc.index_in(column.cast(pa.string()), value_set=words).fill_null(-1).to_numpy()
        found: NDArray[np.float64] = np.array([*(np.nan if value is None else value for value in values), np.nan])[places]
        return found

    def dates(self, name: str, since: str) -> NDArray[np.float64]:
        """A column of dates as days since one, `[rows]`; NaN where a value is missing."""
        column = self.table.column(name)
        found = days(column) if holds_dates(column.type) or pa.types.is_null(column.type) else None
        if found is None and holds_text(column.type):
            found = days_of_text(column.cast(pa.string()))
        if found is None:
            raise TableError(self.file, name, None, "the column holds no dates; allowed: dates, as 2024-05-31 or 31.5.2024")
        return found - day_number(since)

    def complete(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same values. Raises TableError if any is missing."""
        self._complete(name, np.isfinite(values))
        return values

    def known(self, name: str, words: Sequence[str]) -> NDArray[np.int32]:
        """As `codes`. Raises TableError if a value is missing."""
        codes = self.codes(name, words)
        self._complete(name, self.table.column(name).is_valid().to_numpy())
        return codes

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int32]:
        """The place of each row's word in `words`, `[rows]`; -1 for a word that is not among them, and where there is none."""
        column = self.table.column(name)
        kind = column.type
        if not (holds_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise TableError(self.file, name, None, f"the column holds {kind}; allowed: text")
        column = column.cast(pa.string())
        codes: NDArray[np.int32] = pc.index_in(column, value_set=pa.array(words, pa.string())).fill_null(-1).to_numpy()
        return np.where(column.is_valid().to_numpy(), codes, -1).astype(np.int32)

    def note(self, name: str, rows: NDArray[np.bool_], what: str) -> None:
        """Says that some rows of a column are not as those of the training."""
        if rows.any():
            self.notes.append(f"{name}: {rows.sum():,} of {len(rows):,} rows {what}")

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
        return self._refuse_word(name, value, pc.index(text, value).as_py(), "a number; allowed: numbers")

    def _refuse_word(self, name: str, value: pa.StringScalar, row: int, what: str) -> NoReturn:
        raise TableError(self.file, name, value.as_py(), f"{value.as_py()!r} in row {row + 1:,} is not {what}")

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


def _column(rows: _Rows, how: Scaled | Words) -> Column:
    """One input column: numbers, or codes that are places in the encoding's words."""
    if isinstance(how, Words):
        codes = rows.codes(how.name, how.words)
        lacks, unknown = ~rows.table.column(how.name).is_valid().to_numpy(), codes < 0
        if isinstance(how, WordsOrNone):
            codes = np.where(lacks, len(how.words) - 1, codes).astype(np.int32)
        rows.note(how.name, unknown & ~lacks, "have a word that the training rows did not have")
        rows.note(how.name, lacks, "lack a value")
        return Categorical(codes, how.words)
    if isinstance(how, YesNo):
        values = rows.truth(how.name)
    else:
        values = rows.dates(how.name, how.since) if isinstance(how, Date) else rows.numbers(how.name)
    if how.power == 1:
        rows.note(how.name, np.isnan(values), "lack a value")
    return values**how.power


def _targets(rows: _Rows, encoding: Encoding) -> NDArray[Any]:
    """Classes `[rows]`, or targets `[rows, 1]` in units of `label_scale`."""
    name, classes = encoding.label, encoding.classes
    if classes is None:
        return ((rows.complete(name, rows.numbers(name))[:, None] - encoding.label_mean) / encoding.label_scale).astype(np.float32)
    if isinstance(classes[0], str):
        codes: NDArray[Any] = rows.known(name, [str(word) for word in classes])
    else:
        place = {float(value): place for place, value in enumerate(classes)}
        values, which = np.unique(rows.complete(name, rows.numbers(name)), return_inverse=True)
        codes = np.array([place.get(value, -1) for value in values.tolist()], dtype=np.int64)[which]
    rows.refuse_unknown(name, codes, classes)
    return codes.astype(np.int64)
