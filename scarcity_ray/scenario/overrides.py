"""`--set section.field=value`: changes a scenario's plain data from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scarcity_ray.scenario import plain_yaml
from scarcity_ray.scenario.diagnostics import Diagnostic, FieldPath, Place, dotted
from scarcity_ray.scenario.plain_yaml import Document
from scarcity_ray.scenario.words import shown


def override(document: Document, options: Sequence[str]) -> None:
    """Puts each `path=value` into the document, in order. The value is read as YAML; list items are named by index, strategies also by
    their name, or their kind if it is the only one: strategies.fed_prox.mu.

    A missing section is created; the index after the last one adds an item. Errors are added to the document's problems.
    """
    for option in options:
        place = Place(f"--set {option}")
        name, equals, text = option.partition("=")
        path = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
        if not equals or "" in path:
            document.problems.append(Diagnostic((), "allowed: section.field=value, as in --set local.lr=0.1", place))
            continue
        path = _by_place(document.data, path)
        value = plain_yaml.read(text, place.source, in_file=False)
        document.problems += [Diagnostic((*path, *problem.path), problem.message, problem.place) for problem in value.problems]
        if value.problems:
            continue
        fault = _put(document, path, value.data, place)
        if fault:
            document.problems.append(fault)
            continue
        for old in [known for known in document.places if known[: len(path)] == path]:
            del document.places[old]
        document.places[path] = place


def _by_place(data: Any, path: FieldPath) -> FieldPath:
    """The path with the place of a strategy instead of its name; unchanged where no strategy, or more than one, is called so."""
    strategies = data.get("strategies") if isinstance(data, dict) else None
    if path[0] != "strategies" or len(path) < 2 or isinstance(path[1], int) or not isinstance(strategies, list):
        return path
    items = [item if isinstance(item, dict) else {} for item in strategies]
    for field in ("name", "kind"):
        places = [place for place, item in enumerate(items) if item.get(field) == path[1]]
        if len(places) == 1:
            return ("strategies", places[0], *path[2:])
    return path


def _put(document: Document, path: FieldPath, value: Any, place: Place) -> Diagnostic | None:
    if document.data is None:
        document.data = {}
    at: Any = document.data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(at, dict):
            part = str(part)
            missing = at.get(part) is None
        elif isinstance(at, list):
            if not isinstance(part, int) or part > len(at):
                allowed = f"an index from 0 to {len(at)} ({len(at)} adds an item)"
                names = [str(item.get("name") or item.get("kind")) for item in at if isinstance(item, dict) and "kind" in item]
                allowed += f", or one of {', '.join(names)}" if names and path[:depth] == ("strategies",) else ""
                return Diagnostic(path[: depth + 1], f"is not in the list, which has {len(at)} items; allowed: {allowed}", place)
            missing = part == len(at)
            if missing:
                at.append(None)
        else:
            return Diagnostic(path[:depth], f"is {shown(at)}, which has no fields; set `{dotted(path[:depth])}` itself", place)
        if last:
            at[part] = value
        elif missing:
            at[part] = [] if isinstance(path[depth + 1], int) else {}
            document.places[path[: depth + 1]] = place
        at = at[part]
    return None
