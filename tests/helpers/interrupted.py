"""Runs that are interrupted after a round, as by Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scarcity_ray.runtime.observers.plots import Plots
from scarcity_ray.runtime.simulation import Interrupted


def interrupt_after(monkeypatch: pytest.MonkeyPatch, number: int, *plays: Callable[[], Any]) -> None:
    """Interrupts each of these runs after the round of that number of the next strategy."""

    def interrupt(_: Plots, run: Any, round: Any) -> None:
        if round.number == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Plots, "on_round", interrupt)  # the last observer: the others have seen the round
        for play in plays:
            with pytest.raises(Interrupted):
                play()
