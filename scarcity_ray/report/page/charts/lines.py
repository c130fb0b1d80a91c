"""Lines with their names at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import HALF, LETTER, Floats, Frame, apart, dots, margin, padded, path, polyline, text

DASHES = 5
"""Styles of lines that are not the best one's: each has a dash of its own, which print without colour keeps."""


@dataclass(frozen=True)
class Line:
    """x, y: `[points]`. style: best, or line-0 to line-4. said: at its end; nothing if empty. marked: whether its points are drawn."""

    x: Floats
    y: Floats
    style: str
    said: str = ""
    marked: bool = False


def lines(
    drawn: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    width: float = HALF,
    height: float = 250,
    x_log: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    level: tuple[float, str] | None = None,
    whole: bool = False,
) -> Markup:
    """The chart. Its ranges hold all lines where they are not given. level: a value that is marked across, and its words.
    whole: x has whole numbers only."""
    right = 10 + LETTER * max((len(one.said) for one in drawn), default=0)
    xs = np.concatenate([one.x[np.isfinite(one.y)] for one in drawn]) if drawn else np.zeros(0)
    ys = [one.y for one in drawn]
    y_range = y_range or padded(np.concatenate(ys) if ys else [], *([level[0]] if level else []))
    if x_range is None:
        low, high = (float(xs.min()), float(xs.max())) if len(xs) else (0.0, 1.0)
        x_range = (low / 1.15, high * 1.15) if x_log else (min(low, 0.0), high)
    frame = Frame(width, height, margin(*y_range), min(right, 0.42 * width), 26, 46, x_range, y_range, x_log)
    content = [frame.y_axis(y_label), frame.x_axis(x_label, whole)]
    if level is not None:
        content.append(frame.level(*level, class_="reference"))
    named = [one for one in drawn if one.said and np.isfinite(one.y).any()]
    ends = [float(frame.y(np.clip(one.y[np.isfinite(one.y)][-1], *frame.y_range))) for one in named]
    for one in sorted(drawn, key=lambda each: each.style == "best"):
        x, y = frame.x(one.x), frame.y(one.y)
        content.append(frame.clipped(path(polyline(x, y), f"line {one.style}")))
        if one.marked or np.isfinite(one.y).sum() < 3:
            content.append(path(dots(x[np.isfinite(y)], y[np.isfinite(y)]), f"points {one.style}"))
    for one, place in zip(named, apart(ends, 15), strict=True):
        content.append(text(frame.end + 6, place + 4, one.said, f"name {'strong accent' if one.style == 'best' else ''}".strip()))
    return Markup("").join(content)
