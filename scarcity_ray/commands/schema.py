"""`schema`: the JSON Schema of scenarios."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of scenarios, which editors check and complete them with."""
    from scarcity_ray.scenario import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
