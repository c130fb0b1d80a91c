"""The frontier's plot: a panel a suite, the metric against the bytes of a client, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from _frontier_bars import OURS
from _frontier_runs import Point, front, higher
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_ONCE = ("afl", "prototypes")  # they send sums once, as sf_hfe does
_OURS, _ON, _OFF = "#D55E00", "#0072B2", "#B0B0B0"


def draw(every: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Writes a PNG. Named are sf_hfe and the best of the others at each level. Who sends nothing lies on the left edge."""
    columns = 2 if len(every) == 4 else min(3, len(every))
    rows = -(-len(every) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, found) in zip(panels, every.items(), strict=False):
        floor = min((one.bytes for one in found if one.bytes > 0), default=1.0) / 2
        on = front(name, found)
        for one in found:
            colour = _OURS if one.strategy == OURS else _ON if one in on else _OFF
            axes.errorbar(
                max(one.bytes, floor), one.value, yerr=one.spread, fmt="D" if one.strategy == OURS else "o", ms=5, color=colour, lw=1,
                zorder=3 if colour != _OFF else 1,
            )  # fmt: skip
        steps = [(max(one.bytes, floor), one.value) for one in on]
        axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=_ON, lw=1, zorder=2)
        values = sorted((one.value for one in found), reverse=not higher(name))
        low, high = values[len(values) // 5], values[-1]
        pad = 0.15 * abs(high - low) or 0.05
        axes.set_ylim(*((low - pad, high + pad) if higher(name) else (low + pad, high - pad)))
        axes.set_xscale("log")
        axes.margins(x=0.2)
        for one in _named(name, found):
            if one.value >= low - pad if higher(name) else one.value <= low + pad:
                ours = one.strategy == OURS
                place = {"xytext": (-6, 3), "ha": "right"} if ours else {"xytext": (6, -3), "ha": "left"}
                axes.annotate(one.strategy, (max(one.bytes, floor), one.value), textcoords="offset points", fontsize=7, **place)
        axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
        axes.set_ylabel("accuracy" if higher(name) else "RMSE (upwards is better)", fontsize=8)
        axes.set_xlabel("bytes of a client, up and down", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    for axes in panels[len(every) :]:
        axes.set_visible(False)
    figure.savefig(path)


def _named(name: str, every: Sequence[Point]) -> list[Point]:
    """sf_hfe, and at each level the best of the others: of those that send sums once, as it does, and of those that send more."""
    best = max if higher(name) else min
    found = [one for one in every if one.strategy == OURS]
    for level in dict.fromkeys(one.level for one in every):
        for once in (True, False):
            others = [one for one in every if one.level == level and one.strategy != OURS and (one.strategy in _ONCE) == once]
            found += [best(others, key=lambda one: one.value)] if others else []
    return found
