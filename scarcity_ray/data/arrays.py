"""Rows that a program hands over as arrays. A run keeps their digest, and if asked the arrays themselves."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr
from typing_extensions import Self

from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Classes, Column, Pool, Task, refuse_too_large

NAMES = ("x", "y", "client")
FILE = "data.npz"
"""What a run's folder calls the arrays, where it keeps them."""

_SOURCE = ("data", "source")


@dataclass(frozen=True, eq=False)
class Held:
    """Arrays as they were handed over. x: `[n, ...]` numbers. y: `[n]` numbers, words or booleans. client: `[n]` whole numbers or words;
    None where rows are dealt to clients. columns: the names of the columns of an x of two axes."""

    x: NDArray[Any]
    y: NDArray[Any]
    client: NDArray[Any] | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, x: Any = None, y: Any = None, client: Any = None, columns: Sequence[str] = ()) -> Held:
        """The arrays, from whatever NumPy makes arrays of: lists, tensors, frames (whose columns keep their names).

        Raises SpecError for other values, unequal lengths, and numbers that are missing or infinite.
        """
        for name, value in (("x", x), ("y", y)):
            if value is None:
                raise SpecError((*_SOURCE, name), None, "hand over the arrays x and y, and client where rows have clients of their own")
        columns = tuple(str(name) for name in (columns if len(columns) else getattr(x, "columns", ())))
        x, y = _array("x", x, "fiub"), _array("y", y, "fiubU")
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        owner = None if client is None else _array("client", client, "iuU")
        if x.ndim < 2 or not x.size:
            raise SpecError((*_SOURCE, "x"), list(x.shape), "its first axis is rows, and each row has one axis or more, none of them empty")
        for name, array in (("y", y), ("client", owner)):
            if array is not None and array.shape != x.shape[:1]:
                raise SpecError((*_SOURCE, name), list(array.shape), f"it has one value for each of the {len(x):,} rows of x")
        if columns and (x.ndim != 2 or len(set(columns)) != x.shape[1]):
            raise SpecError((*_SOURCE, "x"), list(x.shape), f"{len(columns):,} names of columns do not fit, or are not all different")
        return cls(x, y, owner, columns or (tuple(f"x{place}" for place in range(x.shape[1])) if x.ndim == 2 else ()))

    @classmethod
    def read(cls, path: Path) -> Held:
        """The arrays of a file of `save`, or of an .npz file of your own with x, y and perhaps client. Raises SpecError."""
        try:
            with zipfile.ZipFile(path) as file:
                refuse_too_large((*_SOURCE, "path"), path.name, 1, sum(entry.file_size for entry in file.infolist()) // 4)
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in (*NAMES, "columns") if name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise SpecError((*_SOURCE, "path"), path.name, f"it cannot be read as an .npz file: {error}") from error
        return cls.of(**found)

    def save(self, path: Path) -> None:
        """Writes the arrays as an .npz file. Raises OSError."""
        with path.open("wb") as file:
            np.savez(file, **{name: array for name in (*NAMES, "columns") if (array := getattr(self, name)) is not None})

    def digest(self) -> str:
        """SHA-256 over all of it, 64 hexadecimal digits: types, shapes, bytes and names."""
        total = hashlib.sha256(repr(self.columns).encode())
        for name in NAMES:
            if (array := getattr(self, name)) is not None:
                plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
                total.update(f"{name} {plain.dtype.str} {plain.shape}".encode())
                total.update(plain.view(np.uint8).data)
        return total.hexdigest()


class Arrays(Spec):
    """Arrays x `[n, ...]`, y `[n]` and client `[n]` that a program hands over (`simulate`), or those of an .npz file."""

    kind: Literal["arrays"] = "arrays"
    path: Annotated[str | None, Field(description="an .npz file with x, y and perhaps client; null: a program hands them over")] = None
    digest: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the arrays, by which others are refused; made where left out")
    ] = None
    save: Annotated[bool, Field(description="keep the arrays in the run's folder, so that it can be continued and repeated alone")] = False
    standardise: Annotated[
        bool | None,
        Field(description="the clients standardise columns of x, and y, together; null: where a row of x has one axis; else all as it is"),
    ] = None
    task: Annotated[Task | None, Field(description="regression or classification; null: by y, floats are a regression")] = None
    _held: Held | None = PrivateAttr(None)

    def holding(self, held: Held) -> Self:
        """The same settings with their arrays. Raises SpecError for others than those that the digest is of."""
        digest = held.digest()
        if self.digest not in (None, digest):
            raise SpecError((*_SOURCE, "digest"), self.digest, f"these are other arrays, of digest {digest}")
        copy = self.model_copy(update={"digest": digest})
        object.__setattr__(copy, "__pydantic_private__", {"_held": held})
        return copy

    def held(self, base_dir: Path) -> Held:
        """The arrays. Raises SpecError where there are none, or those of the file are not those of the digest."""
        if self._held is not None:
            return self._held
        if self.path is None:
            raise SpecError(
                (*_SOURCE, "path"),
                None,
                "a program hands the arrays over: x, y and client beside `kind: arrays` in the dict that simulate takes, or as `arrays` to "
                "resume and verify; with `save: true` a run keeps them",
            )
        found = Held.read(base_dir / self.path)
        self.holding(found)
        return found

    def load(self, clients: int | None, seed: int, base_dir: Path, facts: Sequence[str] = ()) -> Pool:
        """The rows: columns that clients standardise together, or one array as it is."""
        held = self.held(base_dir)
        x, (y, classes) = held.x, _targets(held.y, self.task)
        together = x.ndim == 2 if self.standardise is None else self.standardise
        if together and x.ndim != 2:
            raise SpecError((*_SOURCE, "standardise"), True, f"x has rows of shape {list(x.shape[1:])}, and only columns are standardised")
        inputs: NDArray[np.float32] | tuple[Column, ...]
        if together:
            inputs = tuple(np.ascontiguousarray(column, dtype=np.float64) for column in x.T)
        else:
            inputs, y = x.astype(np.float32), y if classes is not None else y.astype(np.float32)
        names, owner = (None, None) if held.client is None else np.unique(held.client, return_inverse=True)
        return Pool(
            inputs,
            y,
            "regression" if classes is None else "classification",
            1 if classes is None else len(classes),
            owner=None if owner is None else owner.astype(np.int64),
            names=None if names is None else tuple(str(name) for name in names.tolist()),
            inputs=tuple((name, 1) for name in held.columns) if together else (),
            classes=classes,
            client=None if names is None else "client",
        )


