"""How a command ends: a message on stderr that names what was kept and how to continue, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


def leave(code: int, head: str, *lines: str) -> NoReturn:
    """Ends the program with a message on stderr, in colour in a terminal. Lines are not wrapped, so that paths stay whole."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(Text(head, style="bold red"))
    for line in lines:
        console.print(Text(line))
    raise typer.Exit(code)


def refuse(error: Exception) -> NoReturn:
    """Ends the program with the lines of an error that says what is wrong with a scenario or a run."""
    head, *problems = str(error).split("\n")
    leave(REFUSED, head, *problems)


def refuse_changes(folder: Path, **options: object) -> None:
    """Ends the program where options are given for a search or sweep that is continued: it ends as it began."""
    if given := [f"--{name}" for name, value in options.items() if value]:
        named = " and ".join(given)
        leave(REFUSED, f"{folder} is continued as it began: leave out {named}, or name a scenario to begin another one")


@contextmanager
def endings() -> Iterator[None]:
    """Turns a failure or an interruption into a message that names what was kept and how to continue, and an exit code."""
    from scarcity_ray.results.kept import kept
    from scarcity_ray.runtime.simulation import Interrupted, RunFailed

    try:
        yield
    except RunFailed as error:
        leave(FAILED, f"the run failed: {error.message}", *kept(error.directory))
    except Interrupted as error:
        leave(INTERRUPTED, "interrupted", *kept(error.directory))


@contextmanager
def refusals() -> Iterator[None]:
    """As `endings`; and ends the program where a scenario, a folder or a run cannot be used, with the lines that say why."""
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.results.results import RunError
    from scarcity_ray.runtime.simulation import Changed, OutputExists
    from scarcity_ray.scenario import ScenarioError, SpecErrors

    try:
        with endings():
            yield
    except (ScenarioError, SpecError, SpecErrors, Changed, OutputExists, RunError) as error:
        refuse(error)
    except KeyboardInterrupt:
        leave(INTERRUPTED, "interrupted before the work started; nothing was written")
