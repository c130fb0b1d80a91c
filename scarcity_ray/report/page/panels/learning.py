"""Learning: what the strategies reached by round and by what they had spent until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scarcity_ray.baselines import ALONE
from scarcity_ray.report.page.charts.lines import DASHES, Line, lines
from scarcity_ray.report.page.charts.svg import HALF
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Figure, Panel, Table
from scarcity_ray.report.units import duration, number, short_number, size

_POINTS = 120
"""Of a line: a pixel holds no more."""

_NAMED = 5
"""Strategies whose last values a description says."""

_COSTS: dict[str, tuple[str, str, Callable[[float], str], dict[str, float]]] = {
    "bytes": ("Learning by bytes", "sent and received by a client", size, {"bytes": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}),
    "seconds": (
        "Learning by time",
        "of the simulated clock",
        duration,
        {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400},
    ),
    "joules": ("Learning by energy", "of a client", lambda value: f"{short_number(value)} J", {"mJ": 1e-3, "J": 1, "kJ": 1e3}),
}
"""Of each cost its title, whose it is, an amount of it in words, and the units of its axis."""


def learning(facts: Facts) -> Panel:
    """A chart by round, and one by each cost that the run counted."""
    curves = _curves(facts)
    if all(len(curve["round"]) < 2 for curve in curves.values()):
        return Panel("learning", "Learning")
    shown = facts.decides
    words = f"{shown.mean[0].upper()}{shown.mean[1:]} on test rows" + (f", a mean over {facts.seeds} seeds." if facts.seeds > 1 else ".")
    figures = [_by_round(facts, curves)]
    figures += [_by_cost(facts, curves, cost) for cost in _COSTS if any(curve[cost][-1] > 0 for curve in curves.values())]
    return Panel("learning", "Learning", [words], figures)


def _curves(facts: Facts) -> dict[str, dict[str, Any]]:
    """Of each strategy round, value and what was spent (bytes, seconds, joules), arrays `[evaluated rounds]`, means over the seeds that
    came so far."""
    shown, clients, found = facts.decides, max(facts.summary["clients"], 1), {}
    frame = facts.rounds.assign(bytes=facts.rounds["uplink_bytes"] + facts.rounds["downlink_bytes"])
    for name in facts.played:
        mine = frame[frame["strategy"] == name].sort_values(["seed", "round"])
        if not len(mine) or facts.entries[name]["status"] == "diverged":
            continue
        seeds = mine.groupby("seed")
        mine = mine.assign(
            bytes=seeds["bytes"].cumsum() / clients,
            joules=mine["joules"].astype(float).fillna(0.0).groupby(mine["seed"]).cumsum() / clients,
            seconds=mine["clock_seconds"].astype(float).fillna(0.0),
            value=shown.shape(mine[shown.metric.column].astype(float)),
        )
        mean = mine[np.isfinite(mine["value"])].groupby("round")[["value", "bytes", "seconds", "joules"]].mean()
        if len(mean):
            kept = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), _POINTS)).round().astype(int))
            found[name] = {"round": mean.index.to_numpy()[kept].astype(float)} | {key: mean[key].to_numpy()[kept] for key in mean}
    return found


def _drawn(facts: Facts, curves: dict[str, dict[str, Any]], x: str) -> list[Line]:
    """The lines, with dashes of their own; of many strategies only the best ones are named."""
    strong = facts.best[:1]
    ranked = sorted(curves, key=lambda name: curves[name]["value"][-1], reverse=facts.decides.metric.higher_is_better)
    named = set(strong) | set(ranked[: DASHES - len(strong)])
    others = [name for name in curves if name not in strong]
    styles = {name: f"line-{min(place, DASHES - 1)}" for place, name in enumerate(others)} | dict.fromkeys(strong, "best")
    drawn = []
    for name, curve in curves.items():
        at, value = curve[x], curve["value"]
        if x != "round":
            paid = (at > 0) & (np.append(np.diff(at), 1) > 0)  # the last value of what was spent once
            at, value = at[paid], value[paid]
        if len(at):
            drawn.append(Line(at, value, styles[name], name if name in named else ""))
    return drawn


def _by_round(facts: Facts, curves: dict[str, dict[str, Any]]) -> Figure:
    drawn = _drawn(facts, curves, "round")
    chart = lines(
        drawn,
        x_label="round",
        y_label=facts.decides.short,
        level=_alone(facts),
        whole=True,
        y_range=_range(facts, curves),
    )
    return Figure("by-round", "Learning by round", f"At the end: {_told(curves, 'value', number)}.", chart, _table(curves), 250, HALF)


def _by_cost(facts: Facts, curves: dict[str, dict[str, Any]], cost: str) -> Figure:
    title, label, words, units = _COSTS[cost]
    most = max(float(curve[cost][-1]) for curve in curves.values())
    unit = max((one for one in units if units[one] <= most), key=lambda one: units[one], default=next(iter(units)))
    drawn = [replace(one, x=one.x / units[unit]) for one in _drawn(facts, curves, cost)]
    chart = lines(
        drawn, x_label=f"{unit} {label}", y_label=facts.decides.short, x_log=True, level=_alone(facts), y_range=_range(facts, curves)
    )
    spent = _told({name: curve for name, curve in curves.items() if curve[cost][-1] > 0}, cost, words)
    columns = [Column("strategy", True), Column("spent"), Column("reached")]
    rows = [[name, words(float(curve[cost][-1])), number(float(curve["value"][-1]))] for name, curve in curves.items()]
    return Figure(f"by-{cost}", title, f"Spent in all: {spent}.", chart, Table(f"{title}, at the end", columns, rows), 250, HALF)


def _told(curves: Mapping[str, Mapping[str, Any]], key: str, words: Callable[[float], str]) -> str:
    """The last value of each curve; of many the least and the most alone."""
    last = sorted(((float(curve[key][-1]), name) for name, curve in curves.items()))
    if len(last) <= _NAMED:
        return ", ".join(f"{name} {words(float(curve[key][-1]))}" for name, curve in curves.items())
    return f"from {words(last[0][0])} ({last[0][1]}) to {words(last[-1][0])} ({last[-1][1]})"


def _table(curves: dict[str, dict[str, Any]]) -> Table:
    """The values at up to a dozen of the rounds."""
    rounds = sorted({int(one) for curve in curves.values() for one in curve["round"]})
    kept = [rounds[place] for place in np.unique(np.linspace(0, len(rounds) - 1, min(len(rounds), 12)).round().astype(int))]
    values = {name: dict(zip(curve["round"].astype(int).tolist(), curve["value"].tolist(), strict=True)) for name, curve in curves.items()}
    rows = [[f"{one:,}", *(number(found.get(one)) for found in values.values())] for one in kept]
    return Table("By round", [Column("round"), *map(Column, values)], rows)


def _range(facts: Facts, curves: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """From the worst to the best value; where less is better, high first rounds are cut off so that the rest can be told apart."""
    values = np.concatenate([curve["value"] for curve in curves.values()])
    if (alone := _alone(facts)) is not None:
        values = np.append(values, alone[0])
    low, high = float(values.min()), float(values.max())
    if not facts.decides.metric.higher_is_better and len(values) > 8:
        last = max(float(curve["value"][-1]) for curve in curves.values())
        high = min(high, low + 3 * (max(last, alone[0] if alone else last) - low) or high)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _alone(facts: Facts) -> tuple[float, str] | None:
    value = (facts.entries.get(ALONE) or {}).get(facts.decides.key)
    return None if value is None or not np.isfinite(value) else (float(value), "each client alone")
