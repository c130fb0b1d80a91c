"""The command line: `scarcity-ray run SCENARIO`, and `python -m scarcity_ray.run SCENARIO` is exactly that."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

import scarcity_ray
from scarcity_ray.commands.clients import clients
from scarcity_ray.commands.compare import compare
from scarcity_ray.commands.datasets import datasets
from scarcity_ray.commands.export import export
from scarcity_ray.commands.init import init
from scarcity_ray.commands.predict import predict
from scarcity_ray.commands.report import report
from scarcity_ray.commands.resume import resume
from scarcity_ray.commands.run import run
from scarcity_ray.commands.schema import schema
from scarcity_ray.commands.strategies import strategies
from scarcity_ray.commands.sweep import sweep
from scarcity_ray.commands.tune import tune
from scarcity_ray.commands.unlearn import unlearn
from scarcity_ray.commands.verify import verify

COMMANDS = (init, run, tune, sweep, resume, verify, clients, compare, report, export, predict, unlearn, datasets, strategies, schema)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(scarcity_ray.__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")] = False,
) -> None:
    """Does a federation of data-poor participants pay, for whom, and how? Answers by simulation."""


for command in COMMANDS:
    app.command()(command)


def _with_command(arguments: list[str]) -> list[str]:
    """The arguments, with `run` added in front if they name no command."""
    options = {"--help", "--version", "--install-completion", "--show-completion"}
    named = not arguments or arguments[0] in {*(command.__name__ for command in COMMANDS), *options}
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
