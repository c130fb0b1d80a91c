"""Successive halving: how many rounds each rung has, and which trials reach the next one."""

from __future__ import annotations

from collections.abc import Sequence

from scarcity_ray.scenario.tuning import Halving


def rungs(halving: Halving | None, rounds: int) -> list[int]:
    """The rounds of each rung; the last one has all."""
    if halving is None:
        return [rounds]
    found = [min(halving.first_rounds, rounds)]
    while found[-1] < rounds:
        found.append(min(found[-1] * halving.eta, rounds))
    return found


def promoted(scores: Sequence[float | None], eta: int) -> list[int]:
    """The places of the best 1 / eta, rounded up, the best first: of equal ones the first. None is never promoted."""
    ranked = sorted((place for place, score in enumerate(scores) if score is not None), key=lambda place: (-scores[place], place))  # type: ignore[operator]
    return ranked[: -(-len(scores) // eta)]
