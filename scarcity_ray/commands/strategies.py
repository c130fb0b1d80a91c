"""`strategies`: what a scenario may name."""

from __future__ import annotations

import typer


def strategies() -> None:
    """Print the strategies that a scenario may name, and what travels in each, as a Markdown table."""
    from scarcity_ray.strategies import overview

    typer.echo(overview())
