"""The frontier's plot: a panel a suite, the metric against the bytes of a client, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from _frontier_bars import OURS
from _frontier_runs import Point, front, higher
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_ONCE = ("afl", "prototypes")  # they send sums once, as sf_hfe does
_OURS, _ON, _OFF = "#D55E00", "#0072B2", "#B0B0B0"
_Place = tuple[int, int, Literal["left", "center", "right"]]
# Where the name of a point may begin or end, in points of type from it, by preference; sf_hfe's stands on the left if it can.
_LEFT: tuple[_Place, ...] = ((-6, 3, "right"), (-6, -10, "right"))
_RIGHT: tuple[_Place, ...] = ((6, -3, "left"), (6, 5, "left"), (6, -11, "left"), (0, 7, "center"), (0, -14, "center"))


def draw(every: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Writes a PNG. Named are sf_hfe and the best of the others at each level, once in a panel. What sends nothing is at the left edge."""
    columns = 2 if len(every) == 4 else min(3, len(every))
    rows = -(-len(every) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, found) in zip(panels, every.items(), strict=False):
        _panel(axes, name, found)
    for axes in panels[len(every) :]:
        axes.set_visible(False)
    figure.draw_without_rendering()  # places the panels: only then is it known which names would overlap
    for axes, (name, found) in zip(panels, every.items(), strict=False):
        _names(axes, name, found)
    figure.savefig(path)


def _panel(axes: Axes, name: str, found: Sequence[Point]) -> None:
    on = front(name, found)
    for one, (x, y) in zip(found, _spots(found, found), strict=True):
        colour = _OURS if one.strategy == OURS else _ON if one in on else _OFF
        axes.errorbar(
            x, y, yerr=one.spread, fmt="D" if one.strategy == OURS else "o", ms=5, color=colour, lw=1, zorder=3 if colour != _OFF else 1
        )  # fmt: skip
    steps = _spots(on, found)
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=_ON, lw=1, zorder=2)
    values = sorted((one.value for one in found), reverse=not higher(name))
    low, high = values[len(values) // 5], values[-1]
    pad = 0.15 * abs(high - low) or 0.05
    axes.set_ylim(*((low - pad, high + pad) if higher(name) else (low + pad, high - pad)))
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
    axes.set_ylabel("accuracy" if higher(name) else "RMSE (upwards is better)", fontsize=8)
    axes.set_xlabel("bytes of a client, up and down", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)


def _names(axes: Axes, name: str, found: Sequence[Point]) -> None:
    """Writes names beside points that are in sight, each at the first of its places that covers no point or name and leaves no panel."""
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in axes.transData.transform(_spots(found, found))]
    bottom, top = sorted(axes.get_ylim())
    named = [one for one in _named(name, found) if bottom <= one.value <= top]
    for one, spot in zip(named, _spots(named, found), strict=True):
        text = axes.annotate(one.strategy, spot, (0, 0), textcoords="offset points", fontsize=7)
        places = _LEFT + _RIGHT if one.strategy == OURS else _RIGHT + _LEFT
        taken.append(_box(text, min(places, key=lambda place: _hidden(text, place, taken))))


def _box(text: Annotation, place: _Place) -> Bbox:
    """Moves a name to a place and returns what it covers, in pixels."""
    text.xyann = place[:2]
    text.set_horizontalalignment(place[2])
    return text.get_window_extent()


def _hidden(text: Annotation, place: _Place, taken: Sequence[Bbox]) -> float:
    """How many pixels of a name at a place lie on points and other names, less those that lie in the panel."""
    box = _box(text, place)
    return sum(_area(Bbox.intersection(box, other)) for other in taken) - _area(Bbox.intersection(box, text.axes.bbox))


def _area(box: Bbox | None) -> float:
    return 0.0 if box is None else box.width * box.height


def _spots(some: Sequence[Point], found: Sequence[Point]) -> list[tuple[float, float]]:
    """Where some of the points of a panel are drawn. The axis of bytes is logarithmic: what sends nothing is at half of the fewest."""
    floor = min((one.bytes for one in found if one.bytes > 0), default=1.0) / 2
    return [(max(one.bytes, floor), one.value) for one in some]


def _named(name: str, every: Sequence[Point]) -> list[Point]:
    """The best point of sf_hfe and of each other that is the best at a level, of those that send sums once or of those that do not."""
    best = max if higher(name) else min
    found = [one for one in every if one.strategy == OURS]
    for level in dict.fromkeys(one.level for one in every):
        for once in (True, False):
            others = [one for one in every if one.level == level and one.strategy != OURS and (one.strategy in _ONCE) == once]
            found += [best(others, key=lambda one: one.value)] if others else []
    kinds = dict.fromkeys(one.strategy for one in found)
    return [best((one for one in found if one.strategy == kind), key=lambda one: one.value) for kind in kinds]
