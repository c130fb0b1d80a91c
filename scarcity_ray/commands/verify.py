"""`verify RUN_DIR`: repeats a run and compares."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.leaving import FAILED, INTERRUPTED, REFUSED, leave, refuse
from scarcity_ray.commands.options import Imports, Json, print_json


def verify(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory; nothing in it is changed.", show_default=False)],
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, metavar="K", help="Repeat only K rounds, drawn by the run's seed; all if left out.")
    ] = None,
    imports: Imports = False,
    json: Json = False,
) -> None:
    """Repeat a run on this machine and compare the results bit by bit, except wall-clock times.

    Exit code 0: all is the same. 1: something differs; the first difference is shown. 2: the run cannot be repeated.
    """
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.report.progress import Progress
    from scarcity_ray.results.results import RunError
    from scarcity_ray.runtime.simulation import RunFailed
    from scarcity_ray.runtime.verification import verify
    from scarcity_ray.scenario import ScenarioError, SpecErrors

    try:
        with Progress(not json) as progress:
            found = verify(run_dir, rounds, progress, imports=imports)
    except ScenarioError as error:
        refuse(error)
    except (RunError, SpecError, SpecErrors) as error:
        leave(REFUSED, str(error))
    except RunFailed as error:
        leave(FAILED, f"the repetition failed: {error.message}")
    except KeyboardInterrupt:
        leave(INTERRUPTED, "interrupted")
    if json:
        print_json(asdict(found))
        raise typer.Exit(0 if found.difference is None else FAILED)
    for line in found.changed:
        typer.echo(f"changed since the run: {line}")
    if found.difference is not None:
        leave(FAILED, f"different after {found.rounds:,} rounds at most: {found.difference}")
    typer.echo(f"{found.rounds:,} rounds repeated: the same to the last bit")
