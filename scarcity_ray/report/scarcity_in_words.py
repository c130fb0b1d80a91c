"""What each scarcity costs, on the terminal: two tables and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.inference.conclusion import Verdict
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import duration, listed, number, short_number, size
from scarcity_ray.scenario.what_if import ALL

WORDS = {
    "samples": "few training rows",
    "compute": "devices",
    "network": "links",
    "availability": "absences",
    "dropout": "failures",
    "energy": "batteries",
    "budget": "budgets",
    "deadline": "deadline",
}
"""The scarcities as a sentence names them."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def shown_of(found: Mapping[str, Any]) -> Shown:
    """The metric that decides in a report, the content of scarcity.json."""
    return headline(found["task"], found["metric"])


def amount(value: float, shown: Shown) -> str:
    """A cost without its unit: points, hundredths, of a metric from 0 to 1; else in the metric's own unit."""
    return f"{round(100 * value, 1) + 0.0:.1f}" if shown.metric.bounded else f"{value + 0.0:.3g}"


def unit(shown: Shown) -> str:
    """What costs are counted in."""
    return f"points of {shown.short}" if shown.metric.bounded else f"in {shown.short}"


def in_words(found: Mapping[str, Any]) -> str:
    """The report in one sentence: the scarcity that costs most, whom, how much, and the best strategy under all of them."""
    return f"{_most(found)}; {_best(found)}."


def show_scarcity(console: Console, found: Mapping[str, Any], directory: Path) -> None:
    """Prints costs by strategy, the best strategy of each row, and the sentence. found: the content of scarcity.json."""
    console.print()
    print_table(console, _costs_table(found), names=2)
    notes = ["alone: nothing scarce - only this", "beside the others: all but this - all (its shadow price)", "90 % intervals"]
    notes.append("interaction: above 0 the scarcities make each other worse, below 0 they overlap")
    if any(run["status"] == "diverged" for row in found["runs"].values() for run in row["strategies"].values()):
        notes.append("-: the strategy diverged in one of the two runs")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False)
    console.print()
    if found["budgets"]:
        print_table(console, _more_table(found), names=2)
        console.print()
    print_table(console, _runs_table(found), names=2)
    notes = ["of the best strategy, a client; several: which of them is best cannot be told"]
    if found["most"] is not None and found["most"]["of"] > 1:
        notes.append(f"the interval in the sentence below holds although the largest of {found['most']['of']} similar costs is named")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False)
    console.print()
    console.print(in_words(found), highlight=False, markup=False)
    files = " and ".join(f"{directory}/scarcity.{kind}" for kind in ("png", "csv") if (directory / f"scarcity.{kind}").exists())
    console.print(f"Look at {files}; the runs are in {directory}/scarcity.", highlight=False, markup=False, soft_wrap=True)


def _costs_table(found: Mapping[str, Any]) -> Table:
    shown = shown_of(found)
    table = _table(f"what each scarcity costs, {unit(shown)} (above 0: worse)")
    for head in ("strategy", "scarcity"):
        table.add_column(head, overflow="fold")
    for head in ("alone", "beside the others"):
        table.add_column(head, justify="right", no_wrap=True)
    for strategy, costs in found["costs"].items():
        name = Text(strategy)
        for scarcity in found["scarcities"]:
            cells = (costs[quantity][scarcity] for quantity in ("alone", "beside_the_others"))
            table.add_row(name, scarcity, *(_cell(cost, shown) for cost in cells))
            name = Text("")
        if len(found["scarcities"]) > 1:
            table.add_row("", "all together", _cell(costs["together"], shown), Text(""))
            table.add_row("", "interaction", _cell(costs["interaction"], shown), Text(""))
        table.add_section()
    return table


def _more_table(found: Mapping[str, Any]) -> Table:
    shown = shown_of(found)
    table = _table(f"what 25 % more of a budget is worth beside all else, {unit(shown)} (above 0: better)")
    for head in ("strategy", "budget"):
        table.add_column(head, overflow="fold")
    table.add_column("worth", justify="right", no_wrap=True)
    for strategy, costs in found["costs"].items():
        name = Text(strategy)
        for budget, worth in costs["worth_of_more"].items():
            table.add_row(name, budget.replace("_", " "), _cell(worth, shown))
            name = Text("")
        table.add_section()
    return table


