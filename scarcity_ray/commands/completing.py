"""What a shell offers after TAB: run directories, scenarios, and the names that a run has. It reads names of files and JSON, no more, as
people wait for it; nothing is offered where nothing can be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from scarcity_ray.results.reading import MOST_TEXT, RunError, read_json
from scarcity_ray.results.run_names import run_names

_DEEPEST = 3
"""Folders below the typed one in which runs are looked for."""

_MOST = 5_000
"""Files and folders that are looked at, of a large tree."""


def run_dirs(incomplete: str) -> list[str]:
    """The directories of runs whose path begins as typed. What is in a run's own folder is offered once that is typed with its slash."""
    return sorted(path for path, entry in _below(incomplete) if _is_run(entry.path))


def scenarios(incomplete: str) -> list[str]:
    """Scenarios whose path begins as typed, the folders there, and the scenarios in these."""
    found = []
    for path, entry in _below(incomplete):
        if entry.is_dir() and "/" not in path[len(incomplete) :]:
            found.append(f"{path}/")
        elif path.endswith((".yaml", ".yml")) and path[len(incomplete) :].count("/") < 2:
            found.append(path)
    return sorted(found)


def strategies(context: typer.Context, incomplete: str) -> list[str]:
    """The strategies of RUN_DIR that can be compared with each client alone."""
    return _beginning([name for name in _summary(context).get("strategies", {}) if name != "alone"], incomplete)


def references(context: typer.Context, incomplete: str) -> list[str]:
    """The strategies of the runs of a comparison, as RUN/STRATEGY."""
    directories = _typed(context)
    try:
        found = {name: read_json(run / "summary.json")["strategies"] for name, run in zip(run_names(directories), directories, strict=True)}
    except (RunError, KeyError):
        return []
    return _beginning([f"{name}/{one}" for name, entries in found.items() for one in entries if one not in ("alone", "guess")], incomplete)


def models(context: typer.Context, incomplete: str) -> list[str]:
    """The saved models of RUN_DIR."""
    return _beginning([path.stem for path in _models(context)], incomplete)


def clients(context: typer.Context, incomplete: str) -> list[str]:
    """The clients of RUN_DIR, by the names that a saved model has of them, or else by id."""
    names: list[str] | None = None
    for path in islice(_models(context), 1):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MOST_TEXT)))
            names = json.loads(header["__metadata__"]["encoding"])["clients"]
        except (OSError, ValueError, LookupError, TypeError, MemoryError, RecursionError):
            return []
    known = names if names is not None else [str(one) for one in range(_summary(context).get("clients", 0))]
    return _beginning(known, incomplete)


def _summary(context: typer.Context) -> dict[str, Any]:
    """Of RUN_DIR; empty where it is not typed yet or cannot be read."""
    try:
        return read_json(_typed(context)[0] / "summary.json")
    except (RunError, IndexError):
        return {}


def _models(context: typer.Context) -> list[Path]:
    return [path for run in _typed(context)[:1] for path in sorted((run / "models").glob("*.safetensors"))]


def _typed(context: typer.Context) -> list[Path]:
    """The arguments before the option that is completed. As it has no value yet, the parser has not given them their names."""
    return [Path(os.path.expanduser(one)) for one in context.args]


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _is_run(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "scenario.yaml"))


def _below(incomplete: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What lies below a typed path, nearest first, each as it would be typed. Hidden files, and what is in runs, are passed over."""
    head, _, start = incomplete.rpartition("/")
    waiting, seen = [(f"{head}/" if "/" in incomplete else "", 0)], 0
    for folder, depth in waiting:  # the loop appends to it
        try:
            entries = sorted(os.scandir(os.path.expanduser(folder or ".")), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(".") or (depth == 0 and not entry.name.startswith(start)):
                continue
            seen += 1
            yield f"{folder}{entry.name}", entry
            if depth + 1 < _DEEPEST and entry.is_dir() and not _is_run(entry.path):
                waiting.append((f"{folder}{entry.name}/", depth + 1))
        if seen > _MOST:
            return
