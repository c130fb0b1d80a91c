"""summary.json as rows: one for each strategy and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.results.reading import believing
from scarcity_ray.results.results import Results

_OVER_SEEDS = ("seeds", "std", "half_width")


def seed_rows(results: Results) -> list[dict[str, Any]]:
    """Plain values by column: strategy, kind, seed, and the single values of the strategy's entry under the seed; those of a group, such as
    target, are named GROUP.VALUE, lists are left out. What is said of all seeds together (gain, not_learned) is in the row of each.

    Raises RunError where the run has not ended, or its summary is not what a run leaves.
    """
    summary, first = results.summary, results.environment.get("seed")
    with believing(results.directory / "summary.json"):
        rows = []
        for name, entry in summary["strategies"].items():
            common = {key: value for key, value in entry.items() if key not in _OVER_SEEDS}
            for seed, own in entry.get("seeds", {first: entry}).items():
                together = {key: value for key, value in common.items() if key not in own}
                rows.append({"strategy": name, "kind": entry["kind"], "seed": int(seed)} | single({**own, **together}))
        return rows


def single(entry: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """The values of nested mappings that are no lists, those of groups by dotted names."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, list):
            continue
        found |= single(value, f"{group}{key}.") if isinstance(value, Mapping) else {f"{group}{key}": value}
    return found
