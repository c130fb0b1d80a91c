"""What the frontier says of sf_hfe on a suite: who is better for as few bytes, and how far is it from the best for ten times as many?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _frontier_runs import Point, higher, less, played_at
from _frontier_suites import SUITES

from scarcity_ray.inference.mean_gain import MeanGain

OURS = "sf_hfe"


@dataclass(frozen=True)
class Verdict:
    """Of one suite. limit: of bytes, at the level `equal`. better: strategies that are better than sf_hfe within it, each by its own 95 %
    interval, with how much. rival: the best other within it. best: the best point within ten times that. Each of the two has how much
    better it is than sf_hfe (negative: worse), with its interval. allowed: how much better the best may be."""

    ours: Point
    limit: int
    better: list[tuple[Point, MeanGain]]
    rival: tuple[Point, MeanGain]
    best: tuple[Point, MeanGain]
    allowed: float

    @property
    def leads(self) -> bool:
        """Whether it keeps to its limit of bytes, and nobody is better within it."""
        return self.ours.bytes <= self.limit and not self.better

    @property
    def near(self) -> bool:
        """Whether it is near enough to the best within ten times its limit."""
        return self.best[1].mean <= self.allowed + 1e-9  # a difference of means of shares, rounded in its last bits

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "limit": self.limit,
            "better": [_plain(*one) for one in self.better],
            "rival": _plain(*self.rival),
            "best": _plain(*self.best),
            "allowed": self.allowed,
            "leads": self.leads,
            "near": self.near,
        }


def verdict(name: str, every: Sequence[Point]) -> Verdict | None:
    """What the points of a suite say of sf_hfe at the level `equal`; None where it has no point there.

    Others count there if they were searched for as many bytes or fewer, even if they take more on fresh seeds, or if they take no more.
    """
    ours = next((one for one in every if (one.strategy, one.level) == (OURS, "equal")), None)
    if ours is None:
        return None
    limit, sign = SUITES[name].limit("equal"), 1 if higher(name) else -1
    counted = [one for one in every if one.strategy != OURS and (one.level != "tenfold" or one.bytes <= limit)]
    others = [one for one in counted if played_at(name, one.strategy, one.level) == one.level]  # a setting of several levels counts once
    cheap = [(one, less(name, one, ours)) for one in others]
    rival = max(cheap, key=lambda one: sign * one[0].value)
    best = max(every, key=lambda one: sign * one.value)
    allowed = 0.01 if higher(name) else 0.01 * best.value
    return Verdict(ours, limit, [(one, by) for one, by in cheap if by.low > 0], rival, (best, less(name, best, ours)), allowed)


def _plain(point: Point, by: MeanGain) -> dict[str, Any]:
    return {**point.plain(), "better_by": by.mean, "low": by.low, "high": by.high}
