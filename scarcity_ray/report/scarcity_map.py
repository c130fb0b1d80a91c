"""scarcity.png: what each scarcity costs each strategy, alone and beside the others, as two heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scarcity_ray.core.metrics import Shown
from scarcity_ray.report.scarcity_in_words import amount, in_words, shown_of, unit
from scarcity_ray.scenario.what_if import ALL, all_but, only

_DARK = 0.68  # share of the scale from which numbers are white


def draw_scarcity(found: Mapping[str, Any], path: Path) -> None:
    """Draws the content of scarcity.json into a PNG at `path`: a row a strategy, a column a scarcity, and all of them together.

    Greys, so that it can be printed; the numbers say all that the shades do, and surely above or below 0 is bold.
    """
    shown, parts, strategies = shown_of(found), found["scarcities"], list(found["costs"])
    several = len(parts) > 1
    upper, lower = (
        [[costs[quantity][part] for part in parts] + ([costs[last]] if several else []) for costs in found["costs"].values()]
        for quantity, last in (("alone", "together"), ("beside_the_others", "interaction"))
    )
    most = max([cost["mean"] or 0.0 for row in (*upper, *lower) for cost in row] + [1e-9])
    figure = Figure(figsize=(2.2 + 1.45 * max(len(upper[0]), 4), 2.6 + 1.15 * len(strategies)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1)
    rows = [only(part) for part in parts] + ([ALL] if several else [])
    heads = [f"{head}\nbest: {_best(found, row)}" for head, row in zip([*parts, "all together"], rows, strict=False)]
    _panel(above, upper, heads, strategies, most, shown)
    above.set_title("alone: nothing scarce - only this", fontsize=10, loc="left")
    heads = [f"{part}\nbest without: {_best(found, all_but(part))}" for part in parts] + (["interaction"] if several else [])
    _panel(below, lower, heads, strategies, most, shown)
    below.set_title("beside the others: all but this - all", fontsize=10, loc="left")
    figure.suptitle(f"What each scarcity costs, {unit(shown)} (90 % interval; bold: surely not 0)", fontsize=12, x=0.01, ha="left")
    figure.supxlabel(fill(in_words(found), int(figure.get_figwidth() * 15)), fontsize=9, x=0.01, ha="left")
    figure.savefig(path)


def _panel(axes: Axes, costs: list[list[Mapping[str, Any]]], heads: list[str], strategies: list[str], most: float, shown: Shown) -> None:
    """A field a cost. most: the darkest one."""
    means = np.array([[np.nan if cost["mean"] is None else cost["mean"] for cost in row] for row in costs])
    axes.imshow(means, cmap="Greys", vmin=0, vmax=most / 0.85, aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        cost = costs[row][column]
        sure = cost["low"] is not None and (cost["low"] > 0 or cost["high"] < 0)
        style: dict[str, Any] = {"ha": "center", "color": "white" if mean > _DARK * most else "black"}
        weight = "bold" if sure else "normal"
        axes.text(column, row - 0.12, "-" if np.isnan(mean) else amount(mean, shown), va="center", fontsize=11, fontweight=weight, **style)
        if cost["low"] is not None:
            ends = f"{amount(cost['low'], shown)} to {amount(cost['high'], shown)}"
            axes.text(column, row + 0.24, ends, va="center", fontsize=7.5, **style)
    axes.set_xticks(range(len(heads)), heads, fontsize=8)
    axes.set_yticks(range(len(strategies)), strategies)
    axes.set_xticks(np.arange(len(heads) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(strategies) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.7", lw=0.8)
    axes.tick_params(which="both", length=0)


def _best(found: Mapping[str, Any], row: str) -> str:
    """The best strategies of a row, in few characters, a line each."""
    names = found["runs"][row]["best"]
    return " or\n".join(names) or "none"
