"""Several runs side by side on the terminal: the strategies, all pairs, and what can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.core.metrics import headline
from scarcity_ray.report.final_table import marked
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import chance, duration, listed, number, short_number, signed
from scarcity_ray.results.scarcity_costs import SURE
from scarcity_ray.results.summary import NOT_FEDERATED

_MOST = 20  # pairs that the terminal shows
_NAMED = 8  # strategies that a sentence names


def show_comparison(console: Console, found: Mapping[str, Any]) -> None:
    """Prints the table, all pairs where they are more than one, and a sentence. found: see results.comparison.compare."""
    pairs, shown = found["comparisons"], headline(found["task"], found["metric"])
    print_table(console, comparison_table(found))
    notes = [f"mean: {shown.over}", "worst tenth: of the clients"]
    notes.append(f"difference: to {found['reference']} in {shown.short}, above 0 is better, with its 95 % interval")
    if pairs:
        notes.append("Holm's p: of all pairs together, however the reference was chosen; an interval is of one difference alone")
    notes.append("KB, rounds and hours: of a run, KB a client" if any(_has_hours(found)) else "KB and rounds: of a run, KB a client")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False)
    console.print()
    if len(pairs) > 1:
        print_table(console, _pairs_table(pairs), names=2)
        if len(pairs) > _MOST:
            console.print(f"{len(pairs) - _MOST:,} more pairs with --json", style="dim", highlight=False, markup=False)
        console.print()
    console.print(in_words(found), highlight=False, markup=False)


def comparison_table(found: Mapping[str, Any]) -> Table:
    """A row a strategy, the reference in bold."""
    shown, clock = headline(found["task"], found["metric"]), any(_has_hours(found))
    table = _table(_title(found))
    table.add_column("strategy", overflow="fold")
    heads = [f"{shown.short}\nmean", "worst\ntenth", "\ndifference", "95 %\ninterval", "Holm's\np", "KB a\nclient", "\nrounds"]
    for head in [*heads, *(["\ntime"] if clock else [])]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, entry in found["strategies"].items():
        apart = entry["difference"] or {"mean": None, "low": None, "p_holm": None}
        cells = [number(entry["mean"]), number(entry["worst_tenth"]), _signed(apart["mean"]), _interval(apart), chance(apart["p_holm"])]
        cells += [short_number(entry["bytes_per_client"] / 1024), f"{entry['rounds']:g}" if entry["rounds"] else "-"]
        cells += [] if not clock else ["-" if entry["hours"] is None else duration(3600 * entry["hours"])]
        table.add_row(Text(marked(name, entry)), *cells, style="bold" if name == found["reference"] else "")
    return table


def in_words(found: Mapping[str, Any]) -> str:
    """What the pairs tell, and what they do not."""
    pairs, entries = found["comparisons"], found["strategies"]
    compared = {name for pair in pairs for name in (pair["better"], pair["worse"])}
    if not compared:
        return "There are no two federated strategies with a result to compare, so nothing can be told."
    leader, reference = _leader(pairs), found["reference"]
    sentences = [_standing(leader, "", pairs)]
    if reference in compared and reference != leader:
        sentences.append(_standing(reference, ", the reference,", pairs))
    many = "The one pair" if len(pairs) == 1 else f"Of {len(pairs)} pairs {sum(map(_is_sure, pairs))}"
    told = "can be told apart" if any(map(_is_sure, pairs)) or len(pairs) > 1 else "cannot be told apart"
    sentences.append(f"{many} {told} by Holm's test.")
    if len(found["seeds"]) == 1:
        sentences.append("One seed does not tell how another training would turn out.")
    out = [name for name, entry in entries.items() if entry["kind"] not in NOT_FEDERATED and name not in compared]
    return " ".join(
        [*sentences, *([f"Not among the pairs: {listed([marked(name, entries[name]) for name in out], 'and')}."] if out else [])]
    )


def _leader(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The strategy that is the better one in most pairs, where all clients have a value: the one with the best mean."""
    wins = Counter(pair["better"] for pair in pairs)
    return str(wins.most_common(1)[0][0])


def _is_sure(pair: Mapping[str, Any]) -> bool:
    return pair["p_holm"] is not None and pair["p_holm"] <= SURE


def _standing(name: str, words: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    """What a strategy is surely better and worse than, what has the same values, and what cannot be told."""
    told: dict[str, list[str]] = {"surely better than": [], "surely worse than": [], "the same as": [], "": []}
    for pair in pairs:
        if name in (pair["better"], pair["worse"]):
            is_better = pair["better"] == name
            same = pair["gain"]["low"] == pair["gain"]["high"] == 0
            how = ("surely better than" if is_better else "surely worse than") if _is_sure(pair) else "the same as" if same else ""
            told[how].append(pair["worse" if is_better else "better"])
    unsure = told.pop("")
    known = [f"{how} {_some(others, 'and')}" for how, others in told.items() if others]
    sentences = [f"{name}{words} is {listed(known, 'and')}."] if known else []
    return " ".join([*sentences, *([f"It cannot be told whether {name} is better or worse than {_some(unsure, 'or')}."] if unsure else [])])


def _some(names: list[str], word: str) -> str:
    return listed(names if len(names) <= _NAMED + 1 else [*names[:_NAMED], f"{len(names) - _NAMED} more"], word)


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The pairs that can be told apart best come first."""
    table = _table("all pairs")
    for head in ("better", "worse"):
        table.add_column(head, overflow="fold")
    for head in ("by", "95 % interval", "Holm's p"):
        table.add_column(head, justify="right", no_wrap=True)
    for pair in sorted(pairs, key=lambda one: 1.0 if one["p_value"] is None else one["p_value"])[:_MOST]:
        cells = [_signed(pair["gain"]["mean"]), _interval(pair["gain"]), chance(pair["p_holm"])]
        table.add_row(Text(pair["better"]), Text(pair["worse"]), *cells, style="bold" if _is_sure(pair) else "")
    return table


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)


def _title(found: Mapping[str, Any]) -> str:
    """What is paired, and of which runs."""
    clients, seeds = f"{found['clients']:,} clients" if found["clients"] != 1 else "1 client", ", ".join(map(str, found["seeds"]))
    paired = f"{clients} under {'seed' if len(found['seeds']) == 1 else 'seeds'} {seeds}, paired"
    more = [
        f"{name} has {one['clients']:,} clients under {len(one['seeds'])} seeds"
        for name, one in found["runs"].items()
        if one["clients"] != found["clients"] or one["seeds"] != found["seeds"]
    ]
    return f"{', '.join(found['runs'])}: {paired}" + (f" ({'; '.join(more)})" if more else "")


def _has_hours(found: Mapping[str, Any]) -> list[bool]:
    return [entry["hours"] is not None for entry in found["strategies"].values()]


def _signed(value: float | None) -> str:
    return "-" if value is None else signed(value)


def _interval(apart: Mapping[str, Any]) -> str:
    return "-" if apart["low"] is None else f"{signed(apart['low'])} to {signed(apart['high'])}"
