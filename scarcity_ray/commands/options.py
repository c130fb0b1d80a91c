"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Imports = Annotated[
    bool,
    typer.Option(
        "--imports", help="Import the modules that the directory names. This runs their code: use it only for runs that you trust."
    ),
]
