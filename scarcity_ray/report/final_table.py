"""The table at the end of a run: for each strategy what it reached, for which clients, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.core.metrics import POOLED, UNDEFINED, WORST, further, headline
from scarcity_ray.report.coefficients import show_coefficients
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.never_joined import never_joined_in_words
from scarcity_ray.report.units import duration, number, short_number, size
from scarcity_ray.report.verdict import nothing_learned, verdict
from scarcity_ray.results.screened import in_words
from scarcity_ray.results.target import STAYS

_NAMED = 5  # clients that a line names at most

_BY_LABELS = 0.5
"""Share of the variance of clients' class shares between experts, from which the report warns. Experts for three true groups of digits have
.03 at most (54 clients, Dirichlet .3 to 10, 15 runs); one or two classes a client alone made no expert in 10 runs."""
_REPEATS = {
    "splits": ", each a new split of the same clients' rows",
    "trainings": ", each another training on the same rows, tested on the same rows",
    "deals": ", each dealing the same rows to other clients",
    "draws": ", each with rows of its own",
}


def final_table(summary: Mapping[str, Any]) -> Table:
    """A row a strategy, from the content of summary.json. With repeats `mean±standard deviation` over seeds.

    The metric that decides has all its columns, every further one its mean over clients.
    """
    shown = headline(summary["task"], summary.get("metric"))
    others = [one for one in further() if any(entry.get(one.key) is not None for entry in summary["strategies"].values())]
    table = Table(
        title=summary["question"] or summary["scenario"],
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("strategy", overflow="fold", min_width=10)
    wide = any("seeds" in entry for entry in summary["strategies"].values())  # with spreads, 80 columns have no room for more
    rows = () if wide else ("all\nrows",)
    heads = (f"{shown.short}\nmean", *rows, "worst\ntenth", *(f"{one.short}\nmean" for one in others))
    for head in (*heads, "surely\nbetter", "surely\nworse", "KB a\nclient", "\nrounds", "\nseconds"):
        table.add_column(head, justify="right", no_wrap=True)
    best, learned = (summary.get("best") or {"strategies": []})["strategies"], not nothing_learned(summary)
    for name, entry in summary["strategies"].items():
        style = "bold" if name in best else "red" if entry["status"] == "diverged" or entry.get("not_learned") else ""
        table.add_row(
            Text(marked(name, entry)),
            _cell(entry, shown.key),
            *(_cell(entry, f"{shown.key}{POOLED}") for _ in rows),
            _cell(entry, f"{shown.key}{WORST}"),
            *(_cell(entry, one.key) for one in others),
            *(_count(entry, name) if learned else "-" for name in ("surely_better", "surely_worse")),
            short_number(entry["bytes_per_client"] / 1024),
            f"{entry['rounds']:g}" if entry["rounds"] else "-",
            short_number(entry["seconds"]) if entry["rounds"] else "-",
            style=style,
        )
    return table


def marked(name: str, entry: Mapping[str, Any]) -> str:
    """A strategy's name, and in brackets why its numbers are not, or may not be, what it can reach. entry: its part of summary.json."""
    marks = [word for word, is_so in _marks(entry).items() if is_so]
    return f"{name} ({', '.join(marks)})" if marks else name


def _marks(entry: Mapping[str, Any]) -> dict[str, bool]:
    """What stands beside a strategy's name."""
    failed = entry.get("not_learned", False) and entry["status"] != "diverged"
    falls = entry.get("still_falling", False) and entry["status"] == "finished" and not failed
    return {entry["status"]: entry["status"] != "finished", "not learned": failed, "still falling": falls}


def show_final(console: Console, summary: Mapping[str, Any], directory: Path) -> None:
    """Prints the table, the verdict and where to look."""
    console.print()
    print_table(console, final_table(summary))
    shown = headline(summary["task"], summary.get("metric"))
    notes = [f"mean: {shown.over}", "all rows: over test rows", "worst tenth: of the clients"]
    notes.append("surely better and worse: clients, against themselves alone")
    seeds = max((len(entry.get("seeds", ())) for entry in summary["strategies"].values()), default=0)
    if seeds > 1:
        notes.remove("all rows: over test rows")
        notes.append(f"mean±standard deviation over {seeds} seeds{_REPEATS.get(summary.get('repeats', ''), '')}")
    without = max((entry.get(f"{shown.key}{UNDEFINED}") or 0 for entry in summary["strategies"].values()), default=0)
    if without:
        have, often = "has" if without == 1 else "have", " in a seed on average" if seeds > 1 else ""
        notes.append(f"{without:,.0f} of {summary['clients']:,} clients{often} {have} test rows without {shown.short}, and do not count")
    if any(_marks(entry)["not learned"] for entry in summary["strategies"].values()):
        notes.append("not learned: worse than a guess, and out of the comparison")
    if any(_marks(entry)["still falling"] for entry in summary["strategies"].values()):
        notes.append("still falling: the loss fell until the end, more rounds would gain more")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False)
    console.print()
    console.print(verdict(summary), highlight=False, markup=False)
    for line in (*target_in_words(summary), *never_joined_in_words(summary), *experts_in_words(summary)):
        console.print(line, highlight=False, markup=False)
    if any("strangers" in entry for entry in summary["strategies"].values()):
        console.print()
        print_table(console, unseen_clients_table(summary))
        console.print()
    if any(entry.get("coefficients") for entry in summary["strategies"].values()):
        console.print()
        show_coefficients(console, summary)
    drawn = [f"{directory}/{name}" for name in ("report.html", "curves.png", "experts.png") if (directory / name).exists()]
    plots = " and ".join([", ".join(drawn[:-1]), drawn[-1]] if len(drawn) > 1 else drawn)
    look = f"Look at {plots}; all" if plots else "All"
    console.print(f"{look} numbers are in {directory}.", highlight=False, markup=False, soft_wrap=True)


