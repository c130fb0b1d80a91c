"""How many clients have which gain, and where the mean and the next client's gain lie."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import LETTER, WIDE, Floats, Frame, element, margin, number, padded, path, text

HEIGHT = 304.0
"""Of the chart, in pixels."""

_BELOW = 124.0
"""Pixels below the bars: the axis, and two intervals with their names."""


def spread(gains: Floats, mean: tuple[float, float], following: tuple[float, float], *, label: str, most: int = 40) -> Markup:
    """A histogram of gains `[clients]`, with at most so many bars, and below it the intervals of the mean and of the next client's gain."""
    counts, edges = np.histogram(gains, bins=min(most, max(6, int(2 * np.sqrt(len(gains))))))
    most_clients = float(counts.max())
    x_range = padded(gains, *mean, *following, 0.0, share=0.03)
    frame = Frame(WIDE, HEIGHT, margin(0, most_clients), 12, 26, _BELOW, x_range, (0, most_clients))
    content = [frame.y_axis("clients", whole=True)]
    for count, left, right in zip(counts, frame.x(edges[:-1]), frame.x(edges[1:]), strict=True):
        if count:
            top = float(frame.y(count))
            content.append(
                element("rect", x=float(left), y=top, width=float(max(0.9 * (right - left), 0.5)), height=frame.floor - top, class_="bar")
            )
    content.append(frame.x_axis(label))
    zero = number(float(frame.x(0.0)))
    content.append(
        path([f"M{zero} {number(frame.top)}V{number(frame.floor)}", f"M{zero} {number(frame.floor + 42)}V{number(HEIGHT - 14)}"], "zero")
    )
    for place, (words, ends) in enumerate((("mean of all clients", mean), ("the next client", following))):
        y = frame.floor + 64 + 34 * place
        start, stop = (float(frame.x(end)) for end in ends)
        stops = "".join(f"M{number(end)} {number(y - 4)}v8" for end in (start, stop))
        content.append(path([f"M{number(start)} {number(y)}H{number(stop)}", stops], "span better"))
        content.append(text(min(start, frame.end - LETTER * len(words)), y - 9, words, "name"))
    return Markup("").join(content)
