"""`tune SCENARIO`: searches settings for each strategy, with equal budgets."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.leaving import refusals, refuse_changes
from scarcity_ray.commands.options import Json, print_json


def tune(
    scenario: Annotated[
        Path, typer.Argument(help="A scenario with a `tune` section, or the folder of a search to continue.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, as for run; repeatable.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="The folder of the search; runs/NAME-tune if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in --out.")] = False,
    json: Json = False,
) -> None:
    """Search settings by validation rows, the same budget for each strategy, and test the best ones on fresh seeds.

    Leaves trials.parquet, best.yaml (which `run` takes), tune.json and the final test in final/. A search that was cut short is continued
    by naming its folder: it ends with the same trials. Exit code 0: done. 1: it failed. 2: the scenario is wrong. 130: interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from scarcity_ray.runtime.tuning import is_search, tune
    from scarcity_ray.scenario import load

    with refusals():
        if again := is_search(scenario):
            refuse_changes(scenario, set=overrides, out=out, force=force)
        given = scenario if again else load(scenario, overrides or [])
        found = tune(given, out=out, force=force, show=not json)
    if json:
        print_json({"directory": found.directory, **found.answer})
