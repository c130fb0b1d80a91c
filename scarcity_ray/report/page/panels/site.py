"""Find my site: what the run says of one client, from the page's JSON block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Finder, Panel
from scarcity_ray.results.client_report import SURE

_DIGITS = 3
"""Significant digits of a typical value."""

_CODES = {SURE[1]: 1, SURE[0]: 0, SURE[-1]: -1, None: None}


def site(facts: Facts) -> Panel:
    """The field and what it searches."""
    if facts.clients is None:
        return Panel("site", "Find my site")
    who = f"{len(facts.names):,} clients{', each under each seed' if facts.clients.per_seed else ''}"
    return Panel("site", "Find my site", (), [Finder(_sites(facts), who)])


def _sites(facts: Facts) -> dict[str, Any]:
    """Columns by name, each `[clients]`, whole numbers in a unit of 10^-digits, null for none. They are in the order of the gains, so
    that a client's place is its rank."""
    assert facts.clients is not None
    report = facts.clients
    table, shown = report.table.to_pydict(), report.shown
    digits = 3 if shown.metric.bounded else _digits(facts.column("alone"))
    digits = min(max(digits, _digits(facts.column("gain"))), digits + 1)  # gains are smaller, and they are what is asked for
    contribution = _contribution(facts)
    told = [value for value in contribution if value is not None and value != 0]
    finer = _digits(told)
    columns: dict[str, Any] = {
        "name": facts.names,
        "train": table["num_train"],
        "test": table["num_test"],
        **{name: _scaled(facts.column(key), digits) for name, key in _MEASURED.items()},
        "sure": [_CODES[one] for one in table["sure"]],
        "bytes": [round(up + down) for up, down in zip(table["uplink_bytes"], table["downlink_bytes"], strict=True)],
    }
    if len(set(table["expert"])) > 1:
        columns["expert"] = table["expert"]
    if told:
        columns["contribution"] = _scaled(contribution, finer)
    if len(set(columns["bytes"])) == 1:
        columns["bytes"] = columns["bytes"][0]
    return {"metric": shown.short, "strategy": report.strategy, "digits": digits, "finer": finer, "columns": columns}


_MEASURED = {"alone": "alone", "federated": "federated", "gain": "gain", "low": "gain_low", "high": "gain_high"}


def _contribution(facts: Facts) -> list[float | None]:
    """What each client's data save the others of its expert, a mean over seeds; None where it is not known."""
    assert facts.clients is not None
    report = facts.clients
    columns = ["strategy", "seed", "round", "client_id", "contribution"]
    frame = facts.results.table("clients", columns, [("strategy", "=", report.strategy)]).to_pandas()
    frame = frame[frame["round"] == frame.groupby("seed")["round"].transform("max")]
    keys = ["client_id", "seed"] if report.per_seed else ["client_id"]
    found = frame.groupby(keys)["contribution"].mean()
    ids = zip(*(report.table[key].to_pylist() for key in keys), strict=True)
    values = [found.get(one if len(keys) > 1 else one[0]) for one in ids]
    return [None if value is None or math.isnan(value) else float(value) for value in values]


def _digits(values: Sequence[float | None] | np.ndarray[Any, Any]) -> int:
    """Decimals with which a typical value has three significant digits."""
    known = np.abs(np.array([math.nan if value is None else value for value in values], dtype=np.float64))
    known = known[np.isfinite(known) & (known > 0)]
    return int(np.clip(_DIGITS - 1 - math.floor(math.log10(float(np.median(known)))), 0, 9)) if len(known) else _DIGITS


def _scaled(values: Sequence[float | None] | np.ndarray[Any, Any], digits: int) -> list[int | None]:
    """Whole numbers in units of 10^-digits."""
    return [None if value is None or not math.isfinite(value) else round(float(value) * 10**digits) for value in values]
