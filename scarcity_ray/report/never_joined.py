"""Who is left out, in words: the clients that joined no round of a strategy, why, and how they fare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.core.metrics import headline
from scarcity_ray.report.units import number, signed
from scarcity_ray.results.never_joined import NEVER_JOINED, TOP_WORK
from scarcity_ray.results.summary import NOT_FEDERATED
from scarcity_ray.scarcity.taking_part import UNAVAILABLE, UNHEARD, UNSELECTED

_WHY = {
    UNAVAILABLE: "never there",
    UNSELECTED: "there but never selected",
    UNHEARD: "selected but never heard",
    "memory": "short of memory",
    "battery": "out of battery",
}
"""All other reasons are budgets."""


def never_joined_in_words(summary: Mapping[str, Any]) -> list[str]:
    """From the content of summary.json: a line for the first federated strategy that left clients out, the best one where it did; and one
    with the shares of the others."""
    best = (summary.get("best") or {}).get("strategies", [])
    found = {
        name: entry
        for name, entry in summary["strategies"].items()
        if entry["kind"] not in NOT_FEDERATED and entry.get(NEVER_JOINED, {}).get("clients")
    }
    if not found:
        return []
    told = next((name for name in best if name in found), next(iter(found)))
    others = [f"{name} {_percent(entry[NEVER_JOINED]['clients_share'])}" for name, entry in found.items() if name != told]
    lines = [_line(told, found[told], summary)]
    return [*lines, f"Of all clients others leave out: {', '.join(others)}; see {NEVER_JOINED} in summary.json."] if others else lines


def _line(name: str, entry: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    found, shown = entry[NEVER_JOINED], headline(summary["task"], summary.get("metric"))
    often = " in a seed on average" if "seeds" in entry else ""
    why = ", ".join(f"{_count(clients)} {_WHY.get(reason, f'out of budget {reason}')}" for reason, clients in found["by"].items())
    whose = [f"{_percent(found['rows_share'])} of the training rows"] if found["rows_share"] is not None else []
    whose += _most(found.get("classes"), "class", found["rows_share"]) + _most(found.get("groups"), "group", found["clients_share"])
    rows = f" ({'; '.join(whose)})" if whose else ""
    parts = [f"{name} leaves out {_count(found['clients'])} of {summary['clients']:,} clients{often}, which joined no round: {why}{rows}."]
    if metric := found["metric"]:
        apart = f"difference {signed(metric['difference'])}"
        if metric["low"] is not None:
            apart += f", 90 % interval {signed(metric['low'])} to {signed(metric['high'])}"
        parts.append(f"Their {shown.short} is {number(metric['never'])}, that of the others {number(metric['joined'])} ({apart}).")
    if (share := entry.get(TOP_WORK)) is not None:
        parts.append(f"The busiest 30 % of all clients did {_percent(share)} of the work.")
    return " ".join(parts)


def _most(shares: Mapping[str, float | None] | None, what: str, usual: float | None) -> list[str]:
    """The class or group of which most is left out, where that is more than of all."""
    known = {name: share for name, share in (shares or {}).items() if share is not None}
    if not known or usual is None:
        return []
    name = max(known, key=lambda one: known[one])
    of = f"{_percent(known[name])} of {'the clients of ' if what == 'group' else ''}{what} {name}"
    return [of] if known[name] > usual else []


def _count(clients: float) -> str:
    """A number of clients, which a mean over seeds need not be whole: `12`, `4.3`."""
    return f"{clients:,.0f}" if clients == round(clients) else f"{clients:,.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else f"{100 * share:.1g} %"
