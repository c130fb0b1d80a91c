"""The coefficients of linear models (fed_glm) as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import chance, number

_MOST = 30  # rows of a table on the terminal

PREDICTS = {
    "gaussian": "change of the label, a unit of the column",
    "binomial": "change of the log odds of {}, a unit of the column",
    "multinomial": "change of the log odds against the first class, a unit of the column",
    "poisson": "change of the log of the expected count, a unit of the column",
}
"""What a coefficient is, by family; {} is the class of two that is predicted."""


def show_coefficients(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints a table for each strategy with coefficients, from the content of summary.json: those of the first seed."""
    for name, entry in summary["strategies"].items():
        first = next(iter(entry.get("seeds", {"": entry}).values()))
        if not first.get("coefficients"):
            continue
        table = coefficient_table(name, first)
        print_table(console, table, names=sum(column.justify == "left" for column in table.columns))
        rest = len(first["coefficients"]) - _MOST
        more = [f"the other {rest:,} in coefficients.csv"] if rest > 0 else []
        seeds = ["of the first seed"] if len(entry.get("seeds", ())) > 1 else []
        fit = f"deviance {number(first['deviance'])}, of the intercept alone {number(first['null_deviance'])}"
        console.print(
            "; ".join([*seeds, fit, f"{first['df_resid']:,} degrees of freedom", *first["notes"], *more]),
            style="dim",
            highlight=False,
            markup=False,
        )
        console.print()


def coefficient_table(name: str, entry: Mapping[str, Any]) -> Table:
    """A row a coefficient. entry: what summary.json says of the strategy under one seed."""
    found = entry["coefficients"][:_MOST]
    one = entry["family"] == "binomial"
    title = f"{name}: {PREDICTS[entry['family']].format(found[0].get('class'))}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("column", overflow="fold", min_width=10)
    classes = "class" in found[0] and not one  # one predictor: its class stands above
    if classes:
        table.add_column("class", overflow="fold")
    for head in ("estimate", "standard\nerror", "95 %\nfrom", "\nto", f"\n{entry['test']}", "\np"):
        table.add_column(head, justify="right", no_wrap=True, min_width=6)  # "<0.001"
    for row in found:
        cells = [number(row[key]) for key in ("estimate", "std_error", "lower", "upper", "statistic")]
        table.add_row(Text(row["name"]), *([Text(row["class"])] if classes else []), *cells, chance(row["p_value"]))
    return table
