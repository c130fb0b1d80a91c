"""What is scarce beside data: whom that leaves out, and what each scarcity costs, where the run has a report on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.report.never_joined import never_joined_in_words
from scarcity_ray.report.page import names
from scarcity_ray.report.page.charts.intervals import Estimate, forest
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Figure, Panel, Table
from scarcity_ray.report.scarcity_in_words import amount, in_words, shown_of, unit


def costs(facts: Facts) -> Panel:
    """Who never joined, and the costs of each scarcity to the federated strategies."""
    words, found = [names.shown(line, 2_000) for line in never_joined_in_words(facts.summary)], facts.scarcity
    if found is None:
        return Panel("scarcity", "What scarcity costs", words)
    sentence = in_words(found)
    told = [name for name in facts.federated if _known(found, name)]
    return Panel(
        "scarcity", "What scarcity costs", [f"{sentence[0].upper()}{sentence[1:]}", *words], [_figure(found, name) for name in told]
    )


def _known(found: Mapping[str, Any], name: str) -> bool:
    costs = found["costs"].get(name, {})
    return any(cost["mean"] is not None for cost in costs.get("alone", {}).values())


def _figure(found: Mapping[str, Any], name: str) -> Figure:
    shown, costs = shown_of(found), found["costs"][name]
    lines, rows = [], []
    for scarcity in found["scarcities"]:
        for quantity, words in (("alone", "alone"), ("beside_the_others", "beside the others")):
            cost = costs[quantity][scarcity]
            if cost["mean"] is not None:
                said = _said(cost, shown)
                scale = 100.0 if shown.metric.bounded else 1.0
                low, high = (None if cost[end] is None else scale * cost[end] for end in ("low", "high"))
                mark = "better" if low is not None and high is not None and (low > 0 or high < 0) else "open"
                lines.append(Estimate(f"{scarcity}, {words}", scale * cost["mean"], low, high, mark, said))
        rows.append([scarcity, *(_said(costs[quantity][scarcity], shown) for quantity in ("alone", "beside_the_others"))])
    if len(found["scarcities"]) > 1:
        rows += [["all together", _said(costs["together"], shown), ""], ["interaction", _said(costs["interaction"], shown), ""]]
    height, chart = forest(lines, label=f"cost, {unit(shown)}: to the right is worse", zero="no cost")
    description = "With 90 % intervals: alone, where nothing else is scarce, and beside the others. Filled: the interval leaves 0 out."
    table = Table(
        f"What each scarcity costs {name}, {unit(shown)}", [Column("scarcity", True), Column("alone"), Column("beside the others")], rows
    )
    return Figure(f"scarcity-of-{name}", f"What each scarcity costs {name}", description, chart, table, height)


def _said(cost: Mapping[str, Any], shown: Any) -> str:
    if cost["mean"] is None:
        return "-"
    ends = "" if cost["low"] is None else f" ({amount(cost['low'], shown)} to {amount(cost['high'], shown)})"
    return f"{amount(cost['mean'], shown)}{ends}"
