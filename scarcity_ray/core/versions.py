"""Versions: the states of several rounds, where clients that work together started at different times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scarcity_ray.core.exchange import ServerState, State
from scarcity_ray.core.schedule import RoundPlan


@dataclass(frozen=True)
class Versions(ServerState):
    """States of several rounds in one, for clients that start from different ones: broadcast has a row for each, `[versions, ...]`.

    ids: int64 `[n]`, clients by rising id. version: int64 `[n]`, the row that each of them starts from.
    """

    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    version: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, states: Sequence[ServerState], ids: NDArray[np.int64], version: NDArray[np.int64]) -> Versions:
        """What these states broadcast, for clients `[n]` by rising id. version: a place in `states` for each."""
        return cls(
            {name: torch.stack([state.broadcast[name] for state in states]) for name in states[0].broadcast}, ids=ids, version=version
        )

    def received(self, ids: NDArray[np.int64]) -> State:
        """What clients `[k]` get: each its own version of every value, `[k, ...]`."""
        rows = torch.from_numpy(self.version[np.searchsorted(self.ids, ids)])
        return {name: value[rows] for name, value in self.broadcast.items()}

    def __reduce__(self) -> Any:
        return _versions_of, ({name: value.numpy() for name, value in self.broadcast.items()}, self.ids, self.version)


def _versions_of(broadcast: Mapping[str, Any], ids: NDArray[np.int64], version: NDArray[np.int64]) -> Versions:
    return Versions({name: torch.as_tensor(value) for name, value in broadcast.items()}, ids=ids, version=version)


def starts(plan: RoundPlan, states: Sequence[ServerState], together: bool) -> Iterator[tuple[ServerState, NDArray[np.bool_]]]:
    """States, and which clients of a plan start from each, `[n]`. states: newest first; who started before the last starts from it.

    together: one state for all, in which each client finds its own version. Training costs by the longest of the clients that work
    together, so that a state for each age would take several times as long.
    """
    heard = ~plan.lost
    place = np.minimum(plan.staleness, len(states) - 1)
    places = np.unique(place[heard])
    if together and len(places) > 1:
        chosen = [states[one] for one in places.tolist()]
        yield Versions.of(chosen, plan.ids[heard], np.searchsorted(places, place[heard])), heard
        return
    for one in places.tolist():
        yield states[one], heard & (place == one)
