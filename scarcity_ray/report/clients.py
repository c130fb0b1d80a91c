"""Each client of a finished run on the terminal: whom federating helps, whom it harms, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.report.final_table import marked
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.units import number, short_number, signed
from scarcity_ray.report.verdict import for_whom, learned_in_words, nothing_learned
from scarcity_ray.results.client_report import ClientReport

_LONGEST_LINE = 30
"""Characters of words in one line."""


class _Column(NamedTuple):
    """head: may have two lines. cells: one a client. words: whether it holds words, which stand at the left. stays: whether the table
    says nothing without it."""

    head: str
    cells: list[str]
    words: bool = False
    stays: bool = False

    @property
    def width(self) -> int:
        """Characters of its widest line, with the space before it; a long name takes several lines."""
        widest = max(cell_len(line) for line in (*self.head.split("\n"), *self.cells))
        return 1 + (min(widest, _LONGEST_LINE) if self.words else widest)


def show_clients(console: Console, report: ClientReport, summary: Mapping[str, Any]) -> None:
    """Prints the table, worst gain first, and what it says. summary: the run's. Columns without room on the console are named below."""
    columns, left_out = _fitting(_columns(report), console.width)
    title = f"{report.shown.long} of each client, alone and with {marked(report.strategy, summary['strategies'][report.strategy])}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for each in columns:
        table.add_column(each.head, justify="left" if each.words else "right")
    for cells in zip(*(each.cells for each in columns), strict=True):
        table.add_row(*map(Text, cells))
    print_table(console, table)
    console.print("; ".join(_notes(report, left_out)), style="dim", highlight=False, markup=False)
    console.print()
    console.print(_in_words(report, summary), highlight=False, markup=False)


def _columns(report: ClientReport) -> list[_Column]:
    """All columns that have something to show, the most important ones first."""
    found = report.table.to_pydict()
    intervals = zip(found["gain_low"], found["gain_high"], strict=True)
    experts = [expert or "-" for expert in found["expert"]]
    rows = zip(found["num_train"], found["num_test"], strict=True)
    return [
        _Column("\nclient", found["client"], words=True, stays=True),
        *([_Column("\nseed", list(map(str, found["seed"])), stays=True)] if report.per_seed else []),
        _Column("train\n+test", [f"{train:,}+{test:,}" for train, test in rows]),
        _Column("\nalone", list(map(number, found["alone"]))),
        _Column("\nfederated", list(map(number, found["federated"]))),
        _Column("\ngain", ["-" if gain is None else signed(gain) for gain in found["gain"]], stays=True),
        _Column("90 %\ninterval", ["-" if low is None else f"{signed(low)} to {signed(high)}" for low, high in intervals], stays=True),
        _Column("", [sure or "-" for sure in found["sure"]], words=True, stays=True),
        *([_Column("\nexpert", experts)] if len(set(experts)) > 1 else []),
        _Column("KB\nsent", [short_number(sent / 1024) for sent in found["uplink_bytes"]]),
        _Column("KB\nreceived", [short_number(received / 1024) for received in found["downlink_bytes"]]),
    ]


def _fitting(columns: list[_Column], width: int) -> tuple[list[_Column], list[_Column]]:
    """The columns that have room, and those that have none: the last ones, of those that may be missing."""
    kept = list(columns)
    for each in reversed(columns):
        if not each.stays and sum(one.width for one in kept) > width:
            kept.remove(each)
    return kept, [each for each in columns if each not in kept]


def _notes(report: ClientReport, left_out: list[_Column]) -> list[str]:
    notes = [
        "gain: above 0 is better, in the light of all clients' gains, so it is less extreme than the difference of the two columns",
        "surely: less than 5 % of doubt, so the 90 % interval lies on one side of 0",
    ]
    if report.seeds > 1:
        notes.append(f"means over {report.seeds} seeds, or those of them in which the client has a value")
    if left_out:
        notes.append(f"no room for {', '.join(' '.join(each.head.split()) for each in left_out)}, which --csv FILE has")
    return notes


def _in_words(report: ClientReport, summary: Mapping[str, Any]) -> str:
    counts = dict(zip(("surely_better", "surely_worse", "cannot_tell"), map(report.count, (1, -1, 0)), strict=True))
    judged = sum(counts.values())
    of = f"{judged:,} {'client' if judged == 1 else 'clients'}" + (", counted under each seed," if report.per_seed else "")
    if not judged:
        undefined = f"no test rows that define {report.shown.short}, no model, or a run of a version that measured no gains"
        return f"No client has a gain: {undefined}."
    sentences = [for_whom(counts, of)]
    if without := len(report.table) - judged:
        have = "has" if without == 1 else "have"
        sentences.append(f"{without:,} more {have} no gain: no test rows that define {report.shown.short}, or no model.")
    if nothing_learned(summary):
        sentences.append(f"{learned_in_words(summary)}.")
    if report.as_good is not None:
        one, other = report.strategy, report.as_good
        sentences.append(f"No single strategy is best: {one} or {other}. The table is of {one}; --strategy {other} shows the other.")
    return " ".join(sentences)
