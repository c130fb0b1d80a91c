"""`export RUN_DIR --to FORMAT`: a run's numbers for other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from scarcity_ray.commands.completing import run_dirs
from scarcity_ray.commands.leaving import FAILED, REFUSED, leave
from scarcity_ray.commands.options import Json, print_json


class Format(str, Enum):
    """What a run can be exported to."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"


def export(
    run_dir: Annotated[
        Path, typer.Argument(help="A finished run's directory; nothing in it is changed.", autocompletion=run_dirs, show_default=False)
    ],
    to: Annotated[Format, typer.Option("--to", help="Files of CSV, or events of TensorBoard.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write to; RUN_DIR-csv or RUN_DIR-tensorboard if left out.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write to a folder that is not empty, and replace an earlier export there.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the tables and the summary of a run as CSV with all digits, or its rounds as events of TensorBoard.

    `unlearn` does not reach what was exported. TensorBoard is an extra: pip install 'scarcity-ray[tensorboard]'.

    Exit code 0: done. 1: the folder cannot be written. 2: nothing was written: the run has not ended or cannot be read, the folder
    is not empty, or TensorBoard is missing.
    """
    from scarcity_ray.results.as_csv import write_csv
    from scarcity_ray.results.as_tensorboard import write_events
    from scarcity_ray.results.results import Results, RunError

    folder = run_dir.resolve().with_name(f"{run_dir.resolve().name}-{to.value}") if out is None else out
    try:
        results = Results.load(run_dir)
        if not force and folder.is_dir() and any(folder.iterdir()):
            leave(REFUSED, f"{folder} is not empty: --force writes to it all the same, and --out DIR to another folder")
        written = (write_csv if to is Format.CSV else write_events)(results, folder)
    except ImportError:
        leave(REFUSED, "TensorBoard is not installed: pip install 'scarcity-ray[tensorboard]'")
    except RunError as error:
        leave(REFUSED, str(error))
    except OSError as error:
        leave(FAILED, f"{folder} cannot be written: {error}")
    if json:
        print_json({"directory": folder, "written": written})
    else:
        typer.echo(f"{', '.join(str(path.relative_to(folder)) for path in written)} in {folder}")
        if to is Format.TENSORBOARD:
            typer.echo(f"to look at them: tensorboard --logdir {folder}")
