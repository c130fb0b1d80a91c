"""The user's own table, Parquet or CSV, streamed through pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
from pydantic import Field

from scarcity_ray.data.columns import Columns, read
from scarcity_ray.data.pool import Pool
from scarcity_ray.spec import SpecError

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": ",", ".tsv": "\t"}
_BATCH_ROWS = 65_536


class Table(Columns):
    """A Parquet, CSV (.csv, .csv.gz) or tab-separated (.tsv) file; the clients standardise its numbers and spread its words together."""

    kind: Literal["table"] = "table"
    path: Annotated[str, Field(description="the file, from the scenario file's folder")]

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """Reads the named columns, batch by batch."""
        where = ("data", "source", "path")
        path = base_dir / self.path
        layout = _FORMATS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
        if layout is None:
            raise SpecError(where, self.path, f"the name ends in none of {', '.join(_FORMATS)}")
        if not path.is_file():
            raise SpecError(where, self.path, f"there is no file {path.resolve()}")
        try:
            form = "parquet" if layout == "parquet" else _csv(layout)
            table = pa.dataset.dataset(str(path), format=form)
            if layout != "parquet":
                table = pa.dataset.dataset(str(path), format=form, schema=self._widened(table.schema))
            return read(self, table.schema, lambda names: table.to_batches(columns=names, batch_size=_BATCH_ROWS, batch_readahead=2))
        except (pa.ArrowException, OSError) as error:
            raise SpecError(where, self.path, f"the file cannot be read: {error}") from error

    def _widened(self, schema: pa.Schema) -> pa.Schema:
        """The types of a CSV file's columns: as its first block suggests, but wide enough for what may follow."""
        for place, field in enumerate(schema):
            if field.name in (self.client, self.group):
                schema = schema.set(place, field.with_type(pa.string()))
            elif pa.types.is_null(field.type) or (
                pa.types.is_integer(field.type) and (field.name != self.label or self.task == "regression")
            ):
                schema = schema.set(place, field.with_type(pa.float64()))
        return schema


def _csv(delimiter: str) -> pa.dataset.CsvFileFormat:
    """CSV in which an empty field, NA or NaN is a missing value, in text columns too."""
    return pa.dataset.CsvFileFormat(
        parse_options=pa.csv.ParseOptions(delimiter=delimiter), convert_options=pa.csv.ConvertOptions(strings_can_be_null=True)
    )
