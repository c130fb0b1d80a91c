"""The table at the end of a search: what was found for each strategy, how it did on fresh seeds, and what the search cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import number, size
from scarcity_ray.report.verdict import rivals

_FRESH = {
    "draws": "",
    "trainings": ", on the same rows",
    "splits": ", which split the same rows again, so that some of them served in the search",
    "deals": ", which deal the same rows again, so that some of them served in the search",
}
"""What is fresh about a seed, by `Data.repeats`."""


def show_tuned(console: Console, answer: Mapping[str, Any], directory: Path) -> None:
    """Prints the table and what it says. answer: the content of tune.json."""
    console.print()
    print_table(console, tuned_table(answer))
    folds = "their own validation rows" if answer["folds"] == 1 else f"{answer['folds']} inner folds of training and validation rows"
    notes = f"validation: {answer['metric']} on {folds}; test: on {answer['repeats']} fresh seeds{_FRESH[answer['fresh']]}; "
    notes += "optimism: how much worse the test is"
    console.print(notes, style="dim", highlight=False, markup=False)
    if answer["bytes"] is not None:
        console.print(f"every strategy: as many rounds as {size(answer['bytes'])} a client allow", style="dim", highlight=False)
    for line in tuned_in_words(answer):
        console.print(line, highlight=False, markup=False)
    console.print(f"scarcity-ray run {directory}/best.yaml plays the best settings again.", highlight=False, markup=False, soft_wrap=True)


def tuned_table(answer: Mapping[str, Any]) -> Table:
    """A row a strategy."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("strategy", overflow="fold", min_width=10)
    for head in ("valid-\nation", "\ntest", "opti-\nmism", "\ntrials", "\nupdates", "di-\nverged"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("\nbest setting", overflow="fold")
    for name, one in answer["strategies"].items():
        spread = "" if one["std"] is None else f"±{one['std']:.3f}".replace("±0.", "±.")
        setting = ", ".join(f"{path.rsplit('.', 1)[-1]} {_plain(value)}" for path, value in (one["parameters"] or {}).items())
        cells = (
            number(one["validation"]),
            number(one["test"]) + spread,
            number(one["optimism"]),
            f"{one['trials']:,}",
            f"{one['updates']:,}",
        )
        table.add_row(Text(name), *cells, f"{one['diverged']:,}", Text(setting or "-"), style="bold" if name in answer["best"] else "")
    return table


def tuned_in_words(answer: Mapping[str, Any]) -> list[str]:
    """Who is best, who ties, and where the space may be too small."""
    lines = rivals(answer["best"], answer["comparisons"])
    for name, one in answer["strategies"].items():
        if one["edges"]:
            lines.append(f"{name}: the best setting lies at an edge of the space ({', '.join(one['edges'])}): a wider one may be better.")
        if one["parameters"] is None:
            lines.append(f"{name}: no trial finished, so it has no final test.")
        if one["too_large"]:
            lines.append(f"{name}: {one['too_large']:,} trials did not fit into the bytes that are allowed.")
        if one["impossible"]:
            lines.append(f"{name}: {one['impossible']:,} trials had values that the strategy does not take together.")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{name} {_plain(one)}" for name, one in value.items() if name != "kind")
        return f"{value.get('kind', '')} ({rest})".strip() if rest else str(value.get("kind", ""))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
