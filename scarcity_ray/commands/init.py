"""`init TABLE`: a first scenario for a table of your own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.leaving import FAILED, REFUSED, leave, refuse
from scarcity_ray.commands.options import Json, print_json


def init(
    table: Annotated[Path, typer.Argument(help="Your table: CSV, tab-separated or Parquet, one row a case.", show_default=False)],
    label: Annotated[str | None, typer.Option("--label", metavar="COL", help="The column to predict; proposed if left out.")] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="COL", help="The column that names the client of a row; proposed if left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The scenario's file; TABLE's name with .yaml, here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented scenario for a table, which runs as it is: its clients, label, inputs and metric, each with the reason.

    Exit code 0: done. 1: the file cannot be written. 2: the table cannot be read, does not tell its clients or label, or FILE is there.
    """
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.data.look import look_at_file
    from scarcity_ray.data.table import TableError
    from scarcity_ray.results.files import write_whole
    from scarcity_ray.runtime.plan import prepare
    from scarcity_ray.scenario import ScenarioError, SpecErrors, load
    from scarcity_ray.scenario.proposal import CannotPropose, propose, written

    stem = table.name.removesuffix(".gz").rsplit(".", 1)[0]
    file = out or Path(f"{stem}.yaml")
    if file.exists() and not force:
        leave(REFUSED, f"{file} is there already: name another file (--out), or replace it (--force)")
    try:
        found = propose(look_at_file(table), re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:100] or "table", label, client)
        path = os.path.relpath(table.resolve(), file.parent.resolve())
        write_whole(file, written(found, {"kind": "table", "path": path}, f"scarcity-ray run {file}").encode())
    except (TableError, CannotPropose) as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, str(error))
    try:
        prepare((loaded := load(file)).scenario, loaded.base_dir)
    except ScenarioError as error:
        refuse(error)
    except (SpecError, SpecErrors) as error:
        refuse(loaded.explain(error))
    if json:
        print_json({"file": file, **found.plain()})
        return
    for fact in found.facts:
        typer.echo(fact)
    typer.echo(f"label: {found.label[0]} ({found.task}): {found.label[1]}")
    typer.echo(f"client: {found.client[0]}: {found.client[1]}")
    typer.echo(f"inputs: {', '.join(found.features)}")
    for name, why in found.left_out.items():
        typer.echo(f"left out: {name}: {why}")
    typer.echo(f"metric: {found.metric[0] or 'the usual one'}: {found.metric[1]}")
    typer.echo(f"written to {file}; read it, then: scarcity-ray run {file}")
