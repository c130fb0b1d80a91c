"""`predict RUN_DIR TABLE`: a saved model on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import clients, models, run_dirs
from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Imports, Json, print_json


def predict(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory.", autocompletion=run_dirs, show_default=False)],
    table: Annotated[
        Path, typer.Argument(help="New rows: Parquet, CSV or tab-separated, columns as in the run's data.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the predictions go: FILE.csv, FILE.parquet or FILE.pq.", show_default=False)
    ],
    client: Annotated[
        str | None,
        typer.Option(
            "--client",
            metavar="NAME",
            autocompletion=clients,
            help="The client whose rows these are (its id, where the run's data name no clients).",
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            "--labelled",
            metavar="FILE",
            help="Labelled rows of a client that did not take part. They make its head; rows of TABLE never do.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=models,
            help="Which saved model; if left out, the only ensemble, or the model of the run's only strategy.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="How many experts the router uses for each row; if left out, all, by weight.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="COL", help="A column of TABLE that the output has too; repeatable.")
    ] = None,
    imports: Imports = False,
    json: Json = False,
) -> None:
    """Predict new rows with a saved model of a run. Labels in TABLE are not read.

    With --client, the client's own head or model predicts. Without it, an ensemble's router chooses experts, or the one model of all
    clients predicts. A client that did not take part needs --labelled, and an ensemble. Missing values and words that the training rows
    did not have are read as in training, and counted.

    Exit code 0: done. 1: the output cannot be written. 2: the run, the rows or an option is wrong; nothing was written.
    """
    from scarcity_ray.data.table import TableError
    from scarcity_ray.results.results import Results, RunError
    from scarcity_ray.serving.output import write_predictions
    from scarcity_ray.serving.predict import OptionError

    options = {"model": model, "client": client, "labelled": labelled, "top": top, "keep": keep or []}
    try:
        rows, source, notes = write_predictions(Results.load(run_dir, imports=imports), table, out, **options)
    except (RunError, TableError, OptionError) as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, f"{out} cannot be written: {error}")
    if json:
        print_json({"rows": rows, "file": out, "by": source, "notes": notes})
        return
    typer.echo(f"{rows:,} predictions in {out}, {source}")
    for note in notes:
        typer.echo(note)
