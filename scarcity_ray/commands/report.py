"""`report RUN_DIR`: the page of a run, for those who decide by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import run_dirs
from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Json, print_json


def report(
    run_dir: Annotated[
        Path,
        typer.Argument(help="A finished run's directory; only its report.html is written.", autocompletion=run_dirs, show_default=False),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the page there instead.")] = None,
    json: Json = False,
) -> None:
    """Write report.html: one page that says whether federating pays, for whom, how sure that is, and what the run cannot say.

    It opens in any browser, offline, and prints. Exit code 0: done. 1: the file cannot be written. 2: the run has not ended, or cannot be
    read.
    """
    from scarcity_ray.report.page import NAME, draw_page
    from scarcity_ray.results.results import Results, RunError

    path = run_dir / NAME if out is None else out
    try:
        draw_page(Results.load(run_dir), path)
    except RunError as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, str(error))
    if json:
        print_json({"file": path, "bytes": path.stat().st_size})
    else:
        typer.echo(f"{path}: {path.stat().st_size / 1000:,.0f} KB")
