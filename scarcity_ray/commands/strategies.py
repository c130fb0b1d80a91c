"""`strategies`: what a scenario may name."""

from __future__ import annotations

import typer

from scarcity_ray.commands.options import Json, print_json


def strategies(json: Json = False) -> None:
    """Print the strategies that a scenario may name, and what travels in each, as a Markdown table."""
    from scarcity_ray.core.strategy import STRATEGIES
    from scarcity_ray.strategies import overview

    if json:
        known = STRATEGIES.classes.items()
        print_json(
            {"strategies": [{"kind": kind, "sends": cls.sends, "receives": cls.receives, "reveals": cls.reveals} for kind, cls in known]}
        )
    else:
        typer.echo(overview())
