"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Imports = Annotated[
    bool,
    typer.Option(
        "--imports", help="Import the modules that the directory names. This runs their code: use it only for runs that you trust."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]


def print_json(content: Any) -> None:
    """Prints the answer of a command: strict JSON, in which numbers that are not finite are null."""
    from scarcity_ray.results.files import to_json

    typer.echo(to_json(content), nl=False)
