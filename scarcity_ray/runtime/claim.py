"""The folder of a new run: two runs that start at the same time never get the same one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scarcity_ray.results.files import Unwritable

FILE = "scenario.yaml"
"""The run that creates it in a folder has the folder. It is empty until the run begins."""


class OutputExists(RuntimeError):
    """The folder that was named for the results holds a run already."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} already holds a run: name another folder, or replace the run by force (--force, force=True)"


@contextmanager
def claimed(first: Path, *, only: bool, force: bool = False) -> Iterator[Path]:
    """The folder of a run: `first`, or that with -2, -3, ... where it holds a run.

    The folder is made, and is this run's at once: creating a file that must not exist is atomic. Where the run does not begin in the
    block (its scenario.yaml is still empty), nothing is left. only: no other folder will do. force: it may hold a run, which is replaced.
    Raises OutputExists, Unwritable.
    """
    if force:
        yield first
        return
    path, number = first, 1
    while (new := _claim(path)) is None:
        if only:
            raise OutputExists(path)
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    try:
        yield path
    finally:
        with suppress(OSError):
            if not (path / FILE).stat().st_size:
                (path / FILE).unlink()
                for folder in new:
                    folder.rmdir()


def _claim(path: Path) -> list[Path] | None:
    """The folders that were made for it, the innermost first; None where it holds a run."""
    try:
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        if (path / FILE).exists():
            return None
        os.close(os.open(path / FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        if isinstance(error, FileExistsError):
            if path.is_dir():  # another run was faster
                return None
            error = NotADirectoryError(errno.ENOTDIR, "")
        raise Unwritable(path, error) from error
    return new
