"""Who gains: each client's gain with its interval, and gains against training rows with the size at which federating breaks even."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from scarcity_ray.inference.break_even import FEWEST, BreakEven, break_even
from scarcity_ray.report.page.charts.against import SizeGroup, against_rows
from scarcity_ray.report.page.charts.intervals import Estimate, forest
from scarcity_ray.report.page.charts.ranked import BOTTOM, HEIGHT, MOST, RIGHT, TOP, ranked
from scarcity_ray.report.page.charts.svg import WIDE
from scarcity_ray.report.page.facts import Facts, count
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.page.parts import Column, Figure, Panel, Part, Table
from scarcity_ray.report.units import number, signed
from scarcity_ray.results.client_report import SURE, ClientReport

_EACH = 60
"""Clients that have a line each in the chart; more stand side by side."""

_LISTED = 200
"""Clients that have a row each in the table; more are told in tenths."""

_GROUPS, _FEWEST = 6, 8
"""Groups of clients of like size, at most, and the clients of one, at least."""

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def gains(facts: Facts) -> Panel:
    """Both charts of the gains of the strategy of the verdict."""
    if facts.clients is None:
        return Panel("clients", "Gain by client")
    report = facts.clients
    words = [
        f"The gain of each client with {report.strategy} over itself alone, in {report.shown.short}; above 0 is better. It is given in the "
        "light of all clients' gains: one from few test rows is drawn to the mean. A client is surely better or worse off where its 90 % "
        "interval lies on one side of 0."
    ]
    parts: list[Part] = [_by_client(facts, report)]
    against = _against_rows(facts, report)
    return Panel("clients", "Gain by client", words, [*parts, *([against] if against is not None else [])])


def _by_client(facts: Facts, report: ClientReport) -> Figure:
    gain, low, high = (facts.column(name) for name in ("gain", "gain_low", "gain_high"))
    known = np.isfinite(gain)
    sure = np.array([0 if one is None else {word: sign for sign, word in SURE.items()}[one] for one in report.table["sure"].to_pylist()])
    better, worse = report.count(1), report.count(-1)
    title, label, zero = "Each client's gain, with its 90 % interval", f"gain in {report.shown.short}", "no gain"
    description = f"Of {count(known.sum(), 'client')} {better:,} are surely better off and {worse:,} surely worse off."
    if without := int((~known).sum()):
        description += f" {without:,} more have no gain: their test rows define none, or they have no model."
    if known.sum() <= _EACH:
        marks = {1: "better", -1: "worse", 0: "open"}
        lines = [
            Estimate(shown(name, 24), gain[i], low[i], high[i], marks[int(sure[i])], signed(gain[i]))
            for i, name in reversed(list(enumerate(facts.names)))
            if known[i]
        ]
        height, chart = forest(lines, label=label, zero=zero)
        ranks = f"{height - 46:g} 30 0 {WIDE} 1"
        description += " Filled: surely better; a square: surely worse; a ring: the client's rows cannot tell."
    else:
        height = HEIGHT
        left, chart = ranked(gain[known], low[known], high[known], sure[known], label=label, zero=zero)
        ranks = f"{left:g} {WIDE - RIGHT:g} {TOP:g} {HEIGHT - BOTTOM:g} 0"
        binned = f" More than {MOST:,} clients are drawn in groups of neighbours." if known.sum() > MOST else ""
        description += f" The largest gain is {signed(gain[known].max())}, the smallest {signed(gain[known].min())}.{binned}"
    return Figure("gain-by-client", title, description, chart, _clients_table(facts, report), height, ranks=ranks)


def _clients_table(facts: Facts, report: ClientReport) -> Table:
    table = report.table.to_pydict()
    if len(report.table) > _LISTED:
        return _tenths(facts, report)
    rows = [
        [
            name,
            f"{train:,}",
            f"{test:,}",
            number(alone),
            number(federated),
            "-" if gain is None else signed(gain),
            "-" if low is None else f"{signed(low)} to {signed(high)}",
            sure or "-",
        ]
        for name, train, test, alone, federated, gain, low, high, sure in zip(
            facts.names,
            *(table[key] for key in ("num_train", "num_test", "alone", "federated", "gain", "gain_low", "gain_high", "sure")),
            strict=True,
        )
    ]
    heads = ("training rows", "test rows", "alone", "federated", "gain", "90 % interval")
    columns = [Column("client", True), *(Column(head) for head in heads), Column("conclusion", True)]
    return Table("Each client, the smallest gain first", columns, rows)


def _tenths(facts: Facts, report: ClientReport) -> Table:
    """Tenths of the clients by gain, from the smallest."""
    known = np.isfinite(facts.column("gain"))
    values = {name: facts.column(name)[known] for name in ("gain", "gain_low", "gain_high", "num_train")}
    sure = np.array(report.table["sure"].to_pylist(), dtype=object)[known]
    rows = []
    for place, part in enumerate(np.array_split(np.arange(known.sum()), 10)):
        mean = {name: float(one[part].mean()) for name, one in values.items()}
        interval = f"{signed(mean['gain_low'])} to {signed(mean['gain_high'])}"
        counts = [f"{(sure[part] == word).sum():,}" for word in (SURE[1], SURE[-1])]
        rows.append([f"tenth {place + 1}", f"{len(part):,}", f"{mean['num_train']:,.1f}", signed(mean["gain"]), interval, *counts])
    heads = ("clients", "mean training rows", "mean gain", "mean 90 % interval", "surely better", "surely worse")
    note = "Every client is in the field above, and in `scarcity-ray clients RUN_DIR --csv FILE`."
    return Table("Tenths of the clients, the smallest gains first", [Column("clients", True), *map(Column, heads)], rows, note=note)


def _against_rows(facts: Facts, report: ClientReport) -> Figure | None:
    rows, gain = facts.column("num_train"), facts.column("measured_gain")
    known = (rows > 0) & np.isfinite(gain)
    rows, gain = rows[known], gain[known]
    if len(np.unique(rows)) < 3:
        return None
    groups, margin = _groups(rows, gain), float(facts.summary.get("margin") or 0.0)
    found = break_even(rows, gain, margin=margin)
    line = None if found is None else (found.at_fewest, found.at_most)
    words = in_words(found, rows, margin)
    even = found.rows if found is not None and _told(found, rows) else None
    chart = against_rows(rows, gain, groups, line, even, label=f"measured gain in {report.shown.short}", zero="no gain")
    cells = [
        [
            f"{group.fewest:,} to {group.most:,}" if group.most > group.fewest else f"{group.fewest:,}",
            f"{group.clients:,}",
            signed(group.mean),
            "-" if math.isnan(group.low) else f"{signed(group.low)} to {signed(group.high)}",
        ]
        for group in groups
    ]
    columns = [Column("training rows"), Column("clients"), Column("mean gain"), Column("95 % interval")]
    table = Table("Gain by training rows", columns, cells)
    dots = "Dots: clients, as measured on their own test rows. " if len(rows) <= MOST else ""
    drawn = f"{dots}Discs: means of clients of like size, with 95 % intervals."
    note = (
        "The line is fitted by least squares over the logarithm of rows. Its intervals allow for unequal scatter (HC3), that of the "
        "break-even size is Fieller's."
        if found is not None
        else ""
    )
    return Figure("gain-by-rows", "Gain against training rows, and the break-even size", f"{words} {drawn}", chart, table, 320, note=note)


def in_words(found: BreakEven | None, rows: Floats, margin: float = 0.0) -> str:
    """Whether gains depend on rows, and at how many rows they end. rows: `[clients]`, training rows."""
    if found is None:
        return "There are too few clients to tell how gains depend on rows."
    fewest, most = float(rows.min()), float(rows.max())
    beyond = f"the margin of {number(margin)}" if margin else "0"
    ends = f"{signed(found.slope_low)} to {signed(found.slope_high)}"
    if math.isnan(found.rows):
        return f"Gains do not surely depend on the number of rows: twice the rows add {signed(found.slope)} (95 % interval {ends})."
    slope = f"Twice the rows add {signed(found.slope)} to the gain (95 % interval {ends})."
    if not fewest <= found.rows <= most:
        side = "above" if found.at_fewest > margin else "below"
        return f"{slope} The line stays {side} {beyond} from {fewest:,.0f} to {most:,.0f} rows: no size that occurs breaks even."
    at = f"about {found.rows:,.0f} training rows"
    if not _told(found, rows):
        few = int(min((rows < found.rows).sum(), (rows > found.rows).sum()))
        side = "larger" if (rows > found.rows).sum() == few else "smaller"
        are = f"only {count(few, 'client')} {'is' if few == 1 else 'are'} {side}"
        return f"{slope} The line reaches {beyond} at {at}, but {are}: too few to tell whether there is a break-even size."
    low = f"fewer than {fewest:,.0f}" if found.low < fewest else f"{found.low:,.0f}"
    high = f"more than {most:,.0f}" if found.high > most else f"{found.high:,.0f}"
    who = "smaller clients gain" if found.slope < 0 else "larger clients gain"
    return f"The mean gain is {beyond} at {at} (95 % interval {low} to {high}): {who} from the others, the rest do not. {slope}"


def _told(found: BreakEven, rows: Floats) -> bool:
    """Whether the line breaks even among the clients, and not beyond most of them: a line says little where nobody is."""
    return bool(min((rows < found.rows).sum(), (rows > found.rows).sum()) >= FEWEST)


def _groups(rows: Floats, gain: Floats) -> Sequence[SizeGroup]:
    """Clients of like size: as many in each as ties allow."""
    wanted = int(np.clip(len(rows) // _FEWEST, 1, _GROUPS))
    edges = np.unique(np.quantile(rows, np.linspace(0, 1, wanted + 1)[1:-1])) if wanted > 1 else np.zeros(0)
    place = np.searchsorted(edges, rows, side="left")
    found = []
    for one in np.unique(place):
        size, values = rows[place == one], gain[place == one]
        count, mean = len(values), float(values.mean())
        half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
        middle = float(np.exp(np.log(size).mean()))
        found.append(SizeGroup(int(size.min()), int(size.max()), middle, count, mean, mean - half, mean + half))
    return found
