"""A table on disk that can be read at any moment while it grows: a folder of Parquet parts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scarcity_ray.results.files import new_file

ROW_GROUPS = 16
"""Flushes in one part. Each rewrites the part, so this bounds the work of a flush; 1 would leave a file a second."""

PART_BYTES = 2**20
"""Arrow bytes after which a part is left alone, for the same reason."""


class GrowingTable:
    """Rows in the order of their arrival, at `path`, for `pyarrow.parquet.read_table(path)`.

    Each flush writes the last part again under another name, outside the folder, and renames it into place. That alone
    is not enough: pyarrow opens a file twice, first for its footer and then for its rows, and may find two versions. So
    a part only grows at its end: the row groups of the earlier version come first, with the same bytes, and an old
    footer still describes the new file.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: Iterable[pa.RecordBatch] = ()) -> None:
        """Makes the folder, with an empty part, in one step; what was at `path` before is removed.

        rows: its first rows; they may be read from the folder that is replaced (`there`).
        """
        self.path, self.schema = path, schema
        self._pending: list[pa.RecordBatch] = []
        self._groups: list[pa.Table] = []
        self._part = 0
        self._arrival, self._writing = threading.Lock(), threading.Lock()
        draft, old = path.with_name(f".{path.name}"), path.with_name(f".{path.name}.old")
        _remove(draft)
        draft.mkdir()
        self._folder = draft
        self._write()
        for batch in rows:
            self.append(batch)
            self.flush()
        if path.exists():
            _remove(old)
            path.rename(old)
        draft.rename(path)
        self._folder = path
        _remove(old)

    @staticmethod
    def there(path: Path) -> Path:
        """Where the rows of the table at `path` are, even if the process was killed while it replaced them."""
        return path if path.exists() else path.with_name(f".{path.name}.old")

    def append(self, rows: pa.RecordBatch) -> None:
        """Takes rows for the next flush; any thread."""
        if rows.num_rows:
            with self._arrival:
                self._pending.append(rows)

    def flush(self) -> None:
        """Puts all rows taken so far on disk; any thread. Rows stay pending if it fails."""
        with self._writing:
            with self._arrival:
                pending = len(self._pending)
            if not pending:
                return
            group = pa.Table.from_batches(self._pending[:pending], self.schema).combine_chunks()
            self._groups.append(group)
            try:
                self._write()
            except BaseException:
                self._groups.pop()
                raise
            with self._arrival:
                del self._pending[:pending]
            if len(self._groups) == ROW_GROUPS or sum(table.nbytes for table in self._groups) > PART_BYTES:
                self._groups, self._part = [], self._part + 1

    def _write(self) -> None:
        outside = self.path.with_name(f".{self.path.name}.part")
        with (
            new_file(self._folder / f"part-{self._part:08d}.parquet", outside) as draft,
            pq.ParquetWriter(draft, self.schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for group in self._groups:
                writer.write_table(group, row_group_size=group.num_rows)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
