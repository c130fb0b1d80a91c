"""The command line: `scarcity-ray run SCENARIO`, and `python -m scarcity_ray.run SCENARIO` is exactly that."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

import scarcity_ray

if TYPE_CHECKING:
    from scarcity_ray.scenario import Loaded, ScenarioError

# The commands import torch, the strategies and Ray themselves, so that help prints at once and errors show before Ray starts.

FAILED, REFUSED, INTERRUPTED = 1, 2, 130

Imports = Annotated[
    bool,
    typer.Option(
        "--imports", help="Import the modules that the directory names. This runs their code: use it only for runs that you trust."
    ),
]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(scarcity_ray.__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")] = False,
) -> None:
    """Does a federation of data-poor participants pay, for whom, and how? Answers by simulation."""


@app.command()
def run(
    context: typer.Context,
    scenario: Annotated[Path, typer.Argument(help="The scenario's YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field, as in --set local.lr=0.1 or --set strategies.1.fraction=0.2; repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where results go, instead of the scenario's directory.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved scenario and the plan; do not run, do not write.")] = False,
) -> None:
    """Run a scenario and compare its strategies.

    Exit code 0: done. 1: the run failed. 2: the scenario or an option is wrong, and nothing was written. 130: interrupted.
    """
    # A script's background jobs start with SIGINT ignored, and Python keeps that; Ctrl-C and `kill -INT` must still reach the run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run(scenario, overrides or [], out, force, dry_run, context.obj)
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted before the run started; nothing was written")


@app.command()
def resume(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(help="A run's directory.", show_default=False)],
    force: Annotated[
        bool,
        typer.Option("--force", help="Continue although the program, the data or the processor has changed: the results then mix two."),
    ] = False,
    imports: Imports = False,
) -> None:
    """Continue a run that was killed, was interrupted or failed; it gives the same results as an undisturbed run.

    Exit code 0: done. 1: the run failed. 2: the run cannot be continued; nothing was written. 130: interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.results.results import RunError
    from scarcity_ray.runtime.simulation import Changed, resume
    from scarcity_ray.scenario import ScenarioError, SpecErrors

    try:
        with _endings():
            resume(run_dir, force=force, imports=imports, show=True, attended=context.obj)
    except ScenarioError as error:
        _refuse(error)
    except Changed as error:
        _leave(REFUSED, str(error), *error.differences, "undo the change, run the scenario again, or continue with --force")
    except (RunError, SpecError, SpecErrors) as error:
        _leave(REFUSED, str(error))


@app.command()
def verify(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory; nothing in it is changed.", show_default=False)],
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, metavar="K", help="Repeat only K rounds, drawn by the run's seed; all if left out.")
    ] = None,
    imports: Imports = False,
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
        with Progress(True) as progress:
            found = verify(run_dir, rounds, progress, imports=imports)
    except ScenarioError as error:
        _refuse(error)
    except (RunError, SpecError, SpecErrors) as error:
        _leave(REFUSED, str(error))
    except RunFailed as error:
        _leave(FAILED, f"the repetition failed: {error.message}")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted")
    for line in found.changed:
        typer.echo(f"changed since the run: {line}")
    if found.difference is not None:
        _leave(FAILED, f"different after {found.rounds:,} rounds at most: {found.difference}")
    typer.echo(f"{found.rounds:,} rounds repeated: the same to the last bit")


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenarios, which editors check and complete them with."""
    from scarcity_ray.scenario import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def strategies() -> None:
    """Print the strategies that a scenario may name, and what travels in each, as a Markdown table."""
    from scarcity_ray.strategies import overview

    typer.echo(overview())


def _run(path: Path, overrides: Sequence[str], out: Path | None, force: bool, dry_run: bool, attended: bool) -> None:
    from scarcity_ray.core.spec import SpecError
    from scarcity_ray.scenario import ScenarioError, SpecErrors, load

    if force and out is None:
        _leave(REFUSED, "--force replaces the run in --out: give --out DIR too (without --out, a second run gets a new folder)")
    try:
        loaded = load(path, overrides)
    except ScenarioError as error:
        _refuse(error)

    from scarcity_ray.runtime.simulation import OutputExists, simulate

    try:
        if dry_run:
            _show_plan(loaded)
            return
        with _endings():
            simulate(loaded.scenario, base_dir=loaded.base_dir, out=out, force=force, show=True, attended=attended)
    except (SpecError, SpecErrors) as error:
        _refuse(loaded.explain(error))
    except OutputExists as error:
        _leave(REFUSED, f"--out {error.path} already holds a run; name another folder, or replace the run with --force")


@contextmanager
def _endings() -> Iterator[None]:
    """Turns a failure or an interruption into a message that names what was kept and how to continue, and an exit code."""
    from scarcity_ray.runtime.simulation import Interrupted, RunFailed

    try:
        yield
    except RunFailed as error:
        _leave(FAILED, f"the run failed: {error.message}", *_left(error.directory))
    except Interrupted as error:
        _leave(INTERRUPTED, "interrupted", *_left(error.directory))


def _left(directory: Path | None) -> list[str]:
    from scarcity_ray.results.checkpoints import FOLDER

    more = directory is not None and any((directory / FOLDER).glob("*"))
    return [_kept(directory), *([f"to continue: scarcity-ray resume {directory}"] if more else [])]


@app.command()
def predict(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory.", show_default=False)],
    table: Annotated[
        Path, typer.Argument(help="New rows: Parquet, CSV or tab-separated, columns as in the run's data.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the predictions go: FILE.csv, FILE.parquet or FILE.pq.", show_default=False)
    ],
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="NAME", help="The client whose rows these are (its id, where the run's data name no clients)."),
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
            "--model", metavar="NAME", help="Which saved model; if left out, the only ensemble, or the model of the run's only strategy."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="How many experts the router uses for each row; if left out, all, by weight.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="COL", help="A column of TABLE that the output has too; repeatable.")
    ] = None,
    imports: Imports = False,
) -> None:
    """Predict new rows with a saved model of a run. Labels in TABLE are not read.

    With --client, the client's own head or model predicts. Without it, an ensemble's router chooses experts, or the one model of all
    clients predicts. A client that did not take part needs --labelled, and an ensemble.

    Exit code 0: done. 1: the output cannot be written. 2: the run, the rows or an option is wrong; nothing was written.
    """
    from scarcity_ray.data.table import TableError
    from scarcity_ray.results.results import Results, RunError
    from scarcity_ray.serving.output import write_predictions
    from scarcity_ray.serving.predict import OptionError

    options = {"model": model, "client": client, "labelled": labelled, "top": top, "keep": keep or []}
    try:
        rows, source = write_predictions(Results.load(run_dir, imports=imports), table, out, **options)
    except (RunError, TableError, OptionError) as error:
        _leave(REFUSED, str(error))
    except OSError as error:
        _leave(FAILED, f"{out} cannot be written: {error}")
    typer.echo(f"{rows:,} predictions in {out}, {source}")


@app.command()
def unlearn(
    run_dir: Annotated[Path, typer.Argument(help="A run's directory; it is changed in place.", show_default=False)],
    client: Annotated[
        str,
        typer.Option(
            "--client", metavar="NAME", help="The client to remove (its id, where the run's data name no clients).", show_default=False
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse, and change nothing, where anything of the client would stay in a model.")
    ] = False,
    imports: Imports = False,
) -> None:
    """Take a client out of a run, and print what was learned again, what was removed, and what stays.

    The models of sf_hfe, afl and prototypes are learned again from the other clients' messages. The client's own model of local_only
    leaves the file. All other models that clients trained together are removed, as are insight_exchange (the clients' steps followed from
    what all of them gained), checkpoints, experts.png, coefficients.csv and the runs of a report on scarcity. The client's rows leave the
    tables of clients, insights and predictions.

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
        _leave(REFUSED, str(error))
    except OSError as error:
        _leave(FAILED, f"{run_dir} cannot be changed: {error}")
    typer.echo(f"removed client {client} from {run_dir} and its tables")
    for line in done.lines():
        typer.echo(line)


