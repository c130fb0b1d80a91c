"""Sizes, durations and metrics as text for people."""

from __future__ import annotations

import math
from collections.abc import Sequence


def size(count: float) -> str:
    """Bytes, in the largest binary unit that gives at least 1: `150 KB`, `1.2 MB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KB", "MB", "GB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:,.0f} {unit}"
    return f"{count / 1024:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds: `0.0083 s`, `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if 0 < seconds < 0.1:
        return f"{seconds:.2g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def number(value: float | None) -> str:
    """A metric with three decimals; small and large ones with four digits, or all before the point: `0.939`, `0.000412`, `69,914`."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 0.1 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.3g}"


def signed(value: float) -> str:
    """A gain with its sign, with three decimals or three digits, or all before the point: `+0.281`, `-12.4`, `+2,964`."""
    return f"{value:+.3f}" if abs(value) < 1 else f"{value:+.3g}" if abs(value) < 999.5 else f"{value:+,.0f}"


def short_number(value: float) -> str:
    """A cost with two or more digits: `1,234`, `15.3`, `0.078`; `0` for none."""
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def chance(p: float | None) -> str:
    """A p-value with three decimals: `0.023`, `<0.001`."""
    return "-" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def listed(names: Sequence[str], word: str) -> str:
    """Names in a sentence: `a, b and c`. word: before the last one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
