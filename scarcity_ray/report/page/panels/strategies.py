"""The strategies side by side: what each gains over the clients alone, and what it reached and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.core.metrics import POOLED, UNDEFINED, WORST
from scarcity_ray.report.final_table import marked, target_in_words
from scarcity_ray.report.page.charts.intervals import Estimate, forest
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Figure, Panel, Part, Table
from scarcity_ray.report.units import number, signed, size


def strategies(facts: Facts) -> Panel:
    """A chart of the gains and the table of what the strategies reached."""
    words = ["Each strategy is compared with every client at its best alone, on the same test rows. Bold: the one of the verdict."]
    notes = [f"{line[0].upper()}{line[1:]}" for line in target_in_words(facts.summary)]
    parts: list[Part] = [figure] if (figure := _gains(facts)) is not None else []
    return Panel("strategies", "The strategies", [*words, *notes], [*parts, _table(facts)])


def _gains(facts: Facts) -> Figure | None:
    told = {name: entry["gain"] for name, entry in facts.entries.items() if (entry.get("gain") or {}).get("mean") is not None}
    if not told:
        return None
    lines = [
        Estimate(name, gain["mean"], gain["low"], gain["high"], _mark(gain), _said(gain), name in facts.best)
        for name, gain in sorted(told.items(), key=lambda item: -item[1]["mean"])
    ]
    bound = 1.0 if facts.decides.metric.bounded else None
    label = f"mean gain in {facts.decides.short}: to the right is better"
    height, chart = forest(lines, label=label, zero="each client alone", bound=bound)
    rows = [[one.name, signed(one.value), *(_end(end) for end in (one.low, one.high))] for one in lines]
    columns = [Column("strategy", True), Column("mean gain"), Column("from"), Column("to")]
    first = lines[0]
    description = (
        f"The mean gain of each strategy over the clients alone, with its 95 % interval. The largest is that of {first.name}: {first.said}."
    )
    table = Table("Mean gain over clients alone, with the 95 % interval", columns, rows)
    return Figure("gains-of-strategies", "Mean gain over the clients alone", description, chart, table, height)


def _table(facts: Facts) -> Table:
    shown, entries = facts.decides, facts.entries.values()
    spread = facts.seeds > 1
    undefined = max((entry.get(f"{shown.key}{UNDEFINED}") or 0 for entry in facts.entries.values()), default=0)
    columns = [
        Column("strategy", True),
        Column(f"{shown.short}, mean"),
        Column("over all rows"),
        Column("worst tenth of clients"),
        Column("surely better"),
        Column("surely worse"),
        Column("bytes a client"),
        Column("rounds"),
    ]
    rows = [
        [
            marked(name, entry),
            *(_cell(entry, f"{shown.key}{suffix}") for suffix in ("", POOLED, WORST)),
            *(
                f"{entry['gain'][which]:,}" if (entry.get("gain") or {}).get("clients") else "-"
                for which in ("surely_better", "surely_worse")
            ),
            size(entry["bytes_per_client"]),
            f"{entry['rounds']:,.0f}" if entry["rounds"] else "-",
        ]
        for name, entry in facts.entries.items()
    ]
    notes = [f"Mean: {shown.over}.", "alone: each client at its best by itself; guess: what predicts without inputs."]
    notes += ["not learned: worse than a guess, and out of the comparison."] if any(one.get("not_learned") for one in entries) else []
    notes += ["still falling: more rounds would gain more."] if any(one.get("still_falling") for one in entries) else []
    notes += [f"± is the standard deviation over {facts.seeds} seeds."] if spread else []
    notes += [f"{undefined:,.0f} clients have test rows that define no {shown.short}, and do not count."] if undefined else []
    strong = [place for place, name in enumerate(facts.entries) if name in facts.best]
    return Table("What each strategy reached, and what it cost", columns, rows, strong, " ".join(notes))


def _cell(entry: Mapping[str, Any], key: str) -> str:
    spread = entry.get("std", {}).get(key)
    return number(entry.get(key)) + (f" ± {spread:.2g}" if spread is not None and spread == spread else "")


def _mark(gain: dict[str, float | None]) -> str:
    low, high = gain["low"], gain["high"]
    return "better" if low is not None and low > 0 else "worse" if high is not None and high < 0 else "open"


def _said(gain: dict[str, float | None]) -> str:
    assert gain["mean"] is not None
    ends = "" if gain["low"] is None or gain["high"] is None else f" ({signed(gain['low'])} to {signed(gain['high'])})"
    return f"{signed(gain['mean'])}{ends}"


def _end(value: float | None) -> str:
    return "-" if value is None else signed(value)
