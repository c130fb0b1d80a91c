"""Values with their intervals, one a line: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import LETTER, WIDE, Frame, element, number, padded, path, text
from scarcity_ray.report.page.charts.ticks import linear_ticks

_LINE = 22.0
"""Pixels from one line to the next."""


@dataclass(frozen=True)
class Estimate:
    """One line. low, high: None without an interval. mark: better (filled, accent), worse (a filled square) or open (a ring). said: its
    number in words, at the right. strong: whether the name is bold."""

    name: str
    value: float
    low: float | None
    high: float | None
    mark: str
    said: str
    strong: bool = False


def forest(
    estimates: Sequence[Estimate], *, label: str, zero: str, width: float = WIDE, bound: float | None = None
) -> tuple[float, Markup]:
    """The height of the chart and its content. label: of the axis. zero: what is said of the line at 0; without words there is none.
    bound: no end goes beyond it."""
    left = min(12 + LETTER * max(len(one.name) for one in estimates), 0.4 * width)
    right = 16 + LETTER * max(len(one.said) for one in estimates)
    ends = [end for one in estimates for end in (one.low, one.high, one.value) if end is not None]
    low, high = padded(ends, *([0.0] if zero else []))
    if bound is not None:
        low, high = max(low, -bound), min(high, bound)
    height = 30 + _LINE * len(estimates) + 46
    frame = Frame(width, height, left, right, 30, 46, (low, high), (0, 1))
    ticks = linear_ticks(low, high, most=5)
    content = [
        path([f"M{number(x)} 24V{number(frame.floor)}" for x in frame.x(ticks.values)], "grid"),
        frame.x_axis(label),
    ]
    if zero:
        at_zero = float(frame.x(0.0))
        content.append(path([f"M{number(at_zero)} 24V{number(frame.floor)}"], "zero"))
        content.append(text(at_zero, 14, zero, "tick", "middle"))
    for place, one in enumerate(estimates):
        y = 30 + _LINE * (place + 0.5)
        content.append(text(0, y + 4, one.name, "name strong" if one.strong else "name"))
        if one.low is not None and one.high is not None:
            content.append(path([f"M{number(float(frame.x(one.low)))} {number(y)}H{number(float(frame.x(one.high)))}"], f"span {one.mark}"))
        content.append(mark(float(frame.x(one.value)), y, one.mark))
        content.append(text(width, y + 4, one.said, "said strong" if one.strong else "said", "end"))
    return height, Markup("").join(content)


def mark(x: float, y: float, kind: str, size: float = 4.5) -> Markup:
    """A mark whose shape tells its kind without colour: better a filled disc, worse a filled square, open a ring."""
    if kind == "worse":
        return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_="mark worse")
    return element("circle", cx=x, cy=y, r=size, class_=f"mark {kind}")
