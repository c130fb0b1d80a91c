"""How many clients have which gain, and where the mean and the next client's gain lie."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import WIDE, Floats, Frame, element, number, padded, path, text


def spread(gains: Floats, mean: tuple[float, float, float], following: tuple[float, float], *, label: str, bins: int = 40) -> Markup:
    """A histogram of gains `[clients]`, and below it two intervals. mean: mean, low, high. following: low and high of the next client."""
    low, high = padded(gains, *mean, *following, 0.0, share=0.03)
    counts, edges = np.histogram(gains, bins=min(bins, max(8, int(2 * np.sqrt(len(gains))))), range=(low, high))
    frame = Frame(WIDE, 290, 52, 12, 26, 110, (low, high), (0, float(max(counts.max(), 1))))
    content = [frame.y_axis("clients", lambda value: f"{value:,.0f}" if value == round(value) else "")]
    for count, left, right in zip(counts, frame.x(edges[:-1]), frame.x(edges[1:]), strict=True):
        if count:
            top = float(frame.y(count))
            content.append(element("rect", x=left + 0.5, y=top, width=float(right - left - 1), height=frame.floor - top, class_="bar"))
    rows = (("mean of all clients", (mean[1], mean[2]), frame.floor + 56), ("the next client", following, frame.floor + 84))
    axis = Frame(WIDE, 290, 52, 12, 26, 110, (low, high), (0, 1))
    content.append(axis.x_axis(label))
    zero = float(frame.x(0.0))
    content.append(path([f"M{number(zero)} {number(frame.top)}V{number(frame.height - 14)}"], "zero"))
    for words, (first, last), y in rows:
        ends = [float(frame.x(end)) for end in (first, last)]
        content.append(
            path([f"M{number(ends[0])} {number(y)}H{number(ends[1])}m0 -4v8M{number(ends[0])} {number(y - 4)}v8"], "span better")
        )
        beside = ends[1] + 8 + 6.6 * len(words) < frame.end
        content.append(text(ends[1] + 8 if beside else ends[0] - 8, y + 4, words, "name", None if beside else "end"))
    return frame.drawn(*content)
