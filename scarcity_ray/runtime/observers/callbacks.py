"""Observers that a user hands to `simulate`: they get copies of what is recorded, and can change nothing of the run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from scarcity_ray.results.results import Results
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun

HOOKS = ("on_round", "on_end")


class Callbacks(Observer):
    """Calls `on_round(row)` after each round, with its row of `rounds`, and `on_end(results)` at the end, where an observer has them.

    A failing observer gives a warning and is not called again: the run goes on without it. Raises TypeError for an object that has
    neither method.
    """

    def __init__(self, observers: Sequence[Any]) -> None:
        for one in observers:
            if not any(callable(getattr(one, hook, None)) for hook in HOOKS):
                raise TypeError(f"the observer {one!r} has neither of the methods on_round(row) and on_end(results)")
        self._observers = list(observers)

    def on_round(self, run: StrategyRun, round: Round) -> None:
        self._call("on_round", lambda: dict(round.row))

    def on_end(self, results: Results) -> None:
        """All is written, and can be read from `results`."""
        self._call("on_end", lambda: results)

    def _call(self, hook: str, argument: Any) -> None:
        for one in list(self._observers):
            method = getattr(one, hook, None)
            if method is None:
                continue
            try:
                method(argument())
            except Exception as error:
                warnings.warn(f"{hook} of the observer {one!r} failed, and it is not called again: {error!r}", RuntimeWarning, stacklevel=2)
                self._observers.remove(one)
