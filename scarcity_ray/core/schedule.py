"""Participation as a plan: who takes part in a round, with how many steps, from which model, and who is lost.

The server makes the plan before any work, as a pure function of (seed, round, what it holds). Actors then compute what the plan says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.registry import Part, Registry

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class RoundPlan:
    """What a round is to be. Arrays are `[n]`, a value for each client that takes part, by rising id.

    ids: int64. steps: int64, local steps. lost: bool, whose work is done but does not arrive: the download is counted, and the
    client keeps nothing of the round. staleness: int64, the age of the model that a client starts from, in rounds; 0 is the newest.
    time_us: when the round ends on a simulated clock, int64 microseconds; None without one. wasted_up: int64, bytes that lost clients sent
    in vain; None: none. counted: bool, clients whose messages an earlier round has counted; None: none. more: whether clients that were
    not heard may send the same message in a later round.
    """

    ids: Ids
    steps: Ids
    lost: NDArray[np.bool_]
    staleness: Ids
    time_us: int | None = None
    wasted_up: Ids | None = None
    counted: NDArray[np.bool_] | None = None
    more: bool = False

    @classmethod
    def of(cls, ids: Ids, steps: Ids) -> RoundPlan:
        """A round in which everybody starts from the newest model and is heard."""
        return cls(ids, steps, np.zeros(len(ids), dtype=np.bool_), np.zeros(len(ids), dtype=np.int64))


@dataclass(frozen=True)
class RoundInput:
    """What a schedule may know before a round.

    seed: of the run. round: from 1. clients: int64 `[n]`, the ids to choose from, rising. samples, steps: int64 `[clients]` by id,
    training rows and the local steps that the strategy plans. count: how many the strategy samples. oldest: the age of the oldest
    model that the server holds, in rounds.
    """

    seed: int
    round: int
    clients: Ids
    samples: Ids
    steps: Ids
    count: int
    oldest: int = 0


class Schedule(Part):
    """A rule that plans rounds. It holds settings alone: whatever it draws, it draws by a hash of (seed, purpose, client, round)."""

    @property
    def max_staleness(self) -> int:
        """The age of the oldest model that it may start a client from, in rounds: so many versions are kept."""
        return 0

    def next(self, before: RoundInput) -> RoundPlan:
        """The plan of a round."""
        raise NotImplementedError


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)
