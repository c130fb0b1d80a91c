"""Plain data to a scenario, or to everything that is wrong with it."""

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
    """The scenario of plain data, or None and every problem found, each at its place."""
    if not isinstance(data, Mapping):
        found = "it is empty" if data is None else f"it is {shown(data)}"
        return None, [
            Diagnostic((), f"a scenario is a mapping of fields, and {found}; a first line may be `name: my_scenario`", places.get(()))
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
    """A SpecError as a problem of the file that the setting was written in."""
    written = look_up(data, error.field, _MISSING) is not _MISSING
    value = f"is {shown(error.value)}: " if written or error.value is not None else "is not given: "
    return Diagnostic(error.field, value + error.message, nearest(places, error.field))


@functools.cache
def _words() -> Words:
    return Words(json_schema())


def _validate(data: Mapping[str, Any]) -> tuple[Scenario | None, list[_Fault]]:
    """The scenario, or pydantic's errors with the fields they are about.

    A model compares its fields with each other only once each is right in itself. So that both are told at once,
    wrong fields are left out and what is left is compared.
    """
    try:
        # As JSON, in which a list is good for a tuple even to strict models.
        return Scenario.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        faults = [(_path(fault["loc"], data, fault["type"]), fault) for fault in error.errors(include_url=False)]
    mended = json.loads(json.dumps(data))
    for path, fault in faults:
        parent = look_up(mended, path[:-1])
        if path and isinstance(parent, dict) and "error" not in fault.get("ctx", {}):
            parent.pop(path[-1], None)
    try:
        Scenario.model_validate_json(json.dumps(mended))
    except ValidationError as error:
        later = [(_path(fault["loc"], mended, fault["type"]), fault) for fault in error.errors(include_url=False)]
        known = {path for path, fault in faults}
        faults += [(path, fault) for path, fault in later if "error" in fault.get("ctx", {}) and path not in known]
    return None, faults


def _explain(faults: list[_Fault], data: Any, places: Places) -> Iterator[Diagnostic]:
    for path, fault in faults:
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, SpecErrors):
            continue  # the conflicts, which `check` reports whether or not the rest is right
        if cause is None and any(other[: len(path)] == path and len(other) > len(path) for other, _ in faults):
            continue  # of an alternative (a number, say) that the value, a mapping with faults of its own, was not meant for
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
    """The value as it may have been meant: a kind without its braces, a number in quotes, one thing in place of a list."""
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
    """A field's line of help."""
    words = _words()
    parents = words.at(path[:-1], data)
    described = (parent.get("properties", {}).get(path[-1], {}).get("description") for parent in parents)
    line = next((text for text in described if text), None)
    return f" ({line})" if line else ""


def _path(loc: tuple[str | int, ...], data: Any, fault: str) -> FieldPath:
    """Pydantic's location without what it adds: the kind it chose in a union, the name of a type."""
    path: FieldPath = ()
    fresh = True  # no kind taken off at this mapping yet
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
    """NaN and infinity anywhere, in free-form arguments too."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    inner = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for part, value in inner:
        yield from _not_finite(value, (*path, part))
