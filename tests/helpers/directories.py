"""A run's directory that others may have had in their hands, and what is done with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from scarcity_ray import Results
from scarcity_ray.results.client_report import client_report
from scarcity_ray.results.reading import RunError
from scarcity_ray.results.sealed import load_sealed, save_sealed
from scarcity_ray.serving import predict, unlearn

MODEL = "models/sf_hfe.safetensors"
FILES = ("scenario.yaml", "environment.json", "summary.json", "rounds.parquet", "clients.parquet", "insights.parquet", MODEL)
ROWS = pa.table({f"x{place}": [0.0, 0.5] for place in range(64)})


def file_of(run: Path, name: str) -> Path:
    return run / name / "part-00000000.parquet" if name.endswith(".parquet") else run / name


def content(folder: Path) -> dict[str, str]:
    """What lies in a folder: links by where they lead, files by their hash (the first MiB is enough here)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            with path.open("rb") as file:
                found[str(path)] = hashlib.sha256(file.read(2**20)).hexdigest()
    return found


ACTS: dict[str, Callable[[Results], Any]] = {
    "scenario": lambda run: run.scenario,
    "environment": lambda run: run.environment,
    "summary": lambda run: run.summary,
    "rounds": lambda run: run.rounds.to_pylist(),
    "clients": lambda run: run.clients.to_pylist(),
    "insights": lambda run: run.insights.to_pylist(),
    "fed_avg": lambda run: run.model("fed_avg"),
    "client's model": lambda run: run.model("sf_hfe", client=3),
    "predict": lambda run: predict(run, ROWS),
    "predict for a client": lambda run: predict(run, ROWS, model="sf_hfe", client=3),
    "client report": client_report,
    "unlearn": lambda run: unlearn(run, 3),
}

OF_FILE = dict(zip(FILES, (*ACTS,), strict=False)) | {MODEL: "predict"}
"""Who reads a file."""

READS = tuple(name for name in ACTS if name != "unlearn")


def refused(run: Path, acts: tuple[str, ...] = READS) -> dict[str, str]:
    """What each act is refused with. Anything but a RunError fails the test; what is refused leaves everything as it was."""
    found, before = {}, content(run.parent)
    for name in acts:
        try:
            ACTS[name](Results.load(run))
        except RunError as error:
            found[name] = str(error)
        after = content(run.parent)
        if name == "unlearn" and name not in found:  # the only one that may write, and to the run alone
            assert {path: told for path, told in after.items() if not path.startswith(f"{run}/")}.items() <= before.items()
        else:
            assert after == before, f"{name} has changed files"
    for name, said in found.items():
        assert str(run) in said, f"{name}: it names no file: {said}"
        assert len(said) < 1200, f"{name}: a wall of text"
    return found


def forge(run: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], model: str = MODEL) -> None:
    """Alters a model and seals it again, as a person who can write the file could."""
    tensors, metadata = load_sealed(run / model)
    change(tensors, metadata)
    save_sealed(run / model, tensors, metadata)


def told(**values: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    """Sets parts of the metadata, `a__b` for b in a."""

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
        for path, value in values.items():
            *parents, last = path.split("__")
            inner = metadata
            for name in parents:
                inner = inner[name]
            inner[last] = value

    return change
