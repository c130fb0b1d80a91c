"""Checks plain data: makes a Scenario of it, or lists every problem."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from scarcity_ray.core.spec import SpecError
from scarcity_ray.scenario.conflicts import conflicts
from scarcity_ray.scenario.diagnostics import Diagnostic, FieldPath, Places, SpecErrors, look_up, nearest
from scarcity_ray.scenario.schema import Scenario, json_schema
from scarcity_ray.scenario.words import Words, closest, join, shown

_MISSING = object()
_Fault = tuple[FieldPath, Any]
"""A field's path and pydantic's error about it."""


def check(data: Any, places: Places) -> tuple[Scenario | None, list[Diagnostic]]:
    """The scenario that the data describe, and no problems; or None and every problem, each with its place."""
    if not isinstance(data, Mapping):
        found = "it is empty" if data is None else f"it is {shown(data)}"
        return None, [
            Diagnostic(
                (), f"a scenario must be a mapping of fields, but {found}; start with a line like `name: my_scenario`", places.get(())
            )
        ]
    problems = {
        path: Diagnostic(path, f"is {shown(value)}; allowed: finite numbers", nearest(places, path)) for path, value in _not_finite(data)
    }
    scenario, faults = _validate(data)
    for problem in _explain(faults, data, places):
        problems.setdefault(problem.path, problem)
    for conflict in conflicts(data):
        problem = at_its_place(conflict, data, places)
        problems.setdefault(problem.path, problem)
    return (None if problems else scenario), list(problems.values())


def at_its_place(error: SpecError, data: Any, places: Places) -> Diagnostic:
    """The SpecError as a Diagnostic, with the place where the setting was written."""
    written = look_up(data, error.field, _MISSING) is not _MISSING
    value = f"is {shown(error.value)}: " if written or error.value is not None else "is not given: "
    return Diagnostic(error.field, value + error.message, nearest(places, error.field))


@functools.cache
def _words() -> Words:
    return Words(json_schema())


def _validate(data: Mapping[str, Any]) -> tuple[Scenario | None, list[_Fault]]:
    """The scenario, or None and pydantic's errors, each with the path of its field.

    Pydantic compares fields with each other only if each field is valid. To report both kinds of error at once, this removes
    the invalid fields and validates the rest again.
    """
    try:
        # As JSON: there, even strict models accept a list for a tuple.
        return Scenario.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        faults = [(_path(fault["loc"], data, fault["type"]), fault) for fault in error.errors(include_url=False)]
    rest = json.loads(json.dumps(data))
    for path, fault in faults:
        parent = look_up(rest, path[:-1])
        if path and isinstance(parent, dict) and "error" not in fault.get("ctx", {}):
            parent.pop(path[-1], None)
    try:
        Scenario.model_validate_json(json.dumps(rest))
    except ValidationError as error:
        later = [(_path(fault["loc"], rest, fault["type"]), fault) for fault in error.errors(include_url=False)]
        known = {path for path, fault in faults}
        faults += [(path, fault) for path, fault in later if "error" in fault.get("ctx", {}) and path not in known]
    return None, faults


def _explain(faults: list[_Fault], data: Any, places: Places) -> Iterator[Diagnostic]:
    for path, fault in faults:
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, SpecErrors):
            continue  # `check` reports conflicts itself, also if other fields are invalid
        if cause is None and any(other[: len(path)] == path and len(other) > len(path) for other, _ in faults):
            continue  # the error of another alternative, such as a number: the value is a mapping, and its own errors are reported
        if isinstance(cause, SpecError):
            yield at_its_place(SpecError((*path, *cause.field), cause.value, cause.message), data, places)
        else:
            found, message = _message(path, fault["type"], cause, data)
            yield Diagnostic(found, message, nearest(places, found))


def _message(path: FieldPath, fault: str, cause: Exception | None, data: Any) -> tuple[FieldPath, str]:
    words = _words()
    value = look_up(data, path)
    if cause is not None:
        return path, f"is {shown(value)}: {cause}"
    if fault == "missing":
        branches = words.at(path, data)
        help_ = _described(path, data)
        return path, f"is missing{help_}; allowed: {words.allowed(branches)}"
    if fault == "extra_forbidden":
        parent = look_up(data, path[:-1])
        key, keys = str(path[-1]), words.keys(path[:-1], data, parent)
        kind = parent.get("kind") if isinstance(parent, Mapping) else None
        owners = words.owners(path[:-1], key)
        if kind is not None and owners:
            return path, f"is not a field of {kind} but of {join(owners, 'and')}; allowed: {', '.join(keys)}"
        meant = closest(key, keys) or words.home(key)
        return path, f"is not a field here;{_did_you_mean(meant)} allowed: {', '.join(keys)}"
    if fault in ("union_tag_invalid", "union_tag_not_found"):
        kinds, path = words.kinds(path, data), (*path, "kind")
        kind = look_up(data, path, _MISSING)
        if kind is _MISSING:
            return path, f"is missing; allowed: {join(kinds)}"
        return path, f"is {shown(kind)};{_did_you_mean(closest(str(kind), kinds))} allowed: {join(kinds)}"
    branches = words.at(path, data)
    choices = [str(word) for branch in branches for word in branch.get("enum", [branch["const"]] if "const" in branch else [])]
    meant = closest(value, choices) if isinstance(value, str) else None
    hint = _did_you_mean(meant) or _did_you_mean(_retyped(value, branches, words.kinds(path, data)))
    return path, f"is {shown(value)};{hint} allowed: {words.allowed(branches)}"


def _did_you_mean(word: str | None) -> str:
    return f" did you mean {word}?" if word else ""


def _retyped(value: Any, branches: list[Mapping[str, Any]], kinds: list[str]) -> str | None:
    """What the user may have meant: a kind with its braces, a number without quotes, a list around a single item."""
    if not isinstance(value, str):
        listed = [branch for branch in branches if branch.get("type") == "array"]
        return f"[{shown(value)}]" if listed and isinstance(value, int | float | Mapping) and not isinstance(value, bool) else None
    if kinds:
        return f"{{kind: {closest(value, kinds)}}}" if closest(value, kinds) else None
    types = {branch.get("type") for branch in branches}
    if "boolean" in types and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return "true" if value.lower() in ("yes", "on", "true") else "false"
    try:
        number = float(value)
    except ValueError:
        return None
    return f"{value} without quotes" if types & {"integer", "number"} and math.isfinite(number) else None


def _described(path: FieldPath, data: Any) -> str:
    """A field's line of help, in brackets; empty if it has none."""
    words = _words()
    parents = words.at(path[:-1], data)
    described = (parent.get("properties", {}).get(path[-1], {}).get("description") for parent in parents)
    line = next((text for text in described if text), None)
    return f" ({line})" if line else ""


def _path(loc: tuple[str | int, ...], data: Any, fault: str) -> FieldPath:
    """Pydantic's location as a field path: without the union kinds and type names that pydantic adds."""
    path: FieldPath = ()
    fresh = True  # no kind removed at this mapping yet
    for index, part in enumerate(loc):
        inner = look_up(data, (part,), _MISSING)
        if fresh and isinstance(data, Mapping) and data.get("kind") == part:
            fresh = False
        elif inner is not _MISSING:
            path, data, fresh = (*path, part), inner, True
        elif fault == "missing" and index == len(loc) - 1:
            path = (*path, part)
    return path


def _not_finite(data: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, float]]:
    """Every NaN and infinity, with its path; also in free-form arguments."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    inner = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for part, value in inner:
        yield from _not_finite(value, (*path, part))
