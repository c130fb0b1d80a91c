"""`compare RUN_DIR...`: strategies of several runs, paired by client and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import references, run_dirs
from scarcity_ray.commands.leaving import REFUSED, leave
from scarcity_ray.commands.options import Json, print_json


def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Finished runs' directories; nothing in them is changed.",
            autocompletion=run_dirs,
            show_default=False,
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="RUN/STRATEGY",
            autocompletion=references,
            help="The strategy to compare with; the best one of the first run if left out.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the federated strategies of runs on the same data, paired by client and seed.

    Only clients and seeds that all runs have count. Each strategy has its difference to the reference with a 95 % interval that counts
    clients and seeds, and Holm's test of all pairs.

    Exit code 0: done. 2: a run has not ended or cannot be read, runs have other data, or there is no such reference.
    """
    from rich.console import Console

    from scarcity_ray.report.comparison import show_comparison
    from scarcity_ray.results import comparison
    from scarcity_ray.results.results import Results, RunError

    try:
        found = comparison.compare([Results.load(directory) for directory in run_dirs], reference)
    except RunError as error:
        leave(REFUSED, str(error))
    if json:
        print_json(found)
    else:
        show_comparison(Console(), found)
