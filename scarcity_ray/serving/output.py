"""Writes predictions to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from scarcity_ray.results.results import Results
from scarcity_ray.serving.predict import OptionError, predict

_SUFFIXES = (".csv", ".parquet", ".pq")


def write_predictions(results: Results, table: Path, out: Path, **options: Any) -> tuple[int, str, list[str]]:
    """Writes predictions for a file's rows, complete or not at all: CSV where the name of `out` ends in .csv, Parquet for .parquet, .pq.

    options: as for `predict`. Returns the number of rows, a few words on which head, experts or model predicted, and
    a sentence for each column with missing values or new words.
    Raises what `predict` raises; OptionError, before anything is read, for another suffix; OSError if the file cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in _SUFFIXES:
        raise OptionError(f"--out {out}: the file's name must end in one of {', '.join(_SUFFIXES)}")
    found = predict(results, table, **options)
    draft = out.with_name(f".{out.name}.new")
    draft.unlink(missing_ok=True)  # if somebody left a link under this name, do not write through it
    try:
        if suffix == ".csv":
            _write_csv(found, draft, out)
        else:
            pq.write_table(found, draft)
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
    shares = [pc.mean(found[name]).as_py() for name in found.column_names if name.startswith("expert_")] if found.num_rows else []
    weights = ", ".join(f"expert {k} {share:.0%}" for k, share in enumerate(shares))
    by, notes = f"made by {found.schema.metadata[b'answered_by'].decode()}", json.loads(found.schema.metadata[b"notes"])
    return found.num_rows, f"{by} ({weights})" if weights else by, notes


def _write_csv(found: pa.Table, draft: Path, out: Path) -> None:
    """Raises OptionError for a column of a type that CSV has no form for."""
    plain = [column.cast(kind.value_type) if pa.types.is_dictionary(kind := column.type) else column for column in found.columns]
    try:
        pyarrow.csv.write_csv(pa.table(plain, found.column_names), draft)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OptionError(f"--out {out}: CSV cannot hold the columns ({error}); keep other columns, or name a .parquet file") from error
