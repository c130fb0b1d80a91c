"""Files written whole or not at all, and JSON that any reader accepts."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

_DYING_SECONDS = 3.0


class Unwritable(OSError):
    """A file that cannot be written (the disk is full, or its folder is a file); the message names it and states the cause."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write to {path}: {os.strerror(error.errno) if error.errno else error}")


@contextmanager
def new_file(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A draft of the file at `path`: it replaces that file when the block ends. If the block fails, nothing is left.

    draft: where to write it instead of beside `path`, on the same disk. Raises Unwritable.
    """
    draft = draft or path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        yield draft
        put_in_place(draft, path)
    except OSError as error:
        raise Unwritable(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes `path` so that a reader sees the old content or the new, never a part of it. Raises Unwritable."""
    with new_file(path) as draft, draft.open("xb") as file:  # a new file: a link that somebody left under this name is not followed
        file.write(content)


def put_in_place(draft: Path, path: Path) -> None:
    """Renames a finished file. Its content reaches the disk before its name does: after a power cut the old or the new file is whole."""
    _settle(draft)
    os.replace(draft, path)
    _settle(path.parent)


def _settle(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Makes a directory and locks it for this run until the block ends.

    Raises Unwritable if another run holds the lock for longer than a process needs to die.
    """
    with suppress(FileExistsError):  # it is a file: `os.open` below says so
        directory.mkdir(parents=True, exist_ok=True)
    descriptor, deadline = os.open(directory, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + _DYING_SECONDS
    try:
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise Unwritable(directory, OSError("another run is being played there"))
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        """On a file system without locks no other run is kept out."""
    return True


def to_json(value: Any) -> str:
    """Strict JSON (RFC 8259), indented: numbers that are not finite become null, NumPy values become numbers and lists.

    Raises TypeError for a value that JSON has no form for.
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
