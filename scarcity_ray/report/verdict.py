"""One sentence from the numbers: does federating pay, for how many clients, at what bytes?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.core import metrics
from scarcity_ray.report.units import number, size

NOT_FEDERATED = ("local_only", "pooled")
"""The kinds that are yardsticks: every client alone, and everybody's rows in one place."""


def headline(summary: Mapping[str, Any]) -> tuple[str, str, bool]:
    """The metric that decides: its key in a strategy's entry, its name, and whether higher is better."""
    return ("rmse", "root mean square error", False) if summary["task"] == "regression" else ("test_accuracy", "mean accuracy", True)


def verdict(summary: Mapping[str, Any]) -> str:
    """The answer that summary.json (see Tally.summary) gives, comparing the best federated strategy with local_only.

    With repeats the paired differences over seeds decide, by their 95 % interval; with one seed the difference itself.
    """
    key, metric, higher = headline(summary)
    ran = {name: entry for name, entry in summary["strategies"].items() if entry.get(key) is not None and entry["status"] != "diverged"}
    federated = {name: entry for name, entry in ran.items() if entry["kind"] not in NOT_FEDERATED}
    if not federated:
        return "No federated strategy came to a result, so there is nothing to judge."
    best = (max if higher else min)(federated, key=lambda name: float(federated[name][key]))
    entry, alone = federated[best], ran.get(summary["alone"] or "")
    cost = f"at {size(entry['bytes_per_client'])} a client"
    tail = f"{key}_worst_decile"
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
    mine, theirs = entry.get("seeds", {}), alone.get("seeds", {})
    pairs = [(mine[seed][key], theirs[seed][key]) for seed in mine if seed in theirs]
    differences = [sign * (here - there) for here, there in pairs if here is not None and there is not None]
    if len(differences) < 2:
        return sign * float(entry[key] - alone[key]), 0.0
    spread = metrics.spread(differences)
    return spread.mean, spread.half_width
