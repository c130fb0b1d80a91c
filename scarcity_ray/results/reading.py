"""Files of a run, read without trust: only regular files of bounded size inside their folder, and nothing in them is run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_TEXT = 64 * 2**20
"""Bytes of the longest text file that is read; a summary of a thousand strategies has a hundredth of it."""


class RunError(ValueError):
    """A directory, or a file in it, that no run leaves so; names it and the cause."""


class BrokenFile(RunError):
    """A file that exists but cannot be read as it should: cut, altered, of another version, too large."""

    def __init__(self, path: Path, cause: object) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.cause}"


def inside(directory: Path, name: str | Path) -> Path:
    """The path of a file of a directory. Raises RunError where it, or a link on the way to it, leads out of the directory."""
    path = directory / name
    try:
        real, home = path.resolve(), directory.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise BrokenFile(path, error) from error
    if not real.is_relative_to(home):
        raise RunError(f"{path} leads out of {directory}, to {real}: files of a run lie in its own directory")
    return path


def refuse_links(directory: Path) -> None:
    """Raises RunError if a directory that will be written to holds a link, as files would be written where it leads."""
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise RunError(f"{path} is a link, to {os.readlink(path)}: a run writes to its own files only; remove the link")


_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def believing(path: Path) -> Iterator[None]:
    """For work with the content of a file: any error that content of no run can cause becomes a BrokenFile."""
    try:
        yield
    except RunError:
        raise
    except _MISFITS as error:
        said = " ".join(str(error).split())
        raise BrokenFile(path, f"its content does not fit together: {type(error).__name__}: {said[:300]}") from error


def read_whole(path: Path, most: int) -> bytes:
    """A file's bytes. Raises BrokenFile if it is missing, no regular file, or has more than `most` bytes."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BrokenFile(path, "it is no regular file")
            if found.st_size > most:
                raise BrokenFile(path, f"it has {found.st_size:,} bytes, and at most {most:,} are read")
            content = file.read(found.st_size)
    except (OSError, MemoryError) as error:
        raise BrokenFile(path, getattr(error, "strerror", None) or "it takes more memory than there is") from error
    if len(content) != found.st_size:
        raise BrokenFile(path, f"it ended after {len(content):,} of {found.st_size:,} bytes")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file without waiting: a pipe would block until another process writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises BrokenFile."""
    try:
        return read_whole(path, MOST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenFile(path, f"it is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises BrokenFile."""
    try:
        content = json.loads(read_text(path))
    except RecursionError as error:
        raise BrokenFile(path, "it is nested too deeply") from error
    except BrokenFile:
        raise
    except ValueError as error:
        raise BrokenFile(path, f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BrokenFile(path, "it holds no object")
    return content