@app.command()
def clients(
    run_dir: Annotated[Path, typer.Argument(help="A finished run's directory; nothing in it is changed.", show_default=False)],
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="NAME", help="The strategy to report; the best federated one if left out.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write all columns as CSV, with all digits, instead of the table.")
    ] = None,
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
        _leave(REFUSED, str(error))
    except OSError as error:
        _leave(FAILED, str(error))
    if table is None:
        show_clients(Console(), report, summary)
    else:
        typer.echo(f"{len(report.table):,} rows of {report.strategy} in {table}")


def _show_plan(loaded: Loaded) -> None:
    from scarcity_ray.runtime.simulation import prepare
    from scarcity_ray.scenario import resolved

    plan = prepare(loaded.scenario, loaded.base_dir)
    if plan.slots is not None:
        from scarcity_ray.runtime.ray_nodes import offered

        there = offered(loaded.scenario.execution.address)
        plan = plan.on(there) if there else plan
    rows = plan.describe()
    width = max((len(label) for label, _ in rows), default=0)
    typer.echo(resolved(loaded.scenario))
    for label, value in rows:
        typer.echo(f"# {label:<{width}}  {value}")  # a YAML comment: all output together is a valid scenario


def _kept(directory: Path | None) -> str:
    """What an unfinished run has written."""
    if directory is None or not directory.is_dir():
        return "nothing was written"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in directory.iterdir())
    return f"kept in {directory}: {', '.join(names) or 'nothing'}"


def _refuse(error: ScenarioError) -> NoReturn:
    head, *problems = str(error).split("\n")
    _leave(REFUSED, head, *problems)


def _leave(code: int, head: str, *lines: str) -> NoReturn:
    """Ends the program with a message on stderr, in colour in a terminal. Lines are not wrapped, so that paths stay whole."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(Text(head, style="bold red"))
    for line in lines:
        console.print(Text(line))
    raise typer.Exit(code)


def _with_command(arguments: list[str]) -> list[str]:
    """The arguments, with `run` added in front if they name no command."""
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = not arguments or arguments[0] in {*commands, "--help", "--version"}
    return arguments if named else ["run", *arguments]


def main(arguments: list[str] | None = None) -> Any:
    """The program `scarcity-ray`. arguments: those of the process if left out; if given, runs are played in the caller's process
    and not in one of their own."""
    if os.getcwd() not in sys.path:  # as `python -m` does, so that `{kind: import, path: ...}` finds modules in the working directory
        sys.path.insert(0, os.getcwd())
    return app(args=arguments, prog_name="scarcity-ray", obj=arguments is None)


if __name__ == "__main__":
    sys.argv[1:] = _with_command(sys.argv[1:])
    main()
