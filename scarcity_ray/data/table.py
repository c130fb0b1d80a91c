"""The user's own table, Parquet or CSV, read batch by batch with pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.dataset
from pydantic import Field

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.columns import Columns, read
from scarcity_ray.data.dialect import Dialect, recognised
from scarcity_ray.data.pool import Pool

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "text", ".tsv": "text"}
_BATCH_ROWS = 65_536


class TableError(ValueError):
    """A table that cannot be read, or does not have the needed columns and values: the file, the column and the value.

    `column` and `value` are None if the error does not concern one column or one value. `message` describes the error without the
    file and the column.
    """

    def __init__(self, file: str, column: str | None, value: Any, message: str) -> None:
        super().__init__(file, column, value, message)
        self.file = file
        self.column = column
        self.value = value
        self.message = message

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.column is None else f"{self.file}, column {self.column}: {self.message}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an error of pyarrow or of the disk into a TableError while a file is read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise TableError(str(path), None, None, f"the file cannot be read: {error}") from error


def dialect_of(path: Path, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None) -> Dialect | None:
    """How a text file is written, as far as it is not given; None for a Parquet file. Raises TableError as `open_file` does."""
    if _layout(path) == "parquet":
        return None
    with reading(path):
        try:
            return recognised(path, delimiter, decimal, encoding)
        except (UnicodeError, LookupError) as error:
            raise TableError(str(path), None, None, f"the file cannot be read as {encoding}: {error}") from error


def _layout(path: Path) -> str:
    layout = _FORMATS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if layout is None:
        raise TableError(str(path), None, None, f"the file's name must end in one of {', '.join(_FORMATS)}")
    if not path.is_file():
        raise TableError(str(path), None, None, f"there is no file {path.resolve()}")
    return layout


def open_file(path: Path, retyped: Callable[[pa.Schema], pa.Schema], dialect: Dialect | None = None) -> pa.dataset.Dataset:
    """A file as a dataset whose rows are not read yet.

    retyped: returns the column types of a text file, given the types that its first block suggests. dialect: of a text file; recognised
    if left out. Raises TableError for a missing or unreadable file.
    """
    dialect = dialect or dialect_of(path)
    with reading(path):
        if dialect is None:
            return pa.dataset.dataset(str(path), format="parquet")
        form = dialect.format()
        suggested = pa.dataset.dataset(str(path), format=form).schema
        return pa.dataset.dataset(str(path), format=form, schema=retyped(suggested))


class Table(Columns):
    """A Parquet, CSV (.csv, .csv.gz) or tab-separated (.tsv) file; the clients standardise its numbers and spread its words together."""

    kind: Literal["table"] = "table"
    path: Annotated[str, Field(description="the file, from the scenario file's folder")]
    delimiter: Annotated[
        Literal["auto", ",", ";", "\t", "|"], Field(description="what stands between the columns of a text file; auto: recognised")
    ] = "auto"
    decimal: Annotated[Literal["auto", ".", ","], Field(description="the decimal mark of a text file; auto: recognised")] = "auto"
    encoding: Annotated[
        Literal["auto", "utf-8", "utf-16", "cp1252"], Field(description="the encoding of a text file; auto: recognised")
    ] = "auto"

    def written(self, base_dir: Path) -> Dialect | None:
        """How the file is written; None for Parquet. Raises TableError."""
        said = (None if value == "auto" else value for value in (self.delimiter, self.decimal, self.encoding))
        return dialect_of(base_dir / self.path, *said)

    def load(
        self, clients: int | None, seed: int, base_dir: Path, facts: Sequence[str] = (), beside: Mapping[str, str] | None = None
    ) -> Pool:
        """Reads the named columns, batch by batch."""
        path = base_dir / self.path
        try:
            dialect = self.written(base_dir)
            table = open_file(path, partial(self._widened, words=(beside or {}).get("by")), dialect)
            with reading(path):
                pool = read(
                    self,
                    table.schema,
                    lambda names: table.to_batches(columns=names, batch_size=_BATCH_ROWS, batch_readahead=2),
                    facts=facts,
                    beside=beside,
                )
            return pool if dialect is None or dialect.usual else replace(pool, written=str(dialect))
        except TableError as error:
            raise SpecError(("data", "source", "path"), self.path, error.message) from error

    def _widened(self, schema: pa.Schema, words: str | None = None) -> pa.Schema:
        """The types of a CSV file's columns: as its first block suggests, but with wider numbers, because later rows may need them.

        words: a column of names, as of patients, which is text unless it is a feature too.
        """
        named = {self.client, self.group, words} - set(self.features or ())
        for place, field in enumerate(schema):
            if field.name in named:
                schema = schema.set(place, field.with_type(pa.string()))
            elif pa.types.is_null(field.type) or (
                pa.types.is_integer(field.type) and (field.name != self.label or self.task == "regression")
            ):
                schema = schema.set(place, field.with_type(pa.float64()))
        return schema
