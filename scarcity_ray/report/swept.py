"""What a sweep shows: a row a cell, and the gain of each strategy along the first parameter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.report.curves import COLOURS, MARKERS
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import number

_PANELS = 6


def show_sweep(console: Console, answer: Mapping[str, Any], directory: Path) -> None:
    """Prints the table, and where to look. answer: the content of sweep.json."""
    console.print()
    print_table(console, sweep_table(answer))
    note = f"{answer['metric']}, mean over clients; wins: the best, and those that it is not surely better than (Holm's test)"
    console.print(note, style="dim", highlight=False, markup=False)
    look = f"Look at {directory}/sweep.png; each cell is a run in {directory}/cells."
    console.print(look, highlight=False, markup=False, soft_wrap=True)


def sweep_table(answer: Mapping[str, Any]) -> Table:
    """A row a cell: its values, each strategy's metric, and who wins."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    for path in answer["parameters"]:
        table.add_column(path.rsplit(".", 1)[-1], no_wrap=True)
    names = list(answer["cells"][0]["strategies"])
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("wins", overflow="fold")
    for cell in answer["cells"]:
        values = [_plain(cell["setting"][path]) for path in answer["parameters"]]
        numbers = [number(cell["strategies"].get(name, {}).get("value")) for name in names]
        table.add_row(*values, *numbers, ", ".join(cell["wins"]) or "none")
    return table


def draw_sweep(answer: Mapping[str, Any], path: Path) -> None:
    """Draws each strategy's mean gain over the clients alone, with its 95 % interval, along the first parameter; a panel for each
    combination of the others. A filled mark: it wins there, or is not surely worse than who does."""
    first, *others = answer["parameters"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in answer["cells"]:
        groups.setdefault(", ".join(f"{one.rsplit('.', 1)[-1]} {_plain(cell['setting'][one])}" for one in others), []).append(cell)
    shown = list(groups.items())[:_PANELS]
    figure = Figure(figsize=(5.5 * len(shown), 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    names = [name for name in answer["cells"][0]["strategies"] if name not in (ALONE, GUESS)]
    for axes, (title, cells) in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        values = [cell["setting"][first] for cell in cells]
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        x = np.array(values, dtype=float) if plain else np.arange(len(values), dtype=float)
        for place, name in enumerate(names):
            _line(axes, x, cells, name, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        axes.axhline(0.0, color="0.4", lw=1)
        axes.set(title=title, xlabel=first)
        if plain and (x > 0).all() and x.max() / x.min() >= 20:
            axes.set_xscale("log")
        axes.set_xticks(x, [_plain(value) for value in values])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"mean gain in {answer['metric']} over each client alone")
    figure.axes[0].legend(frameon=False, fontsize=9)
    more = f" (the first {_PANELS} of {len(groups)} combinations)" if len(groups) > _PANELS else ""
    figure.suptitle(f"{answer['scenario']}{more}", fontsize=13, x=0.01, ha="left")
    figure.savefig(path)


def _line(axes: Any, x: Any, cells: list[Mapping[str, Any]], name: str, colour: str, marker: str) -> None:
    found = [cell["strategies"].get(name, {}) for cell in cells]
    mean, low, high = (
        np.array([np.nan if one.get(key) is None else one[key] for one in found]) for key in ("gain", "gain_low", "gain_high")
    )
    if not np.isfinite(mean).any():
        return
    axes.plot(x, mean, color=colour, lw=1.5, label=name)
    axes.vlines(x, low, high, color=colour, lw=1)
    wins = np.array([name in cell["wins"] for cell in cells])
    for chosen, face in ((wins, colour), (~wins, "white")):
        axes.plot(x[chosen], mean[chosen], marker=marker, ls="", ms=7, color=colour, markerfacecolor=face)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)
