"""`run SCENARIO`: plays a scenario, or prints its plan."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scarcity_ray.commands.completing import scenarios
from scarcity_ray.commands.leaving import INTERRUPTED, REFUSED, endings, leave, refuse
from scarcity_ray.commands.options import Json, print_json

if TYPE_CHECKING:
    from scarcity_ray.scenario import Loaded


def run(
    context: typer.Context,
    scenario: Annotated[
        Path,
        typer.Argument(
            help="The scenario's YAML file, or the name of a real federation that `datasets` lists.",
            autocompletion=scenarios,
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field, as in --set local.lr=0.1 or --set strategies.1.fraction=0.2; repeatable."
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="Where results go, instead of the scenario's directory.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved scenario and the plan; do not run, do not write.")] = False,
    json: Json = False,
) -> None:
    """Run a scenario and compare its strategies.

    Exit code 0: done. 1: the run failed. 2: the scenario or an option is wrong, and nothing was written. 130: interrupted.
    """
    # A script's background jobs start with SIGINT ignored, and Python keeps that; Ctrl-C and `kill -INT` must still reach the run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run(scenario, overrides or [], out, force, dry_run, json, context.obj)
    except KeyboardInterrupt:
        leave(INTERRUPTED, "interrupted before the run started; nothing was written")


def _run(path: Path, overrides: Sequence[str], out: str | None, force: bool, dry_run: bool, json: bool, attended: bool) -> None:
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.scenario import ScenarioError, SpecErrors

    if force and out is None:
        leave(REFUSED, "--force replaces the run in --out: give --out DIR too (without --out, a second run gets a new folder)")
    try:
        loaded = _loaded(path, overrides)
    except ScenarioError as error:
        refuse(error)

    from scarcity_ray.runtime.simulation import OutputExists, simulate

    try:
        if dry_run:
            _show_plan(loaded, json)
            return
        with endings():
            results = simulate(loaded, out=out, force=force, show=not json, attended=attended)
    except (SpecError, SpecErrors) as error:
        refuse(loaded.explain(error))
    except ScenarioError as error:
        refuse(error)
    except OutputExists as error:
        leave(REFUSED, str(error))
    if json:
        print_json(results.answer())


def _loaded(path: Path, overrides: Sequence[str]) -> Loaded:
    """The scenario of a file, or of a real federation that has this name. Raises ScenarioError."""
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.data.federations import known
    from scarcity_ray.scenario import Diagnostic, ScenarioError, load, read
    from scarcity_ray.scenario.known import of_real

    if path.exists() or (real := known(str(path))) is None:
        return load(path, overrides)
    try:
        return read(of_real(real), real.name, overrides)
    except SpecError as error:
        raise ScenarioError([Diagnostic((), error.message)], real.name) from error


def _show_plan(loaded: Loaded, json: bool) -> None:
    from scarcity_ray.runtime.plan_in_words import plan_in_words
    from scarcity_ray.runtime.simulation import prepare
    from scarcity_ray.scenario import resolved

    plan = prepare(loaded.scenario, loaded.base_dir)
    if plan.slots is not None:
        from scarcity_ray.runtime.ray_nodes import offered

        there = offered(loaded.scenario.execution.address)
        plan = plan.on(there) if there else plan
    rows = plan_in_words(plan)
    if json:
        print_json({"scenario": loaded.scenario.model_dump(mode="json"), "plan": [{"what": what, "value": value} for what, value in rows]})
        return
    width = max((len(label) for label, _ in rows), default=0)
    typer.echo(resolved(loaded.scenario))
    for label, value in rows:
        typer.echo(f"# {label:<{width}}  {value}")  # a YAML comment: all output together is a valid scenario
