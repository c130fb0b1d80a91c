"""Experts and strangers: the groups that a strategy found, and how it does on clients that never took part."""

from __future__ import annotations

from scarcity_ray.core.metrics import headline
from scarcity_ray.report.final_table import experts_in_words
from scarcity_ray.report.page.charts.intervals import Estimate, forest
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.page.parts import Column, Figure, Panel, Part, Table
from scarcity_ray.report.units import number

_WAYS = {
    "router": "the router's expert",
    "oracle": "the true group's expert",
    "global": "one model for all",
    "average": "mean of the experts",
}


def experts(facts: Facts) -> Panel:
    """What is known of each ensemble, and how strangers fare."""
    words = [shown(line, 2_000) for line in experts_in_words(facts.summary)]
    parts: list[Part] = [table for table in (_sizes(facts),) if table is not None]
    if any("strangers" in entry for entry in facts.entries.values()):
        parts.append(_strangers(facts))
    return Panel("experts", "Experts and strangers", words, parts)


def _sizes(facts: Facts) -> Table | None:
    """The experts of the first seed; none where each strategy has one."""
    rows = []
    for name, entry in facts.entries.items():
        first = next(iter(entry.get("seeds", {"": entry}).values()))
        found = first.get("experts")
        if not isinstance(found, list) or len(found) < 2:
            continue
        load = first.get("load") or {}
        for place, expert in enumerate(found):
            share = f"{load[str(place)]:.0%}" if str(place) in load else "-"
            rows.append([name, f"{place}", f"{expert['clients']:,}", f"{expert['rows']:,}", share])
    heads = ("expert", "clients", "training rows", "strangers' inputs")
    return Table("Experts, of the first seed", [Column("strategy", True), *map(Column, heads)], rows) if rows else None


def _strangers(facts: Facts) -> Figure:
    metric = headline(facts.summary["task"])
    found = {
        f"{name}: {words}": entry["strangers"][way]
        for name, entry in facts.entries.items()
        if "strangers" in entry
        for way, words in _WAYS.items()
        if entry["strangers"].get(way) is not None
    }
    order = sorted(found, key=lambda one: found[one], reverse=metric.metric.higher_is_better)
    lines = [
        Estimate(one, found[one], None, None, "better" if place == 0 else "open", number(found[one])) for place, one in enumerate(order)
    ]
    height, chart = forest(lines, label=f"{metric.short} on rows of clients that never took part", zero="")
    table = Table(
        "Clients that never took part", [Column("who answers", True), Column(metric.short)], [[one, number(found[one])] for one in order]
    )
    description = (
        f"The {metric.short} on rows of clients that never took part, by who answers. Best: {order[0]}, {number(found[order[0]])}."
    )
    return Figure("strangers", "Clients that never took part", description, chart, table, height)
