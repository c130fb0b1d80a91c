"""Where the value of a parameter goes in the plain data of a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

OF_EACH = ("local", "model", "rounds")
"""Settings of a scenario that each strategy may have of its own: a search gives each strategy its own value."""


def place(path: str, title: str) -> tuple[str, ...]:
    """The field of a strategy that a parameter sets; empty where it sets none of this strategy's."""
    first, *rest = path.split(".")
    if first == "strategies":
        return tuple(rest[1:]) if rest[:1] == [title] else ()
    return (first, *rest) if first in OF_EACH else ()


def put(data: dict[str, Any], field: Sequence[str], value: Any) -> None:
    """Sets a field of plain data. Raises KeyError with the part that has no fields.

    One of `epochs` and `steps` takes the other's place: a scenario names one of them.
    """
    at = data
    for part in field[:-1]:
        if at.get(part) is None:
            at[part] = {}
        if not isinstance(at[part], dict):
            raise KeyError(part)
        at = at[part]
    if tuple(field[-2:-1]) == ("local",):
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if field[-1] == one and other in at:
                at[other] = None
    at[field[-1]] = deepcopy(value)


def own(scenario: Mapping[str, Any], strategy: dict[str, Any], field: Sequence[str], value: Any) -> None:
    """Sets a field of a strategy. A part of a model that is the scenario's becomes the strategy's first."""
    if field[0] == "model" and len(field) > 1 and strategy.get("model") is None:
        strategy["model"] = deepcopy(scenario["model"])
    put(strategy, field, value)


def conflicts(paths: Sequence[str], title: str) -> list[tuple[str, str]]:
    """Pairs of parameters that set the same of a strategy, so that one of them would be ignored."""
    fields = [(path, place(path, title)) for path in paths if place(path, title)]
    found = []
    for i, (path, field) in enumerate(fields):
        for other, of_other in fields[i + 1 :]:
            short, long = sorted((field, of_other), key=len)
            steps = {field, of_other} == {("local", "epochs"), ("local", "steps")}
            if long[: len(short)] == short or steps:
                found.append((path, other))
    return found
