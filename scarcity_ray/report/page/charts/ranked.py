"""The gains of many clients, from the worst to the best, with their intervals."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import WIDE, Floats, Frame, dots, margin, number, path, polyline, spans, text

MOST = 5_000
"""Clients that are drawn one by one; more are drawn in bins."""

HEIGHT = 340.0
RIGHT, TOP, BOTTOM = 18.0, 26.0, 46.0
"""The chart's height, and the margins of its field that do not depend on the values, in pixels."""

_BINS = 240

_FEW = 300
"""Clients whose marks do not touch."""


def ranked(gain: Floats, low: Floats, high: Floats, sure: Floats, *, label: str, zero: str) -> tuple[float, Markup]:
    """The left margin of the field, in pixels, and the chart.

    gain, low, high, sure: `[clients]`, by rising gain. sure: 1 surely better, -1 surely worse, 0 cannot tell. Of more clients than there
    are pixels a line through the gains says as much as a dot for each. Beyond MOST it goes through the means of clients next to each
    other, and a band from the mean lower to the mean upper end of their intervals.
    """
    clients = len(gain)
    y_range = _range(gain, low, high)
    frame = Frame(WIDE, HEIGHT, margin(*y_range), RIGHT, TOP, BOTTOM, (0, clients), y_range)
    x = frame.x(np.arange(clients) + 0.5)
    bottom, top = np.clip(frame.y(low), 0, frame.floor), np.clip(frame.y(high), frame.top, frame.floor)
    content = [frame.y_axis(label), frame.x_axis("clients, from the smallest gain to the largest", whole=True)]
    if clients > MOST:
        middle, lower, upper, centre = (_binned(values) for values in (x, bottom, top, frame.y(gain)))
        band = [*polyline(middle, lower), *(f"L{number(a)} {number(b)}" for a, b in zip(middle[::-1], upper[::-1], strict=True)), "Z"]
        content += [path(band, "band"), path(polyline(middle, centre), "line best")]
    else:
        thin = " thin" if clients > _FEW else ""
        if clients > WIDE:
            bottom, top = bottom.round(), top.round()
        for kind, which in (("open", sure == 0), ("better", sure > 0), ("worse", sure < 0)):
            content.append(path(spans(x[which], bottom[which], top[which]), f"span {kind}{thin}"))
        if clients > WIDE:
            content.append(path(polyline(_binned(x), _binned(frame.y(gain))), "line"))
        else:
            for kind, which in (("open", sure == 0), ("better", sure > 0), ("worse", sure < 0)):
                content.append(path(dots(x[which], frame.y(gain[which])), f"dots {kind}{thin}"))
    content.append(frame.level(0.0, zero, below=True))
    for kind, words, which, place, anchor in (
        ("worse", "surely worse", sure < 0, frame.left + 4, None),
        ("better", "surely better", sure > 0, frame.end, "end"),
    ):
        if which.any():
            content.append(text(place, frame.floor - 8, f"{int(which.sum()):,} {words}", f"note {kind}", anchor))
    return frame.left, Markup("").join(content)


def _range(gain: Floats, low: Floats, high: Floats) -> tuple[float, float]:
    """Of the values and nearly all ends: a few very wide intervals would flatten the others."""
    least, most = float(np.quantile(low, 0.01)), float(np.quantile(high, 0.99))
    least, most = min(least, float(gain.min()), 0.0), max(most, float(gain.max()), 0.0)
    size = most - least or 1.0
    return least - 0.14 * size, most + 0.03 * size  # below there is room for words


def _binned(values: Floats) -> Floats:
    return np.array([part.mean() for part in np.array_split(values, _BINS)])
