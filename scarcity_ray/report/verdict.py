"""One sentence from the numbers: whether federating pays, for how many clients, and how many bytes it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.core import statistics
from scarcity_ray.core.metrics import WORST, Shown, headline
from scarcity_ray.report.units import number, size

NOT_FEDERATED = ("local_only", "pooled")
"""The kinds that are only compared with: every client alone, and everybody's rows in one place."""


def best_of(entries: Mapping[str, Mapping[str, Any]], shown: Shown) -> str | None:
    """The strategy with the best mean of a metric over clients, of those that have one and did not diverge; None where there is none."""
    values = {
        name: float(entry[shown.key])
        for name, entry in entries.items()
        if entry.get(shown.key) is not None and entry["status"] != "diverged"
    }
    return (max if shown.metric.higher_is_better else min)(values, key=lambda name: values[name]) if values else None


def verdict(summary: Mapping[str, Any]) -> str:
    """The answer of summary.json (see Tally.summary), which compares the best federated strategy with local_only.

    With repeats the paired differences over seeds decide, by their 95 % interval; with one seed the difference itself. A gain below the
    summary's margin counts as none.
    """
    shown, margin = headline(summary["task"], summary.get("metric")), summary.get("margin", 0.0)
    key, metric, higher = shown.key, shown.mean, shown.metric.higher_is_better
    ran = {name: entry for name, entry in summary["strategies"].items() if entry.get(key) is not None and entry["status"] != "diverged"}
    federated = {name: entry for name, entry in ran.items() if entry["kind"] not in NOT_FEDERATED}
    best = best_of(federated, shown)
    if best is None:
        return "No federated strategy came to a result, so there is nothing to judge."
    entry, alone = federated[best], ran.get(summary["alone"] or "")
    cost = f"at {size(entry['bytes_per_client'])} a client"
    tail = f"{key}{WORST}"
    if alone is None:
        reached = f"{best} reaches a {metric} of {number(entry[key])} (worst tenth {number(entry[tail])}) {cost}"
        return f"{reached}; whether that pays, only local_only beside it can say."
    gain, doubt = _gain(entry, alone, key, higher)
    change = f"{metric} {number(alone[key])} alone, {number(entry[key])} with {best}"
    change += f" (worst tenth {number(alone[tail])}, {number(entry[tail])})"
    better, worse = entry["share_better_than_alone"], entry["share_worse_than_alone"]
    who = "" if better is None else f"; {better:.0%} of the clients are better off and {worse:.0%} worse off"
    if abs(gain) <= doubt:
        answer = "These repeats do not tell whether federating pays"
    elif abs(gain) < margin:
        answer = f"Federating makes no difference here (less than {number(margin)})"
    elif gain <= 0:
        answer = "Federating does not pay here"
    elif better is not None and better < worse:
        answer = "Federating pays on average, but not for most clients"
    else:
        answer = "Federating pays"
    return f"{answer}: {change}{who}, {cost}."


def _gain(entry: Mapping[str, Any], alone: Mapping[str, Any], key: str, higher: bool) -> tuple[float, float]:
    """How much better than alone, and half the width of its interval over the seeds both have (0 for one seed)."""
    sign = 1.0 if higher else -1.0
    federated, local = entry.get("seeds", {}), alone.get("seeds", {})
    pairs = [(federated[seed][key], local[seed][key]) for seed in federated if seed in local]
    differences = [sign * (one - other) for one, other in pairs if one is not None and other is not None]
    if len(differences) < 2:
        return sign * float(entry[key] - alone[key]), 0.0
    spread = statistics.spread(differences)
    return spread.mean, spread.half_width
