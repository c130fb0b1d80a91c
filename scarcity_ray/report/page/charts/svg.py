"""Elements of SVG as safe text, and a frame: axes, ticks and a scale for each direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.report.page.charts.ticks import linear_ticks, log_ticks

WIDE, HALF = 720, 344
"""Widths of a chart, in CSS pixels: of the whole column, and of one of two side by side."""

LETTER = 7.4
"""About the width of a letter of a chart, in pixels, in a wide font."""

Floats = NDArray[np.float64]


def element(name: str, *content: str, **attributes: str | float | None) -> Markup:
    """An element. content: text, escaped unless it is Markup. attributes: `class_` is class, `_` in names is `-`; None leaves one out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{escape(number(value) if isinstance(value, float) else value)}"' for key, value in named.items())
    return Markup(f"<{name}{words}>{Markup('').join(content)}</{name}>")


def number(value: float) -> str:
    """A coordinate with one decimal at most: a tenth of a pixel is enough, and a page of thousands of points stays small."""
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """A line of text. anchor: middle or end; start if left out."""
    return element("text", words, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def path(commands: Iterable[str], class_: str) -> Markup:
    """One path of many pieces: thousands of points are one element."""
    joined = "".join(commands)
    return element("path", d=joined, class_=class_) if joined else Markup("")


def spans(x: ArrayLike, low: ArrayLike, high: ArrayLike) -> Iterable[str]:
    """Commands of vertical lines from low to high, in pixels."""
    for place, first, last in zip(np.ravel(x), np.ravel(low), np.ravel(high), strict=True):
        yield f"M{number(place)} {number(first)}V{number(last)}"


def dots(x: ArrayLike, y: ArrayLike) -> Iterable[str]:
    """Commands of points: lines of no length, which round ends make dots as large as the line is wide."""
    for place, height in zip(np.ravel(x), np.ravel(y), strict=True):
        yield f"M{number(place)} {number(height)}h0"


def polyline(x: ArrayLike, y: ArrayLike) -> Iterable[str]:
    """Commands of a line through points, with gaps where one is not finite."""
    begun = False
    for place, height in zip(np.ravel(x), np.ravel(y), strict=True):
        finite = math.isfinite(place) and math.isfinite(height)
        if finite:
            yield f"{'L' if begun else 'M'}{number(place)} {number(height)}"
        begun = finite


@dataclass(frozen=True)
class Frame:
    """The field of a chart, in pixels, and what its edges mean. x_range, y_range: values at its ends, first and last."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool = False

    def x(self, values: ArrayLike) -> Floats:
        """Where values stand from left to right."""
        found, (low, high) = np.asarray(values, dtype=np.float64), self.x_range
        if self.x_log:
            found, low, high = np.log(found), math.log(low), math.log(high)
        return self.left + (found - low) / ((high - low) or 1.0) * (self.width - self.left - self.right)

    def y(self, values: ArrayLike) -> Floats:
        """Where values stand from bottom to top."""
        found, (low, high) = np.asarray(values, dtype=np.float64), self.y_range
        return self.height - self.bottom - (found - low) / ((high - low) or 1.0) * (self.height - self.top - self.bottom)

    @property
    def floor(self) -> float:
        """The lower edge."""
        return self.height - self.bottom

    @property
    def end(self) -> float:
        """The right edge."""
        return self.width - self.right

    def y_axis(self, label: str, whole: bool = False) -> Markup:
        """Few light lines with their values at the left, and above them what they are. whole: at whole numbers only."""
        ticks = linear_ticks(*self.y_range, whole=whole)
        heights = self.y(ticks.values)
        lines = [f"M{number(self.left)} {number(height)}H{number(self.end)}" for height in heights]
        labels = [text(self.left - 8, height + 4, word, "tick", "end") for height, word in zip(heights, ticks.labels, strict=True)]
        return Markup("").join([path(lines, "grid"), *labels, text(0, 12, label, "label")])

    def x_axis(self, label: str, whole: bool = False) -> Markup:
        """A line with values below it, and below them what they are. whole: at whole numbers only."""
        ticks = log_ticks(*self.x_range) if self.x_log else linear_ticks(*self.x_range, most=5, whole=whole)
        labels = [text(x, self.floor + 18, word, "tick", "middle") for x, word in zip(self.x(ticks.values), ticks.labels, strict=True)]
        line = path([f"M{number(self.left)} {number(self.floor)}H{number(self.end)}"], "axis")
        return Markup("").join([line, *labels, text(self.end, self.floor + 36, label, "label", "end")])

    def clipped(self, *content: Markup) -> Markup:
        """What of some content lies in the field, with room for half a line at its edges."""
        x, y = self.left - 5, self.top - 5
        width, height = self.end - self.left + 10, self.floor - self.top + 10
        box = " ".join(number(float(one)) for one in (x, y, width, height))
        return element("svg", *content, x=float(x), y=float(y), width=float(width), height=float(height), viewBox=box)

    def level(self, value: float, words: str = "", class_: str = "zero", below: bool = False) -> Markup:
        """A horizontal line at a value, with words above its left end, or below it; nothing where it lies outside."""
        if not min(self.y_range) <= value <= max(self.y_range):
            return Markup("")
        height = float(self.y(value))
        line = path([f"M{number(self.left)} {number(height)}H{number(self.end)}"], class_)
        return line + (text(self.left + 4, height + (14 if below else -5), words, "tick") if words else Markup(""))


def margin(low: float, high: float) -> float:
    """Pixels at the left that the values of an axis from low to high need."""
    return 12 + LETTER * max(len(label) for label in linear_ticks(low, high).labels)


def padded(values: ArrayLike, *more: float, share: float = 0.06) -> tuple[float, float]:
    """A range around all finite values, with a share of its size on both sides; 0 to 1 where there are none."""
    known = np.concatenate([np.ravel(np.asarray(values, dtype=np.float64)), np.asarray(more, dtype=np.float64)])
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Heights in the order given, moved as little as possible until no two are closer than `least`; those that touch share their middle."""
    order = np.argsort(heights, kind="stable")
    blocks: list[list[float]] = []  # the middle of a block and how many labels it has
    for height in np.asarray(heights, dtype=np.float64)[order]:
        blocks.append([float(height), 1.0])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < least * (blocks[-1][1] + blocks[-2][1]) / 2:
            (above, many), (below, few) = blocks.pop(), blocks.pop()
            blocks.append([(above * many + below * few) / (many + few), many + few])
    moved = [middle + least * (place - (count - 1) / 2) for middle, count in blocks for place in range(int(count))]
    found = np.empty(len(moved))
    found[order] = moved
    return [float(one) for one in found]