def _runs_table(found: Mapping[str, Any]) -> Table:
    """The best strategies of each row, and what the first of them reached and took."""
    table = _table("which strategy suits which world")
    table.add_column("world")
    table.add_column("best", overflow="fold")
    for head in (shown_of(found).short, "time", "energy", "bytes"):
        table.add_column(head, justify="right", no_wrap=True)
    for row, run in found["runs"].items():
        spent = run["strategies"].get(run["best"][0]) if run["best"] else None
        cells = ["-"] * 4
        if spent is not None:
            hours, joules = spent["hours"], spent["joules"]
            clock = "-" if hours is None else duration(3600 * hours)
            cells = [number(spent["value"]), clock, "-" if joules is None else f"{short_number(joules)} J", size(spent["bytes"])]
        table.add_row(row.replace("_", " "), Text(" or ".join(run["best"]) or "none learns surely"), *cells)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _cell(cost: Mapping[str, Any], shown: Shown) -> Text:
    """A cost and its interval, bold where that leaves 0 out."""
    sure = cost["low"] is not None and (cost["low"] > 0 or cost["high"] < 0)
    words = "-" if cost["mean"] is None else f"{amount(cost['mean'], shown)}{_interval(cost, shown)}"
    return Text(words, style="bold" if sure else "")


def _interval(cost: Mapping[str, Any], shown: Shown) -> str:
    return "" if cost["low"] is None else f" ({amount(cost['low'], shown)} to {amount(cost['high'], shown)})"


def _most(found: Mapping[str, Any]) -> str:
    most, shown, parts = found["most"], shown_of(found), found["scarcities"]
    if most is None:
        return "No federated strategy surely learns where nothing is scarce, so no scarcity costs it anything that can be told"
    strategy, scarcity = most["strategy"], most["scarcity"]
    mean, verb = amount(most["mean"], shown), "costs" if scarcity == "deadline" else "cost"
    words = f"the {WORDS[scarcity]}"
    if len(parts) == 1:
        unsure = "" if _sure(most) else " and perhaps nothing"
        return f"{_capital(words)} {verb} {strategy} {mean} {unit(shown)}{_interval(most, shown)}{unsure}"
    beside = found["costs"][strategy]["beside_the_others"][scarcity]["mean"]
    rest = f"{mean} {unit(shown)} alone{_interval(most, shown)}" + (
        "" if beside is None else f", {amount(beside, shown)} beside the others"
    )
    if not _sure(most):
        none = f"{'Neither' if len(parts) == 2 else 'None'} of the {_NUMBERS[len(parts)]} scarcities surely costs a strategy anything alone"
        return f"{none}: {words} {verb} {strategy} most, {rest}"
    perhaps = f", or perhaps {listed([f'the {WORDS[other]}' for other in most['as_much']], 'or')}," if most["as_much"] else ""
    return f"Of the {_NUMBERS[len(parts)]} scarcities {words}{perhaps} {verb} {strategy} most: {rest}"


def _best(found: Mapping[str, Any]) -> str:
    run = found["runs"][ALL]
    under = "under all of them" if len(found["scarcities"]) > 1 else "with it"
    if run["verdict"] is None:
        return f"{under} no federated strategy came to a result that can be compared"
    if not run["best"]:
        return f"{under} no strategy is surely better than a guess"
    one = f"{run['best'][0]} is best" if len(run["best"]) == 1 else f"{listed(run['best'], 'or')} is best, which of them cannot be told"
    return f"{under} {one}" + (", and federating does not pay" if run["verdict"] == Verdict.DOES_NOT_PAY.value else "")


def _sure(cost: Mapping[str, Any]) -> bool:
    return cost["low"] is not None and cost["low"] > 0


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
