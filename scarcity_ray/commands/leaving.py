"""How a command ends: a message on stderr that names what was kept and how to continue, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from scarcity_ray.scenario import ScenarioError

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


def leave(code: int, head: str, *lines: str) -> NoReturn:
    """Ends the program with a message on stderr, in colour in a terminal. Lines are not wrapped, so that paths stay whole."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(Text(head, style="bold red"))
    for line in lines:
        console.print(Text(line))
    raise typer.Exit(code)


def refuse(error: ScenarioError) -> NoReturn:
    """Ends the program with the problems of a scenario."""
    head, *problems = str(error).split("\n")
    leave(REFUSED, head, *problems)


@contextmanager
def endings() -> Iterator[None]:
    """Turns a failure or an interruption into a message that names what was kept and how to continue, and an exit code."""
    from scarcity_ray.runtime.simulation import Interrupted, RunFailed

    try:
        yield
    except RunFailed as error:
        leave(FAILED, f"the run failed: {error.message}", *_left(error.directory))
    except Interrupted as error:
        leave(INTERRUPTED, "interrupted", *_left(error.directory))


def _left(directory: Path | None) -> list[str]:
    from scarcity_ray.results.checkpoints import FOLDER

    more = directory is not None and any((directory / FOLDER).glob("*"))
    return [_kept(directory), *([f"to continue: scarcity-ray resume {directory}"] if more else [])]


def _kept(directory: Path | None) -> str:
    """What an unfinished run has written."""
    if directory is None or not directory.is_dir():
        return "nothing was written"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in directory.iterdir())
    return f"kept in {directory}: {', '.join(names) or 'nothing'}"
