"""The space that is searched: a setting is a value for each parameter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from scarcity_ray.core.randomness import stream
from scarcity_ray.scenario.tuning import Choice, Range, Value

Setting = dict[str, Value]
Space = Mapping[str, Choice]


def grid(space: Space, points: int) -> list[Setting]:
    """Every combination, the last parameter changing fastest."""
    values = [_spaced(choice, points) if isinstance(choice, Range) else list(choice) for choice in space.values()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def drawn(space: Space, seed: int, strategy: str, trial: int) -> Setting:
    """The setting of a trial, drawn for itself: it depends neither on how many came before, nor on the order of the parameters."""
    return {name: _at(choice, float(stream(seed, f"tune {strategy} {name}", trial).random())) for name, choice in space.items()}


def edges(space: Space, setting: Setting) -> list[str]:
    """The parameters whose value is a bound of its range, or lies within a twentieth of it: beyond it may be better."""
    found = []
    for name, choice in space.items():
        value = setting[name]
        if isinstance(choice, Range):
            place = _place(choice, float(value))  # type: ignore[arg-type]
            side = "low" if place <= 0.05 else "high" if place >= 0.95 else ""
        else:
            numbers = [one for one in choice if isinstance(one, int | float) and not isinstance(one, bool)]
            ordered = len(numbers) == len(choice) > 1
            side = "" if not ordered else "low" if value == min(numbers) else "high" if value == max(numbers) else ""
        if side:
            found.append(f"{name} {side}")
    return found


def _at(choice: Choice, u: float) -> Value:
    """The value at a place from 0 to 1."""
    if not isinstance(choice, Range):
        return choice[min(int(u * len(choice)), len(choice) - 1)]
    half = 0.5 if choice.integer else 0.0  # a whole number stands for what is rounded to it, at the bounds too
    low, high = (math.log(bound) if choice.log else bound for bound in (choice.low - half, choice.high + half))
    value = math.exp(low + u * (high - low)) if choice.log else low + u * (high - low)
    return int(min(max(math.floor(value + half), choice.low), choice.high)) if choice.integer else min(max(value, choice.low), choice.high)


def _place(choice: Range, value: float) -> float:
    low, high, at = (math.log(one) if choice.log else one for one in (choice.low, choice.high, value))
    return (at - low) / (high - low)


def _spaced(choice: Range, points: int) -> list[Value]:
    return list(dict.fromkeys(_at(choice, float(u)) for u in np.linspace(0, 1, points)))
