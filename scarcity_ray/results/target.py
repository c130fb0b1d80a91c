"""What a strategy needs to reach a target: rounds, simulated hours, bytes and joules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scarcity_ray.core.metrics import headline

STAYS = 3
"""Evaluations in a row that have to reach a target: one may do so by luck."""


@dataclass(frozen=True)
class Target:
    """A value of a metric (a word of `evaluation.metric`, for a task), as its mean over clients is shown."""

    task: str
    metric: str
    value: float

    @property
    def column(self) -> str:
        """The metric's column of `rounds`."""
        return headline(self.task, self.metric).metric.column

    def needed(self, points: Sequence[Mapping[str, Any]], clients: int, settles: bool = False) -> dict[str, float | None]:
        """What it took until the first of STAYS evaluations in a row that reach the target; None where there are none, and for what the
        run did not count.

        points: of each evaluated round its `round`, `value` (the metric's), and the sums so far of all clients: `bytes`, `joules`, and the
        `clock_seconds`. bytes and joules returned are a client's. settles: the strategy ends when nothing more is learned, so that its last
        evaluation holds for all that would follow.
        """
        shown = headline(self.task, self.metric)
        higher = shown.metric.higher_is_better
        values = shown.shape([point["value"] for point in points]) if points else ()
        good = [bool(value >= self.value if higher else value <= self.value) for value in values]
        good += good[-1:] * (STAYS - 1) * settles
        for place in range(len(good) - STAYS + 1):
            if all(good[place : place + STAYS]):
                found = points[place]
                seconds, joules = found["clock_seconds"], found["joules"]
                return {
                    "rounds": found["round"],
                    "hours": None if seconds is None else seconds / 3600,
                    "bytes": found["bytes"] / max(clients, 1),
                    "joules": None if joules is None else joules / max(clients, 1),
                }
        return dict.fromkeys(("rounds", "hours", "bytes", "joules"))
