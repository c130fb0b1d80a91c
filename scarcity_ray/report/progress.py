"""The progress of a run: a live display on a terminal, one output in a notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from scarcity_ray.core.metrics import LOSS, WORST, Shown
from scarcity_ray.report.notebook import Cell
from scarcity_ray.report.units import duration, number, size

LINE_SECONDS = 1.0
"""The least time between two plain lines of a strategy; its first and its last are always printed."""

_TIMED_ROUNDS = 3
"""The time left is estimated from so many rounds on. The first one also has what starts the strategy, and is left out."""


class Progress:
    """Strategy, round, loss, the metric that decides (worst tenth), bytes, client updates a second, time left once it can be estimated.

    Use it in a `with` block; `begin` a strategy, `update` it with each row of `rounds`, `end` it. `show=False` is silent.
    """

    def __init__(self, show: bool, console: Console | None = None) -> None:
        self._console = console or Console()
        self._show = show
        self._bars: Bars | None = None
        self._cell = Cell() if show and self._console.is_jupyter else None
        if show and self._cell is None and self._console.is_terminal:
            whole = Column(no_wrap=True)
            bar = [BarColumn(bar_width=12)] if self._console.width >= 100 else []
            facts = TextColumn("{task.fields[facts]}", table_column=whole.copy())
            self._bars = Bars(
                TextColumn("{task.description}", table_column=whole), *bar, facts, console=self._console, refresh_per_second=5
            )
        self._strategy: _Strategy | None = None

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def begin(self, strategy: str, seed: int, rounds: int, shown: Shown, *, repeats: int = 1, at_most: bool = False) -> None:
        """A strategy starts under a seed; with repeats the seed is shown. shown: the metric that decides. at_most: it ends by itself, and
        may play fewer rounds: no time left is shown."""
        self._strategy = _Strategy(strategy if repeats == 1 else f"{strategy} (seed {seed})", rounds, shown, at_most)
        if self._bars:
            self._strategy.task = self._bars.add_task(
                self._strategy.title, total=None if at_most else rounds, facts=self._strategy.place(short=True)
            )

    def update(self, row: Mapping[str, Any], updates_per_second: float) -> None:
        """A round has ended: its row of `rounds`."""
        now = self._strategy
        if not self._show or now is None:
            return
        now.take(row, updates_per_second)
        if self._bars and now.task is not None:
            self._bars.update(now.task, completed=now.round, facts=now.line(short=True))
        elif self._cell:
            self._cell.show(f"{now.title}  {now.line()}")
        elif now.due():
            self._line(now)

    def end(self, status: str = "finished") -> None:
        """The strategy has ended; a status other than `finished` is shown."""
        now = self._strategy
        if now is not None and self._show:
            if self._bars and now.task is not None:
                self._bars.remove_task(now.task)  # one bar at a time: many repeats would fill the screen
            if now.round and not now.printed:
                self._line(now)
            if status != "finished":
                self.message(f"{now.title}: {status} after round {now.round}")
        self._strategy = None

    def message(self, text: str) -> None:
        """A line of its own, above the live display."""
        if self._cell:
            self._cell.lines.append(text)
            self._cell.show(at_once=True)
        elif self._show:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, now: _Strategy) -> None:
        now.printed, now.printed_at = True, time.monotonic()
        self.message(f"{now.title}  {now.line()}")


class _Strategy:
    """The state of one line: the last known metrics, and whether they were printed."""

    def __init__(self, title: str, rounds: int, shown: Shown, at_most: bool) -> None:
        self.title, self.rounds, self.shown, self.at_most = title, rounds, shown, at_most
        self.task: TaskID | None = None
        self.round, self.bytes, self.updates_per_second = 0, 0, 0.0
        self.evaluated, self.printed = False, False
        self.printed_at = float("-inf")
        self._ends: list[float] = []  # when each round ended, of those that this process has played
        self._metrics: dict[str, float] = {}

    def take(self, row: Mapping[str, Any], updates_per_second: float) -> None:
        self.round, self.updates_per_second = int(row["round"]), updates_per_second
        self._ends.append(time.monotonic())
        self.bytes += int(row["uplink_bytes"]) + int(row["downlink_bytes"])
        self._metrics |= {name: value for name, value in row.items() if isinstance(value, float) and value == value}
        self.evaluated, self.printed = row.get(LOSS.column) is not None, False

    def due(self) -> bool:
        """Whether a plain line is due: for the first round, the last, and evaluated ones not too close to each other."""
        first_or_last = self.printed_at == float("-inf") or self.round == self.rounds
        return first_or_last or (self.evaluated and time.monotonic() - self.printed_at >= LINE_SECONDS)

    def line(self, *, short: bool = False) -> str:
        """Round and numbers in words; short for the live display, which may have 80 columns."""
        facts = [self.place(short=short)]
        loss = next((name for name in (LOSS.column, "train_loss") if name in self._metrics), None)
        if loss is not None:
            facts.append(f"{'loss' if loss == LOSS.column else 'train loss'} {number(self._metrics[loss])}")
        column = self.shown.metric.column
        if column in self._metrics and (column != LOSS.column or self.shown.root):
            value, tail = (number(float(self.shown.shape(self._metrics.get(name, np.nan)))) for name in (column, f"{column}{WORST}"))
            facts.append(f"{self.shown.short} {value} ({'' if short else 'worst tenth '}{tail})")
        facts.append(size(self.bytes))
        facts.append(f"{self.updates_per_second:,.0f}{'/s' if short else ' updates/s'}")
        if len(self._ends) >= _TIMED_ROUNDS and self.round < self.rounds and not self.at_most:
            rest = duration((self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) * (self.rounds - self.round))
            facts.append(f"~{rest}" if short else f"{rest} left")
        return "  ".join(facts)

    def place(self, *, short: bool) -> str:
        """The round, and how many there are: `round 3/60`, `round 1 of at most 60`."""
        return f"{'' if short else 'round '}{self.round}{' of at most ' if self.at_most else '/'}{self.rounds}"