def taken_out(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Held | None]:
    """A scenario's plain data without the arrays in its source, and the arrays; None where it holds none. Raises SpecError."""
    section = data.get("data")
    source = section.get("source") if isinstance(section, Mapping) else None
    if not isinstance(source, Mapping) or source.get("kind") != "arrays" or not any(name in source for name in NAMES):
        return data, None
    held = Held.of(**{name: source[name] for name in NAMES if name in source})
    plain = {name: value for name, value in source.items() if name not in NAMES}
    return {**data, "data": {**dict(section or {}), "source": plain}}, held


def _array(name: str, value: Any, kinds: str) -> NDArray[Any]:
    """An array of one of NumPy's kinds of types. Words that came as objects are words."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat):
            array = array.astype(str)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError((*_SOURCE, name), type(value).__name__, f"NumPy makes no array of it: {error}") from error
    if array.dtype.kind not in kinds:
        words = ", words" if "U" in kinds else " (for words, write a table and use `kind: table`)"
        raise SpecError((*_SOURCE, name), str(array.dtype), f"allowed: {'whole ' if 'f' not in kinds else ''}numbers{words}")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        first = np.argwhere(~finite)[0].tolist()
        raise SpecError((*_SOURCE, name), None, f"{int((~finite).sum()):,} of its numbers are missing or infinite, the first at {first}")
    return array


def _targets(y: NDArray[Any], task: Task | None) -> tuple[NDArray[Any], Classes | None]:
    """Targets float64 `[n, 1]` and None; or classes `[n]` and their values."""
    measured = y.dtype.kind == "f"
    if task == "regression" or (task is None and measured):
        if y.dtype.kind == "U":
            raise SpecError((*_SOURCE, "task"), task, "y holds words; a regression needs numbers")
        return y.astype(np.float64)[:, None], None
    if measured and (y != np.floor(y)).any():
        raise SpecError((*_SOURCE, "task"), task, "y holds fractions; classes are whole numbers or words")
    values, codes = np.unique(y, return_inverse=True)
    if len(values) < 2:
        raise SpecError((*_SOURCE, "y"), values.tolist(), "every row has the same class")
    classes: Classes = tuple((values.astype(np.int64) if measured else values).tolist())
    return codes.astype(np.int64), classes
