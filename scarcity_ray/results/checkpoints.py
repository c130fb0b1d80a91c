"""Checkpoints: all that a run needs to continue after a round, each a sealed file in the run directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.results.reading import BrokenFile, believing, inside
from scarcity_ray.results.sealed import load_sealed, save_sealed

FOLDER = "checkpoints"

SPACED = 8
"""So many checkpoints of a strategy are kept beside the last two, evenly spaced: `verify` repeats single rounds from them."""

SPACED_BYTES = 64 << 20
"""A larger checkpoint is not kept beside the last two."""

_NAME = re.compile(r"(\d{8})\.(.+)\.seed(\d+)\.round(\d+)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of a round of a strategy under a seed.

    server: the Server's state dict. client_state: each client's state, `[clients, ...]` by rising id. tally: the summary's state dict.
    status: how the strategy ended, and then server and client_state are empty; "" while it is not over.
    """

    strategy: str
    seed: int
    round: int = 0
    server: Mapping[str, Any] = field(default_factory=dict)
    client_state: Mapping[str, Any] = field(default_factory=dict)
    tally: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""

    def to(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        tree = {name: _pack(value, name, tensors) for name, value in vars(self).items()}
        save_sealed(path, tensors, {"checkpoint": tree})

    @classmethod
    def of(cls, path: Path) -> Checkpoint:
        """Reads the file. Raises BrokenFile."""
        tensors, metadata = load_sealed(path)
        with believing(path):
            return cls(**{name: _unpack(value, tensors) for name, value in metadata["checkpoint"].items()})


class Checkpoints:
    """The checkpoints of a run directory, numbered in the order they were written."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER
        self.folder.mkdir(exist_ok=True)
        self._number = max((number for number, *_ in self._found()), default=0)

    def write(self, checkpoint: Checkpoint) -> None:
        """Adds one, and removes what is no longer needed."""
        self._number += 1
        name = f"{self._number:08d}.{checkpoint.strategy}.seed{checkpoint.seed}.round{checkpoint.round}.safetensors"
        checkpoint.to(self.folder / name)
        self._thin()

    def last(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest that can be read (None: there is none), and what is wrong with those after it."""
        broken: list[str] = []
        for *_, path in reversed(self._found()):
            try:
                return Checkpoint.of(path), broken
            except BrokenFile as error:
                broken.append(str(error))
        return None, broken

    def before(self, strategy: str, seed: int) -> dict[int, Path]:
        """Those of a strategy that is not over, by the round that follows each."""
        return {round + 1: path for _, name, of, round, path in self._found() if (name, of) == (strategy, seed)}

    def _found(self) -> list[tuple[int, str, int, int, Path]]:
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            if match := _NAME.fullmatch(inside(self.folder, path.name).name):
                number, strategy, seed, round = match.groups()
                found.append((int(number), strategy, int(seed), int(round), path))
        return found

    def _thin(self) -> None:
        earlier = self._found()[:-2]
        most: dict[tuple[str, int], int] = {}
        for _, strategy, seed, round, _ in earlier:
            most[strategy, seed] = max(round, most.get((strategy, seed), 0))
        for _, strategy, seed, round, path in earlier:
            spacing = 1
            while most[strategy, seed] > SPACED * spacing:
                spacing *= 2
            if round % spacing or path.stat().st_size > SPACED_BYTES:
                path.unlink(missing_ok=True)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a plain value: arrays and tensors go to `tensors` under their path, and numbers keep their bits."""
    if isinstance(value, Tensor | np.ndarray):
        tensors[name] = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.contiguous()
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name}: keys of a checkpoint are strings")
        return {"map": {key: _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{name}: a checkpoint cannot hold a {type(value).__name__}")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind in ("array", "tensor"):
        return tensors[content].numpy() if kind == "array" else tensors[content]
    if kind == "map":
        return {key: _unpack(item, tensors) for key, item in content.items()}
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "float":
        return float.fromhex(content)
    raise ValueError(f"unknown kind {kind!r}")
