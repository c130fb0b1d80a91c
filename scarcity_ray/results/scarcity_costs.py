"""What each scarcity costs each strategy, from the runs with and without it: scarcity.json and scarcity.csv.

A cost is a difference of the metric that decides between two runs, of the same client under the same seed, above 0 where it is worse. Its
interval counts clients and seeds as those of gains do (see inference.mean_gain).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.core.tables import column
from scarcity_ray.inference.conclusion import Verdict
from scarcity_ray.inference.mean_gain import mean_gain
from scarcity_ray.inference.winner import best, near, widening
from scarcity_ray.results.files import new_file, to_json, write_whole
from scarcity_ray.results.gains import interval, largest
from scarcity_ray.results.last_round import by_seed, last_rounds
from scarcity_ray.results.results import Results
from scarcity_ray.results.summary import NOT_FEDERATED, keeps_clients
from scarcity_ray.scarcity.availability import Always
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scenario import ScarcityRuns
from scarcity_ray.scenario.what_if import ALL, FREE, all_but, more, only

Floats = NDArray[np.float64]

LEVEL = 0.9
"""Of all intervals."""

SURE = 0.05
"""A strategy is surely better than another one up to this p-value, adjusted for all pairs."""

SCHEMA = pa.schema(
    [
        column("strategy", pa.string(), "", "the strategy's name in the run"),
        column("quantity", pa.string(), "", "alone, beside_the_others, together, interaction or worth_of_more, see scarcity_costs"),
        column("of", pa.string(), "", "the scarcity, or the budget of worth_of_more; null for together and interaction", nullable=True),
        column("mean", pa.float64(), "", "in the unit of the metric that decides; null where there is none", nullable=True),
        column("low", pa.float64(), "", "lower end of its 90 % interval", nullable=True),
        column("high", pa.float64(), "", "upper end of its 90 % interval", nullable=True),
        column("clients", pa.int64(), "", "clients that have a value in both runs; where seeds bring other clients, of all seeds together"),
        column("seeds", pa.int64(), "", "seeds that have"),
    ]
)
"""One row a strategy and quantity."""


def scarcity_costs(runs: ScarcityRuns, results: Mapping[str, Results]) -> dict[str, Any]:
    """The content of scarcity.json. results: by the name of the run, all of them.

    costs, by strategy, each with mean, low, high, clients and seeds; mean is None where there is no client to compare, or the strategy
    diverged in a run:
    - alone, by scarcity: free - only this. beside_the_others: all but this - all, its shadow price. together: free - all.
    - interaction: together, less the sum of alone. Above 0 they make each other worse; below 0 they overlap.
    - worth_of_more, by budget: 25 % more - all; above 0 it is better.
    most: of federated strategies that learn where nothing is scarce the largest cost alone, with an interval that holds although the
    largest of `of` costs near each other was chosen; as_much: the scarcities that may cost this strategy as much.
    runs, by row: the best strategies, several where it cannot be told, none where no strategy surely learns; and of each strategy the value
    of the metric, and hours of the clock, and joules and bytes a client; None where nothing takes time, and where energy is not counted,
    or nothing is scarce.
    """
    summary = results[ALL].summary
    shown, keeps = headline(summary["task"], summary.get("metric")), keeps_clients(summary["repeats"])
    strategies = [strategy.title for strategy in runs.scenarios[ALL].strategies]
    frames = {run: last_rounds(one, strategies, shown) for run, one in results.items()}
    bound = largest(shown)
    costs = {name: _Costs(runs, values, keeps, bound) for name, values in _values(frames, strategies).items()}
    candidates = [name for name in strategies if _may_cost_most(results[runs.played_as[FREE]].summary["strategies"][name])]
    return {
        "metric": summary["metric"],
        "task": summary["task"],
        "level": LEVEL,
        "repeats": summary["repeats"],
        "scarcities": list(runs.scarcities),
        "budgets": list(runs.budgets),
        "most": _most({name: costs[name] for name in candidates}, runs.scarcities),
        "runs": {row: _run(row, name, results[name], runs.scenarios[name].scarcity, shown) for row, name in runs.played_as.items()},
        "costs": {name: one.described() for name, one in costs.items()},
    }


def write_costs(found: Mapping[str, Any], directory: Path) -> None:
    """Writes scarcity.csv, and scarcity.json when all else is there. Raises Unwritable."""
    rows = [
        {"strategy": strategy, "quantity": quantity, "of": of, **cost}
        for strategy, quantities in found["costs"].items()
        for quantity, costs in quantities.items()
        for of, cost in (costs.items() if quantity in ("alone", "beside_the_others", "worth_of_more") else [(None, costs)])
    ]
    with new_file(directory / "scarcity.csv") as draft:
        csv.write_csv(pa.Table.from_pylist(rows, SCHEMA), draft)
    write_whole(directory / "scarcity.json", to_json(found).encode())


class _Costs:
    """The costs of one strategy. values: `[seeds, clients]` of each run, more is better, NaN where a client has none. keeps: whether a
    client has the same rows under all seeds. bound: no cost is larger."""

    def __init__(self, runs: ScarcityRuns, values: Mapping[str, Floats], keeps: bool, bound: float) -> None:
        self.runs, self.values, self.keeps, self.bound = runs, values, keeps, bound

    def of(self, row: str) -> Floats:
        """The values in a row of the report."""
        return self.values[self.runs.played_as[row]]

    def mean(self, differences: Floats, widen: float = 1.0, costs: int = 1) -> dict[str, Any]:
        """A mean over clients with its interval, plain values. widen: see inference.winner. costs: how many the differences add up."""
        found = mean_gain(differences, keep_rows=self.keeps, widen=widen, level=LEVEL)
        return {**interval(found, costs * self.bound), "clients": found.clients, "seeds": found.seeds}

    def alone(self, scarcity: str) -> Floats:
        """What a scarcity costs each client where nothing else is scarce, `[seeds, clients]`."""
        return self.of(FREE) - self.of(only(scarcity))

    def described(self) -> dict[str, Any]:
        """See scarcity_costs."""
        parts, together = self.runs.scarcities, self.of(FREE) - self.of(ALL)
        summed = np.sum([self.alone(name) for name in parts], axis=0)
        rounding = 1e-12 * np.nanmax(np.abs(self.of(FREE)), initial=0.0)  # of sums in another order, which must not look sure
        return {
            "alone": {name: self.mean(self.alone(name)) for name in parts},
            "beside_the_others": {name: self.mean(self.of(all_but(name)) - self.of(ALL)) for name in parts},
            "together": self.mean(together),
            "interaction": self.mean(
                np.where(np.abs(together - summed) > rounding, together - summed, 0.0 * together), costs=1 + len(parts)
            ),
            "worth_of_more": {name: self.mean(self.of(more(name)) - self.of(ALL)) for name in self.runs.budgets},
        }


def _values(frames: Mapping[str, Any], strategies: Sequence[str]) -> dict[str, dict[str, Floats]]:
    """By strategy and run `[seeds, clients]`, the same ones everywhere. frames: of `last_rounds`."""
    seeds, ids = (np.unique(np.concatenate([frame[name] for frame in frames.values()])) for name in ("seed", "client_id"))
    return {name: {run: by_seed(frame, name, "value", seeds, ids) for run, frame in frames.items()} for name in strategies}


def _may_cost_most(free: Mapping[str, Any]) -> bool:
    """Whether what a strategy loses is of interest, by its entry in the summary of the free run: it federates, and learns."""
    return free["kind"] not in NOT_FEDERATED and not free.get("not_learned")


def _most(costs: Mapping[str, _Costs], scarcities: Sequence[str]) -> dict[str, Any] | None:
    """The largest cost alone of all strategies and scarcities; None where there is none."""
    cells = [(name, part) for name in costs for part in scarcities]
    alone = [costs[name].alone(part) for name, part in cells]
    if not any(np.isfinite(each).any() for each in alone):
        return None
    place = best(alone)
    rivals = near(np.stack(alone), place)
    name, part = cells[place]
    mine = [other for other, (strategy, _) in zip(alone, cells, strict=True) if strategy == name]
    others = {other: each for other, each in zip(scarcities, mine, strict=True) if other != part}
    apart = {other: costs[name].mean(alone[place] - each, widening(len(others), 1 - LEVEL), costs=2) for other, each in others.items()}
    as_much = [other for other, found in apart.items() if found["low"] is None or found["low"] <= 0]
    chosen = costs[name].mean(alone[place], widening(1 + len(rivals), 1 - LEVEL))
    return {"strategy": name, "scarcity": part, **chosen, "of": 1 + len(rivals), "as_much": as_much}


def _run(row: str, name: str, results: Results, world: Scarcity | None, shown: Shown) -> dict[str, Any]:
    """What a row of the report says of its run."""
    summary, entries = results.summary, {}
    rounds = results.table("rounds", ["strategy", "seed", "clock_seconds", "joules"]).to_pandas()
    clock = world is not None and (world.compute, world.network, world.availability) != (None, None, Always())
    energy = world is not None and row != FREE and world.energy is not None
    for strategy, mine in rounds.groupby("strategy", sort=False):
        seeds, entry = mine.groupby("seed"), summary["strategies"][strategy]
        entries[str(strategy)] = {
            "status": entry["status"],
            "value": _number(entry[shown.key]),
            "hours": _number(seeds["clock_seconds"].max().mean() / 3600) if clock else None,
            "joules": _number(seeds["joules"].sum().mean() / summary["clients"]) if energy else None,
            "bytes": entry["bytes_per_client"],
        }
    verdict = None if summary["best"] is None else summary["best"]["conclusion"]["verdict"]
    return {"run": name, "best": _best(summary), "verdict": verdict, "strategies": entries}


def _best(summary: Mapping[str, Any]) -> list[str]:
    """The best federated strategy first, then those that are not surely worse; none where no strategy surely learns."""
    if summary["best"] is None or summary["best"]["conclusion"]["verdict"] == Verdict.NOTHING_LEARNED.value:
        return []
    chosen = summary["best"]["strategies"]
    pairs = [one for one in summary["comparisons"] if chosen[0] in (one["better"], one["worse"])]
    surely_worse = {one["worse"] for one in pairs if one["better"] == chosen[0] and one["p_holm"] is not None and one["p_holm"] <= SURE}
    rivals = [one["worse"] if one["better"] == chosen[0] else one["better"] for one in pairs]
    return list(dict.fromkeys([*chosen, *(name for name in rivals if name not in surely_worse)]))


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
