"""Selection: which of the clients that are there take part in a round, by what the server knows of them.

The server selects before any work, as a pure function of (seed, round, what it holds). Costs are those that it expects: what a link
or a device does in this very round it cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.registry import Part, Registry
from scarcity_ray.core.schedule import Ids, RoundInput
from scarcity_ray.core.spec import SpecError

Floats = NDArray[np.float64]
State = Mapping[str, NDArray[np.float64]]
"""What a selection has learned: by name, arrays `[clients]`, or `[n]` of earlier rounds."""


@dataclass(frozen=True)
class Costs:
    """What a turn is expected to cost clients `[n]`: seconds and joules of its messages, and of each local step beside.

    joules_left: what its battery and its budget still hold, infinite without a limit.
    """

    seconds: Floats
    step_seconds: Floats
    joules: Floats
    step_joules: Floats
    joules_left: Floats

    @classmethod
    def free(cls, n: int) -> Costs:
        """Of n clients to whom nothing is scarce."""
        nothing = np.zeros(n)
        return cls(nothing, nothing, nothing, nothing, np.full(n, np.inf))


@dataclass(frozen=True)
class Candidates:
    """Clients that may be selected, arrays `[n]` by rising id.

    count: how many of them are wanted, fewer than n. rows: training rows. weights: what each counts in an average. steps: local steps that
    the strategy plans. costs: of their turns.
    """

    seed: int
    round: int
    ids: Ids
    count: int
    rows: Ids
    weights: Floats
    steps: Ids
    costs: Costs

    @property
    def seconds(self) -> Floats:
        """Expected seconds of each turn."""
        return self.costs.seconds + self.steps * self.costs.step_seconds

    @property
    def joules(self) -> Floats:
        """Expected joules of each turn."""
        return self.costs.joules + self.steps * self.costs.step_joules

    def only(self, places: NDArray[np.int64]) -> Candidates:
        """The candidates at some places."""
        costs = Costs(*(part[places] for part in vars(self.costs).values()))
        parts = {name: getattr(self, name)[places] for name in ("ids", "rows", "weights", "steps")}
        return replace(self, costs=costs, **parts)

    def best(self, *scores: Floats, count: int | None = None) -> NDArray[np.int64]:
        """The places of the `count` candidates (those wanted, if left out) with the highest scores, `[count]`; ties go by the next
        score, then by the round's hash of the ids."""
        ties = hash64(self.seed, "cohort", self.ids, self.round)
        order = np.lexsort((ties, *(-score for score in reversed(scores))))
        chosen: NDArray[np.int64] = order[: self.count if count is None else count]
        return chosen


@dataclass(frozen=True)
class Heard:
    """What the server learns of a round from the clients that it heard, `[n]` by rising id.

    loss: mean training loss, NaN without steps and where what was said is not finite. loss_norm: root of the mean squared loss of single
    rows. insights: theirs, by client id, where they are sent.
    """

    round: int
    ids: Ids
    rows: Ids
    loss: Floats
    loss_norm: Floats
    insights: pa.RecordBatch | None = None


Select = Callable[[RoundInput, Costs], RoundInput]
"""Narrows a round to the clients selected, with their steps, by what turns of its clients are expected to cost."""


class Selection(Part):
    """A rule that selects clients. It holds settings alone; what it has learned is a State that the server keeps."""

    needs: ClassVar[str] = ""
    """What has to be scarce for it: time, energy, or nothing."""

    learns: ClassVar[str] = ""
    """What clients send for it: loss (4 bytes), insights (52 bytes), or nothing."""

    def refused(self, count: int) -> SpecError | None:
        """What of its settings cannot work where a round wants so many clients."""
        return None

    def start(self, clients: int) -> State:
        """What is known of so many clients before round 1."""
        return {}

    def learned(self, state: State, heard: Heard) -> State:
        """What is known after a round."""
        return state

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """The places of the selected among the candidates, `[count]` in any order, and the local steps of each."""
        raise NotImplementedError


SELECTIONS: Registry[Selection] = Registry("selection", Selection)
