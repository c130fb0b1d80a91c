"""`sweep SCENARIO`: plays every combination of some values, and says who wins where."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.leaving import refusals, refuse_changes
from scarcity_ray.commands.options import Json, print_json


def sweep(
    scenario: Annotated[
        Path, typer.Argument(help="A scenario with a `sweep` section, or the folder of a sweep to continue.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, as for run; repeatable.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="The folder of the sweep; runs/NAME-sweep if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in --out.")] = False,
    json: Json = False,
) -> None:
    """Play a scenario for every combination of some values, and say which strategy wins where.

    Leaves a run for each cell (cells/NNN), sweep.json, sweep.csv and sweep.png. A sweep that was cut short is continued by naming its
    folder.
    Exit code 0: done. 1: it failed. 2: the scenario is wrong. 130: interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from scarcity_ray.runtime.sweeping import is_sweep, sweep
    from scarcity_ray.scenario import load

    with refusals():
        if again := is_sweep(scenario):
            refuse_changes(scenario, set=overrides, out=out, force=force)
        given = scenario if again else load(scenario, overrides or [])
        found = sweep(given, out=out, force=force, show=not json)
    if json:
        print_json({"directory": found.directory, **found.answer})
