"""`clients RUN_DIR`: the gain of each client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Json, print_json


def clients(
    run_dir: Annotated[Path, typer.Argument(help="A finished run's directory; nothing in it is changed.", show_default=False)],
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="NAME", help="The strategy to report; the best federated one if left out.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write all columns as CSV, with all digits, instead of the table.")
    ] = None,
    json: Json = False,
) -> None:
    """Print for each client its rows, the metric that decides alone and federated, its gain, its expert and its bytes.

    The worst gain comes first: those clients would lose most, or win least. Exit code 0: done. 1: the CSV file cannot be written. 2: the
    run has not ended, has no such strategy, or cannot be read.
    """
    from scarcity_ray.report.clients import show_clients
    from scarcity_ray.results.client_report import client_report
    from scarcity_ray.results.results import Results, RunError

    try:
        results = Results.load(run_dir)
        report, summary = client_report(results, strategy), results.summary
        if table is not None:
            report.write_csv(table)
    except RunError as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, str(error))
    if json:
        asked = {"strategy": report.strategy, "metric": report.shown.key, "seeds": report.seeds}
        print_json(asked | ({"clients": report.table.to_pylist()} if table is None else {"file": table}))
    elif table is None:
        show_clients(Console(), report, summary)
    else:
        typer.echo(f"{len(report.table):,} rows of {report.strategy} in {table}")