def experts_in_words(summary: Mapping[str, Any]) -> list[str]:
    """For each ensemble the features that were chosen, the number of its experts, their clients, and why there are so many."""
    lines = []
    for name, entry in summary["strategies"].items():
        first = next(iter(entry.get("seeds", {"": entry}).values()))
        if not isinstance(first.get("experts"), list):
            continue
        if choice := first.get("representation"):
            errors = ", ".join(f"{block} {error:.3g}" for block, error in choice["errors"].items())
            rule = f"{choice['usual']} is used unless another is lower by a standard error"
            tried = f"; squared error of clients' own heads on left-out rows: {errors} ({rule})" if errors else ", without a trial"
            lines.append(f"{name}: representation {choice['chosen']}{tried}.")
        sizes = [f"{expert['clients']:,}" for expert in first["experts"]]
        tried = ", ".join(f"{k}: {surprise:.3g}" for k, surprise in first["evidence"].items())
        many = "one expert" if len(sizes) == 1 else f"{len(sizes)} experts"
        judged = "; minus log density of rows that had no say (less is better), by number of experts"
        why = f"{judged}: {tried}" if len(first["evidence"]) > 1 else ""
        lines.append(f"{name}: {many} of {' + '.join(sizes)} clients{why}.")
        if first.get("separate") is False:
            lines.append(
                f"{name}: clients lie between its experts as often as near one: these are parts that clients mix, and no groups of clients."
            )
        if (mix := first.get("label_mix")) is not None and mix > _BY_LABELS:
            lines.append(
                f"{name}: its experts follow the label mix: {mix:.0%} of the variance of clients' class shares lies between them. "
                "Other classes, not another relation of inputs and classes, may be all that sets these clients apart."
            )
        if harm := first.get("harm"):
            who = ", ".join(str(one.get("name", one["client"])) for one in harm[:_NAMED]) + (
                f" and {len(harm) - _NAMED:,} more" if len(harm) > _NAMED else ""
            )
            lines.append(f"{name}: surely worse for the others because of client {who} (contribution_high below 0 in the clients table).")
        found = [in_words(one) for one in first.get("screened", ())]
        lines += [f"{name}: {words}." for words in found[:_NAMED]]
        if len(found) > _NAMED:
            lines.append(f"{name}: {len(found) - _NAMED:,} more such messages are in summary.json.")
        if "calibration" in first:
            lines.append(f"{name}: class probabilities are off by {first['calibration']['error']:.1%} on average, on clients' test rows.")
        if len(sizes) > 1 and "load" in first:
            shares = ", ".join(f"{share:.0%}" for share in first["load"].values())
            lines.append(f"{name}: of the strangers' inputs the router sends {shares} to them.")
    return lines


def target_in_words(summary: Mapping[str, Any]) -> list[str]:
    """What each strategy took to reach the target; of several seeds the mean where all reached it."""
    if not (target := summary.get("target")):
        return []
    (metric, value), told = next(iter(target.items())), []
    for name, entry in summary["strategies"].items():
        seeds = list(entry.get("seeds", {"": entry}).values())
        if not all("target" in one for one in seeds):
            continue
        reached = [one["target"] for one in seeds if one["target"]["rounds"] is not None]
        if not reached:
            told.append(f"{name} never")
            continue
        mean = {key: None if reached[0][key] is None else sum(one[key] for one in reached) / len(reached) for key in reached[0]}
        spent = [f"{mean['rounds']:.3g} rounds", size(mean["bytes"] or 0)]
        spent += [] if mean["hours"] is None else [duration(3600 * mean["hours"])]
        spent += [] if not mean["joules"] else [f"{short_number(mean['joules'])} J"]
        some = "" if len(reached) == len(seeds) else f", in {len(reached)} of {len(seeds)} seeds"
        told.append(f"{name} after {', '.join(spent)}{some}")
    words = headline(summary["task"], metric).short
    return [f"{words} of {number(value)}, kept for {STAYS} evaluations: {'; '.join(told)} (bytes and joules a client)."] if told else []


def unseen_clients_table(summary: Mapping[str, Any]) -> Table:
    """How good the answers are for clients that never took part, by who answers."""
    ways = {"router": "router", "oracle": "true group's\nexpert", "global": "one model\nfor all", "average": "mean of\nexperts"}
    title = f"clients that never took part: {headline(summary['task']).short} by who answers"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("strategy")
    for head in ways.values():
        table.add_column(head, justify="right")
    for name, entry in summary["strategies"].items():
        if "strangers" in entry:
            found = {"std": {way: entry.get("std", {}).get(f"strangers.{way}") for way in ways}, **entry["strangers"]}
            table.add_row(Text(name), *(_cell(found, way) for way in ways))
    return table


def _cell(entry: Mapping[str, Any], key: str) -> str:
    spread = entry.get("std", {}).get(key)
    if spread is None or spread != spread:
        return number(entry.get(key))
    return f"{number(entry.get(key))}±{f'{spread:.3f}'.lstrip('0') if spread < 10 else number(spread)}"


def _count(entry: Mapping[str, Any], name: str) -> str:
    """A number of clients; "-" where the strategy has no client with a gain, so none could be counted."""
    return f"{entry['gain'][name]:,}" if entry.get("gain", {}).get("clients") else "-"
