"""The frontier's plot: a panel a suite, the metric against the bytes of a client, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from _frontier_bars import OURS
from _frontier_runs import Point, front, higher
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_ONCE = ("afl", "prototypes")  # they send sums once, as sf_hfe does
_OURS, _ON, _OFF = "#D55E00", "#0072B2", "#B0B0B0"


def draw(every: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Writes a PNG. Named are strategies on the front, and at each level the best of those that send weights. Who sends nothing lies on the
    left edge."""
    columns = min(3, len(every))
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
        shown = [one for one in (*on, *_next(name, found, on)) if (one.value >= low - pad if higher(name) else one.value <= low + pad)]
        for x, y, words in _labels([(max(one.bytes, floor), one.value, one.strategy) for one in shown], abs(high - low) + 2 * pad):
            axes.annotate(words, (x, y), textcoords="offset points", xytext=(-5, 3), ha="right", fontsize=7)
        axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
        axes.set_ylabel("accuracy" if higher(name) else "RMSE (upwards is better)", fontsize=8)
        axes.set_xlabel("bytes of a client, up and down", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    for axes in panels[len(every) :]:
        axes.set_visible(False)
    figure.savefig(path)


def _next(name: str, every: Sequence[Point], on: Sequence[Point]) -> list[Point]:
    """The best of those that send weights, at each level: whom the front leaves behind."""
    others = [one for one in every if one not in on and one.strategy not in (OURS, *_ONCE)]
    levels = dict.fromkeys(one.level for one in others)
    best = max if higher(name) else min
    return [best((one for one in others if one.level == level), key=lambda one: one.value) for level in levels]


def _labels(points: Sequence[tuple[float, float, str]], height: float) -> list[tuple[float, float, str]]:
    """One label for points that lie so near to each other that their names would cover each other."""
    found: list[tuple[float, float, list[str]]] = []
    for x, y, name in sorted(points, key=lambda one: -one[1]):
        near = next((one for one in found if abs(math.log10(x / one[0])) < 0.25 and abs(y - one[1]) < 0.05 * height), None)
        if near is None:
            found.append((x, y, [name]))
        elif name not in near[2]:
            near[2].append(name)
    return [(x, y, ", ".join(names)) for x, y, names in found]
