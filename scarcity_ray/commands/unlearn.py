"""`unlearn RUN_DIR`: takes a client out of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import clients, run_dirs
from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Imports, Json, print_json


def unlearn(
    run_dir: Annotated[
        Path, typer.Argument(help="A run's directory; it is changed in place.", autocompletion=run_dirs, show_default=False)
    ],
    client: Annotated[
        str,
        typer.Option(
            "--client",
            metavar="NAME",
            autocompletion=clients,
            help="The client to remove (its id, where the run's data name no clients).",
            show_default=False,
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse, and change nothing, where anything of the client would stay in a model.")
    ] = False,
    imports: Imports = False,
    json: Json = False,
) -> None:
    """Take a client out of a run, and print what was learned again, what was removed, and what stays.

    The models of sf_hfe, afl and prototypes are learned again from the other clients' messages. The client's own model of local_only
    leaves the file. All other models that clients trained together are removed, as are insight_exchange (the clients' steps followed from
    what all of them gained), checkpoints, experts.png, report.html, coefficients.csv and the runs of a report on scarcity. The client's
    rows leave the tables of clients, insights and predictions.

    Stays: means, standard deviations, words and classes by which tables are read, and a bandwidth from surveys or pilots (--strict
    refuses these); metrics measured before, curves.png, a report on scarcity and logs. Refused: an ensemble whose trunk was trained by
    rounds or whose moments were not kept, a run of which no model would be left, and one of which a single client would be left.

    Exit code 0: done. 1: the directory cannot be changed. 2: refused, and nothing was changed.
    """
    from scarcity_ray.results.results import Results, RunError
    from scarcity_ray.serving import unlearn as forget

    try:
        done = forget(Results.load(run_dir, imports=imports), client, strict=strict)
    except RunError as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, f"{run_dir} cannot be changed: {error}")
    if json:
        print_json({"client": client, "directory": run_dir, **asdict(done)})
        return
    typer.echo(f"removed client {client} from {run_dir} and its tables")
    for line in done.lines():
        typer.echo(line)
