"""The coefficients of linear models, with their intervals: what fed_glm found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.report.coefficients import PREDICTS
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.page.parts import Column, Panel, Table
from scarcity_ray.report.units import chance, number

_MOST = 60
"""Rows of a table; the run's coefficients.csv has all."""


def coefficients(facts: Facts) -> Panel:
    """A table for each strategy that has some, of the first seed."""
    firsts = {name: next(iter(entry.get("seeds", {"": entry}).values())) for name, entry in facts.entries.items()}
    tables = [_table(name, first) for name, first in firsts.items() if first.get("coefficients")]
    return Panel("coefficients", "Coefficients", (), tables)


def _table(name: str, entry: Mapping[str, Any]) -> Table:
    found = entry["coefficients"]
    classes = "class" in found[0] and entry["family"] != "binomial"
    heads = ("estimate", "standard error", "95 % from", "to", str(entry["test"]), "p")
    rows = [
        [
            shown(row["name"]),
            *([shown(str(row["class"]))] if classes else []),
            *(number(row[key]) for key in ("estimate", "std_error", "lower", "upper", "statistic")),
            chance(row["p_value"]),
        ]
        for row in found[:_MOST]
    ]
    title = f"{name}: {PREDICTS[entry['family']].format(shown(str(found[0].get('class'))))}"
    deviance, alone = (number(entry[key]) for key in ("deviance", "null_deviance"))
    fit = f"Deviance {deviance}, of the intercept alone {alone}; {entry['df_resid']:,} degrees of freedom."
    more = f" The other {len(found) - _MOST:,} are in coefficients.csv." if len(found) > _MOST else ""
    columns = [Column("column", True), *([Column("class", True)] if classes else []), *map(Column, heads)]
    return Table(title, columns, rows, note=f"{fit}{more}")
