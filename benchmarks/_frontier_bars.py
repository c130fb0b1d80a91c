"""What the frontier says of sf_hfe on a suite: who is better for as few bytes, and how far is it from the best for ten times as many?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _frontier_runs import Point, higher, less
from _frontier_suites import SUITES

from scarcity_ray.inference.mean_gain import MeanGain

OURS = "sf_hfe"


@dataclass(frozen=True)
class Verdict:
    """Of one suite. better: strategies that are better than sf_hfe within its limit of bytes, each by its own 95 % interval, with how much.
    best: the best point within ten times that. behind: how much sf_hfe is behind it (negative: ahead), with its interval; allowed: what
    that may be."""

    ours: Point
    better: list[tuple[Point, MeanGain]]
    best: Point
    behind: MeanGain
    allowed: float

    @property
    def leads(self) -> bool:
        """Whether nobody is better within its limit of bytes."""
        return not self.better

    @property
    def near(self) -> bool:
        """Whether it is near enough to the best within ten times its limit."""
        return self.behind.mean <= self.allowed

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "better": [
                {"strategy": one.strategy, "level": one.level, "by": by.mean, "low": by.low, "high": by.high} for one, by in self.better
            ],
            "best": self.best.plain(),
            "behind": {"mean": self.behind.mean, "low": self.behind.low, "high": self.behind.high},
            "allowed": self.allowed,
            "leads": self.leads,
            "near": self.near,
        }


def verdict(name: str, every: Sequence[Point]) -> Verdict | None:
    """What the points of a suite say of sf_hfe at the level `equal`; None where it has no point there."""
    ours = next((one for one in every if (one.strategy, one.level) == (OURS, "equal")), None)
    if ours is None:
        return None
    limit = SUITES[name].limit("equal")  # what all were searched with, of which ours may use less
    cheap = [(one, less(name, one, ours)) for one in every if one.strategy != OURS and one.bytes <= limit]
    sign = 1 if higher(name) else -1
    best = max((one for one in every if one.bytes <= 10 * limit), key=lambda one: sign * one.value)
    allowed = 0.01 if higher(name) else 0.01 * best.value
    return Verdict(ours, [(one, by) for one, by in cheap if by.low > 0], best, less(name, best, ours), allowed)
