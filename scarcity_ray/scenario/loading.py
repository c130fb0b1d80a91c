"""Reads a scenario file into a checked scenario with the place of each field, and writes a scenario as YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.arrays import Arrays, Held, taken_out
from scarcity_ray.scenario import plain_yaml
from scarcity_ray.scenario.checking import at_its_place, check
from scarcity_ray.scenario.diagnostics import Diagnostic, FieldPath, Place, Places, ScenarioError, SpecErrors, look_up
from scarcity_ray.scenario.overrides import override
from scarcity_ray.scenario.plain_yaml import Document
from scarcity_ray.scenario.schema import Scenario


@dataclass(frozen=True)
class Loaded:
    """A scenario and its file. data: the file's plain data with the overrides; places: where each field was written."""

    scenario: Scenario
    path: Path
    data: Mapping[str, Any]
    places: Places

    @property
    def base_dir(self) -> Path:
        """Where relative paths in the scenario start: the file's folder."""
        return self.path.parent

    def explain(self, error: SpecError | SpecErrors) -> ScenarioError:
        """An error that was found after loading (in the data or the model), as a ScenarioError with the lines of this file."""
        errors = error.errors if isinstance(error, SpecErrors) else (error,)
        return ScenarioError([at_its_place(each, self.data, self.places) for each in errors], self.path.name)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads and checks a scenario file. overrides: `section.field=value` each, as for `--set`.

    Raises ScenarioError with all problems at once.
    """
    path = Path(path)
    return _checked(_read(path), path, overrides)


def read(text: str, name: str, overrides: Sequence[str] = ()) -> Loaded:
    """Reads and checks a scenario that is no file's; relative paths in it start in the working directory. Raises ScenarioError."""
    return _checked(plain_yaml.read(text, name), Path(Path(name).name), overrides)


def _checked(document: Document, path: Path, overrides: Sequence[str]) -> Loaded:
    if document.data is None and document.problems:  # no file, or not YAML: there is nothing to check
        raise ScenarioError(document.problems, path.name)
    override(document, overrides)
    scenario, found = check(document.data, document.places)
    unread = {problem.path for problem in document.problems if problem.path and look_up(document.data, problem.path) is None}
    problems = document.problems + [problem for problem in found if problem.path not in unread]
    if problems or scenario is None:
        raise ScenarioError(problems, path.name)
    return Loaded(scenario, path, document.data, document.places)


def parse(data: Mapping[str, Any]) -> Scenario:
    """The scenario that plain data describe (dicts, lists, numbers, text, as in a file, and arrays in a source of kind arrays).

    Raises ScenarioError.
    """
    try:
        rest, held = taken_out(data)
        scenario, problems = check(_plain(rest), {})
        if scenario is None:
            raise ScenarioError(problems)
        return scenario if held is None else with_arrays(scenario, held)
    except SpecError as error:
        raise ScenarioError([at_its_place(error, {}, {})]) from error


def with_arrays(scenario: Scenario, held: Held) -> Scenario:
    """The scenario whose source is of kind arrays, with its arrays. Raises SpecError where they are not those of its digest."""
    source = scenario.data.source
    if not isinstance(source, Arrays):
        raise SpecError(("data", "source", "kind"), source.kind, "arrays are handed over, and only `kind: arrays` takes them")
    return scenario.model_copy(update={"data": scenario.data.model_copy(update={"source": source.holding(held)})})


def resolved(scenario: Scenario) -> str:
    """The scenario as YAML with every default written out; `load` turns it back into an equal scenario."""
    return plain_yaml.write(_kind_first(scenario.model_dump(mode="json")))


def _read(path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        names = f"; {path.parent} holds {', '.join(file.name for file in near[:12])}" if near else ""
        return _unreadable(path, f"there is no such file{names}")
    except UnicodeDecodeError as error:
        return _unreadable(path, f"not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}")
    except OSError as error:
        return _unreadable(path, f"cannot be read: {error.strerror}")
    return plain_yaml.read(text, str(path))


def _unreadable(path: Path, message: str) -> Document:
    return Document(problems=[Diagnostic((), message, Place(str(path)))])


def _plain(value: Any, path: FieldPath = ()) -> Any:
    """The same data of dicts, lists, numbers and text alone: NumPy's numbers, tuples and paths are written so. Raises SpecError."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part, (*path, str(name))) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part, (*path, place)) for place, part in enumerate(value)]
    if isinstance(value, np.generic | Path):
        return value.item() if isinstance(value, np.generic) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SpecError(path, type(value).__name__, "allowed in a scenario: dicts, lists, numbers, text, booleans and None")


def _kind_first(data: Any) -> Any:
    """The same data, with `kind` and `name` first in every mapping."""
    if isinstance(data, list):
        return [_kind_first(item) for item in data]
    if not isinstance(data, dict):
        return data
    first = [key for key in ("kind", "name") if key in data]
    return {key: _kind_first(data[key]) for key in [*first, *(key for key in data if key not in first)]}
