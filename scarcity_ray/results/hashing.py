"""The result hash of a strategy: two runs have the same result if it is equal. And the fingerprint of their data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import Spec
from scarcity_ray.core.tables import hashed_as
from scarcity_ray.results.sealed import as_bytes

_TOGETHER = 64  # batches, or rows of one, that are hashed at once: hashing each row alone takes a millisecond
_ADDED = ("facts", "spans")  # fields that count once they hold something
_HASHED_AS = {"unseen": "strangers", "unseen_group": "stranger_group"}  # fields with a new name: fingerprints of older runs stay valid


class ResultHash:
    """SHA-256 over a strategy's models (name, type, shape, bytes, by name) and its rows of each table.

    Each column's schema declares whether the hash covers it (see tables.column). A column that was added after the first version
    counts from its first value on, with the number of nulls before it: all nulls are as if there were no such column, so it changes
    no older hash. Rows may come in any number of batches: each column is a stream of its own, so the hash is of the rows in their
    order and not of how they were cut.
    """

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}
        self._nulls: dict[str, int] = {}  # so far, in a column that was added later and has no value yet
        self._begun: set[str] = set()  # such columns that have one
        self._waiting: dict[str, list[pa.RecordBatch]] = {}

    def rows(self, table: str, batch: pa.RecordBatch) -> None:
        """Takes the next rows of a table."""
        if batch.num_rows:
            waiting = self._waiting.setdefault(table, [])
            waiting.append(batch)
            if len(waiting) == _TOGETHER or batch.num_rows > _TOGETHER:
                self._settle(table)

    def tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes tensors of the model, `{name: tensor}`, each once."""
        for name, tensor in tensors.items():
            self._stream(f"model.{name}:{tensor.dtype}{list(tensor.shape)}").update(as_bytes(tensor))

    def hexdigest(self) -> str:
        """The hash so far, 64 hexadecimal digits."""
        for table in self._waiting:
            self._settle(table)
        total = hashlib.sha256()
        for name in sorted(self._streams):
            total.update(f"{len(name)}:{name}".encode() + self._streams[name].digest())
        return total.hexdigest()

    def _settle(self, table: str) -> None:
        waiting, self._waiting[table] = self._waiting[table], []
        for batch in pa.Table.from_batches(waiting).combine_chunks().to_batches() if waiting else ():
            for field, array in zip(batch.schema, batch.columns, strict=True):
                name, hashed = f"{table}.{field.name}", hashed_as(field)
                if hashed == "yes":
                    self._take(name, array)
                elif hashed == "unless_null":
                    self._take_later(name, array)

    def _stream(self, name: str) -> Any:
        return self._streams.setdefault(name, hashlib.sha256())

    def _take_later(self, name: str, array: pa.Array) -> None:
        """A column that counts from its first value on."""
        if name not in self._begun:
            if array.null_count == len(array):
                self._nulls[name] = self._nulls.get(name, 0) + len(array)
                return
            self._begun.add(name)
            self._take(name, pa.nulls(self._nulls.pop(name, 0), array.type))
        self._take(name, array)

    def _take(self, name: str, array: pa.Array) -> None:
        """Which entries are null, then those that are not. What lies in memory under a null does not count."""
        name = f"{name}:{_kind(array.type)}"
        self._stream(f"{name}?").update(array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
        present = array.drop_null()
        if pa.types.is_fixed_size_list(array.type):
            self._take(name, present.flatten())
        elif pa.types.is_list(array.type):
            self._take(f"{name}.length", present.value_lengths())
            self._take(f"{name}.values", present.flatten())
        elif pa.types.is_string(array.type):
            words = [word.encode() for word in present.to_pylist()]
            self._stream(name).update(b"".join(len(word).to_bytes(8, "little") + word for word in words))
        else:
            numbers = present.to_numpy(zero_copy_only=False)
            self._stream(name).update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())


def _kind(type: pa.DataType) -> str:
    """A type without the names of its parts: Arrow calls a list's entries "item", Parquet "element", and a resumed run has both."""
    if pa.types.is_fixed_size_list(type):
        return f"{type.list_size} of {_kind(type.value_type)}"
    return f"list of {_kind(type.value_type)}" if pa.types.is_list(type) else str(type)


def fingerprint(federation: Federation) -> str:
    """SHA-256 over all that the clients of a federation hold, 64 hexadecimal digits: whether two runs have the same data.

    Every array counts with its name, type, shape and bytes, and so do numbers, words and the encoding. Two federations
    of equal content have equal fingerprints however their arrays lie in memory.
    """
    total = hashlib.sha256()

    def take(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            kind, content = f"{value.dtype.newbyteorder('<').str}{list(value.shape)}", _bytes(value)
        elif is_dataclass(value):
            for part in fields(value):
                if part.name in ("written", "notes", "absent") or (part.name in _ADDED and not getattr(value, part.name)):
                    continue  # no content: how a file is written, who takes no part; others as in older runs, which had no such field
                take(f"{name}.{_HASHED_AS.get(part.name, part.name)}", getattr(value, part.name))
            return
        elif isinstance(value, Mapping):
            for key in sorted(value):
                take(f"{name}.{key}", value[key])
            return
        else:
            text = value.model_dump_json() if isinstance(value, Spec) else repr(value)
            kind, content = type(value).__name__, memoryview(text.encode())
        head = f"{name}:{kind}".encode()
        total.update(len(head).to_bytes(8, "little") + head + hashlib.sha256(content).digest())

    take("federation", federation)
    return total.hexdigest()


def _bytes(array: NDArray[Any]) -> memoryview:
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data
