"""Problems of a scenario: each with its place, and all of them as one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scarcity_ray.core.spec import SpecError

FieldPath = tuple[str | int, ...]
"""A field's path from the scenario's root: ("strategies", 1, "fraction")."""


def dotted(path: FieldPath) -> str:
    """The path as a user writes it: `strategies.1.fraction`."""
    return ".".join(str(part) for part in path)


def look_up(data: Any, path: FieldPath, default: Any = None) -> Any:
    """The value at a path of plain data, or `default` where there is none."""
    for part in path:
        inner = data if isinstance(data, Mapping) else dict(enumerate(data)) if isinstance(data, list) else {}
        if part not in inner:
            return default
        data = inner[part]
    return data


@dataclass(frozen=True)
class Place:
    """Where a value was written: a position in a file (from 1), or an option of the command line."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


Places = Mapping[FieldPath, Place]
"""The place of every field of a scenario; the root's is at the empty path."""


def nearest(places: Places, path: FieldPath) -> Place | None:
    """The place of a field, or of the closest parent that was written."""
    return next((places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in places), None)


@dataclass(frozen=True)
class Diagnostic:
    """One problem. The message continues after the field's name: "is 2.5; allowed: an integer of at least 1"."""

    path: FieldPath
    message: str
    place: Place | None = None

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{dotted(self.path)} {self.message}" if self.path else f"{where}{self.message}"


class ScenarioError(ValueError):
    """A scenario that cannot run. `problems` holds all that was found; `str()` is the report, one problem per line."""

    def __init__(self, problems: Sequence[Diagnostic], name: str = "scenario") -> None:
        super().__init__(problems, name)
        self.problems = tuple(sorted(problems, key=lambda p: (p.place.line or 0, p.place.column or 0) if p.place else (0, 0)))
        self.name = name

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"{self.name} cannot run: {count}", *(f"  {problem}" for problem in self.problems)])


class SpecErrors(ValueError):
    """Several SpecErrors at once."""

    def __init__(self, errors: Iterable[SpecError]) -> None:
        self.errors = tuple(errors)
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)
