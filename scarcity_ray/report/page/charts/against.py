"""The gains of clients against their training rows: points, means of groups of like size, a line, and where it breaks even."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from scarcity_ray.report.page.charts.intervals import mark
from scarcity_ray.report.page.charts.ranked import MOST
from scarcity_ray.report.page.charts.svg import WIDE, Floats, Frame, dots, margin, number, path, polyline, text


class SizeGroup(NamedTuple):
    """Clients of like size: the fewest, most and middle (geometric mean) rows, how many they are, and their mean gain with its 95 %
    interval, NaN where there is none."""

    fewest: int
    most: int
    middle: float
    clients: int
    mean: float
    low: float
    high: float


def against_rows(
    rows: Floats, gain: Floats, groups: Sequence[SizeGroup], line: tuple[float, float] | None, even: float | None, *, label: str, zero: str
) -> Markup:
    """rows, gain: `[clients]`. line: the gain at the fewest and at the most rows. even: rows at which it breaks even."""
    ends = [end for group in groups for end in (group.low, group.high, group.mean) if np.isfinite(end)]
    low, high = (float(np.quantile(gain, share)) for share in (0.02, 0.98))
    low, high = min([low, 0.0, *ends]), max([high, 0.0, *ends])
    room = 0.06 * (high - low) or 1.0
    first, last = float(rows.min()), float(rows.max())
    y_range = (low - room, high + room)
    frame = Frame(WIDE, 320, margin(*y_range), 18, 26, 46, (first / 1.08, last * 1.08), y_range, x_log=True)
    content = [frame.y_axis(label), frame.x_axis("training rows of a client")]
    if len(rows) <= MOST:
        inside = (gain >= frame.y_range[0]) & (gain <= frame.y_range[1])
        points = np.unique(np.stack([frame.x(rows[inside]), frame.y(gain[inside])], axis=1).round(), axis=0)
        content.append(path(dots(*points.T), f"dots cloud{' thin' if len(rows) > 300 else ''}"))
    content.append(frame.level(0.0, zero))
    if line is not None:
        content.append(path(polyline(frame.x([first, last]), frame.y(line)), "trend"))
    for group in groups:
        x = float(frame.x(group.middle))
        if np.isfinite(group.low):
            content.append(path([f"M{number(x)} {number(float(frame.y(group.low)))}V{number(float(frame.y(group.high)))}"], "span better"))
        content.append(mark(x, float(frame.y(group.mean)), "better"))
    if even is not None:
        x = float(frame.x(even))
        anchor = "end" if x > frame.left + 0.7 * (frame.end - frame.left) else None
        content.append(path([f"M{number(x)} {number(frame.top)}V{number(frame.floor)}"], "even"))
        content.append(text(x + (-6 if anchor else 6), frame.top + 10, f"break-even: {even:,.0f} rows", "note", anchor))
    return Markup("").join(content)
