"""`resume RUN_DIR`: continues a run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import run_dirs
from scarcity_ray.commands.leaving import refusals
from scarcity_ray.commands.options import Imports, Json, print_json


def resume(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(help="A run's directory.", autocompletion=run_dirs, show_default=False)],
    force: Annotated[
        bool,
        typer.Option("--force", help="Continue although the program, the data or the processor has changed: the results then mix two."),
    ] = False,
    imports: Imports = False,
    json: Json = False,
) -> None:
    """Continue a run, a search or a sweep that was killed, was interrupted or failed; it gives the same results as an undisturbed run.

    Exit code 0: done. 1: the run failed. 2: the run cannot be continued; nothing was written. 130: interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from scarcity_ray.runtime.simulation import resume
    from scarcity_ray.runtime.sweeping import is_sweep, sweep
    from scarcity_ray.runtime.tuning import is_search, tune

    with refusals():
        if is_search(run_dir) or is_sweep(run_dir):
            found = (tune if is_search(run_dir) else sweep)(run_dir, force=force, imports=imports, show=not json)
            content = {"directory": found.directory, **found.answer}
        else:
            content = resume(run_dir, force=force, imports=imports, show=not json, attended=context.obj).answer()
    if json:
        print_json(content)
