"""Strategies of several runs of the same data side by side, paired by client and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core import statistics
from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.results.environment import unlike
from scarcity_ray.results.gains import Gains, compared, interval, largest
from scarcity_ray.results.last_round import by_seed, last_rounds
from scarcity_ray.results.reading import believing
from scarcity_ray.results.repeats import repeats_of
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.results.run_names import run_names
from scarcity_ray.results.summary import NOT_FEDERATED, keeps_clients
from scarcity_ray.scenario.words import closest

Floats = NDArray[np.float64]

_SAME = 1e-9
"""Of a baseline's values that are equal up to the rounding of another processor."""


def compare(runs: Sequence[Results], reference: str | None = None) -> dict[str, Any]:
    """Every federated strategy of finished runs against one of them, and each against each other, in plain values.

    reference: a name of `strategies`; the best strategy of the first run if left out, or the first of two. Strategies are called
    RUN/STRATEGY, RUN the last parts of its directory's path that no other run has.

    - metric, task, repeats: as in summary.json. seeds: those that all runs have. clients: how many all runs have. runs: by name the
      directory, and how many clients and seeds it has itself. reference: its name.
    - strategies, by name: what it has cost and reached, over these seeds and clients, as in summary.json (kind, status, not_learned,
      still_falling, bytes_per_client, rounds), hours of the clock (None without), mean and worst_tenth of the metric. difference: to the
      reference, above 0 where it is better, mean, low and high (95 %, see inference.mean_gain), how many clients and seeds have both, and
      p_value and p_holm where both are among the pairs; None of the reference. alone and guess are there once where all runs have the same.
    - comparisons: pairs of federated strategies that learned and did not diverge, as in summary.json.

    A mean of a squared error's root is over the clients' errors, before the root, and a difference is of each client's root, as in a run.

    Raises RunError where a run has not ended, runs have other data or another metric that decides, or have no client or seed in common.
    """
    found = [_Run(name, each) for name, each in zip(run_names([each.directory for each in runs]), runs, strict=True)]
    for each in found:
        each.refuse_unfinished()
    for each in found[1:]:
        found[0].refuse_other_data(each)
    with believing(found[0].results.directory):
        return _Comparison(found).described(reference)


@dataclass(frozen=True)
class _Run:
    """A run under its name in the comparison."""

    name: str
    results: Results

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return self.results.summary

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json."""
        return self.results.environment

    @cached_property
    def shown(self) -> Shown:
        """The metric that decides."""
        with believing(self.results.directory / "summary.json"):
            return headline(self.summary["task"], self.summary.get("metric"))

    @cached_property
    def rows(self) -> Any:
        """Of `last_rounds`, of all strategies."""
        with believing(self.results.directory / "clients.parquet"):
            return last_rounds(self.results, list(self.summary["strategies"]), self.shown)

    def seeds(self, name: str) -> dict[int, dict[str, Any]]:
        """A strategy's entry of summary.json under each seed."""
        entry = self.summary["strategies"][name]
        return {int(seed): one for seed, one in entry.get("seeds", {self.environment["seed"]: entry}).items()}

    def refuse_unfinished(self) -> None:
        """Raises RunError where a strategy has not ended."""
        with believing(self.results.directory / "summary.json"):
            cut = [name for name, entry in self.summary["strategies"].items() if entry["status"] == "interrupted"]
        if cut:
            where = self.results.directory
            raise RunError(f"{where} has not ended: {', '.join(cut)} was interrupted; to continue: scarcity-ray resume {where}")

    def refuse_other_data(self, other: _Run) -> None:
        """Raises RunError where another run has other data than this one, or another metric decides."""
        here, there = self.results.directory, other.results.directory
        with believing(there / "environment.json"):
            digests = [one.environment.get("data") for one in (self, other)]
            apart = unlike(*({"seed": one.environment["seed"], **_data(one.environment)} for one in (self, other)))
        same = None not in digests and digests[0] == digests[1]
        if same and len(self.common_seeds(other)) > 1:
            # Of one seed the digest says all; how the rows of a second one are dealt, the settings say. One that only one run has is newer
            # than the other run.
            same = not (apart := [each for each in apart if None not in each])
        if not same:
            unknown = "one of them was made before runs kept a fingerprint of their data"
            why = unknown if None in digests else "their settings are the same; the file of rows has changed, or the program that reads it"
            why = ", ".join(f"{name} ({_said(one)} and {_said(two)})" for name, one, two in apart) or why
            raise RunError(f"{here} and {there} have other data, and clients cannot be paired: {why}")
        if self.shown != other.shown:
            names = f"{self.shown.short} in {here}, {other.shown.short} in {there}"
            raise RunError(f"another metric decides: {names}; `evaluation.metric` sets it")

    def common_seeds(self, other: _Run) -> set[int]:
        """Seeds that both have played."""
        return {*self.rows["seed"]} & {*other.rows["seed"]}


class _Comparison:
    """Runs of the same data, at least one."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        self.runs, self.shown = runs, runs[0].shown
        self.repeats = repeats_of(runs[0].results)
        self.keeps = keeps_clients(self.repeats)
        self.seeds, self.ids = (
            np.array(sorted(set.intersection(*({*run.rows[column]} for run in runs))), dtype=np.int64) for column in ("seed", "client_id")
        )
        if not len(self.seeds) or not len(self.ids):
            what = "seed" if not len(self.seeds) else "client"
            raise RunError(f"{' and '.join(str(run.results.directory) for run in runs)} have no {what} in common")
        self.members = {
            f"{run.name}/{name}": (run, name) for run in runs for name, entry in run.summary["strategies"].items() if _counts(entry)
        }
        for name in (GUESS, ALONE):
            self.members |= self._baseline(name)

    def described(self, reference: str | None) -> dict[str, Any]:
        """See compare."""
        gains = {label: self._gains(run, name) for label, (run, name) in self.members.items()}
        pairs = compared({label: gains[label] for label, (run, name) in self.members.items() if _may_win(run.summary["strategies"][name])})
        chosen = self._reference(reference, gains)
        tested = {
            one["worse"] if one["better"] == chosen else one["better"]: one for one in pairs if chosen in (one["better"], one["worse"])
        }
        rows = {}
        for label, (run, name) in self.members.items():
            rows[label] = self._row(run, name) | {"difference": None}
            if label != chosen:
                apart = gains[label].over(gains[chosen])
                test = {key: tested[label][key] if label in tested else None for key in ("p_value", "p_holm")}
                counted = {"clients": apart.clients, "seeds": apart.seeds}
                rows[label]["difference"] = interval(apart, largest(self.shown)) | counted | test
        first = self.runs[0].summary
        return {
            "task": first["task"],
            "metric": first.get("metric"),
            "repeats": self.repeats,
            "seeds": self.seeds.tolist(),
            "clients": len(self.ids),
            "runs": {run.name: self._counted(run) for run in self.runs},
            "reference": chosen,
            "strategies": rows,
            "comparisons": pairs,
        }

    def _counted(self, run: _Run) -> dict[str, Any]:
        return {
            "directory": run.results.directory,
            "clients": int(run.rows["client_id"].nunique()),
            "seeds": sorted({*map(int, run.rows["seed"])}),
        }

    def _baseline(self, name: str) -> dict[str, tuple[_Run, str]]:
        """A baseline once where it is the same in all runs that have it, else that of each."""
        runs = [run for run in self.runs if name in run.summary["strategies"]]
        values = [by_seed(run.rows, name, "value", self.seeds, self.ids) for run in runs]
        if runs and all(np.allclose(one, values[0], rtol=_SAME, atol=_SAME, equal_nan=True) for one in values):
            return {name: (runs[0], name)}
        return {f"{run.name}/{name}": (run, name) for run in runs}

    def _gains(self, run: _Run, name: str) -> Gains:
        """A strategy's values as gains over nothing: the difference of two strategies' is their difference. They have no errors."""
        values = by_seed(run.rows, name, "value", self.seeds, self.ids)
        unknown = np.full((3, *values.shape), np.nan)
        return Gains(np.stack([values] * 3), unknown, np.ones_like(values), unknown[0], self.keeps, largest(self.shown))

    def _reference(self, asked: str | None, gains: Mapping[str, Gains]) -> str:
        """The name of the strategy that all are compared with."""
        first = self.runs[0]
        best = (first.summary.get("best") or {}).get("strategies", [])
        chosen = asked or (f"{first.name}/{best[0]}" if best else None)
        usable = [label for label, one in gains.items() if not np.isnan(one.gains).all()]
        if chosen in usable:
            return str(chosen)
        there = f"--reference may be {', '.join(usable) or 'none of them'}"
        if chosen is None:
            raise RunError(f"{first.results.directory} names no best federated strategy to compare with; {there}")
        near = closest(chosen, usable)
        raise RunError(f"the reference {chosen} is no strategy with a value here; {f'did you mean {near}? ' if near else ''}{there}")

    def _row(self, run: _Run, name: str) -> dict[str, Any]:
        """What a strategy has reached and cost, over the common clients and seeds."""
        entry, mine = run.summary["strategies"][name], run.seeds(name)
        values = by_seed(run.rows, name, self.shown.metric.column, self.seeds, self.ids)
        known = [one[~np.isnan(one)] for one in values]
        if entry.get(self.shown.key) is None:  # the mean of a model that diverged is not that of the clients for which it is a number
            known = []
        entries = [mine[int(seed)] for seed in self.seeds]
        return {
            "run": run.name,
            "strategy": name,
            "kind": entry["kind"],
            "status": entry["status"],
            "not_learned": entry.get("not_learned", False),
            "still_falling": entry.get("still_falling", False),
            "mean": self._over_seeds([statistics.mean(one) for one in known]),
            "worst_tenth": self._over_seeds([statistics.worst_decile(one, self.shown.metric.higher_is_better) for one in known]),
            "bytes_per_client": statistics.mean([one["bytes_per_client"] for one in entries]),
            "rounds": statistics.mean([one["rounds"] for one in entries]),
            "hours": self._hours(run, name),
        }

    def _over_seeds(self, values: Sequence[float]) -> float | None:
        """The mean over seeds of a mean over clients as it is shown; None where a seed has none."""
        mean = statistics.mean(self.shown.shape(values))
        return mean if np.isfinite(mean) else None

    def _hours(self, run: _Run, name: str) -> float | None:
        """Of the simulated clock, the mean over seeds; None where nothing takes time."""
        rounds = run.results.table("rounds", ["seed", "clock_seconds"], [("strategy", "=", name)]).to_pandas()
        last = rounds[rounds["seed"].isin(self.seeds)].groupby("seed")["clock_seconds"].max()
        return float(last.mean() / 3600) if len(last) and last.notna().all() and last.any() else None


def _data(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say which rows clients have."""
    scenario = environment.get("scenario") or {}
    samples = (scenario.get("scarcity") or {}).get("samples")
    return {"data": scenario.get("data"), **({"scarcity": {"samples": samples}} if samples else {})}


def _said(value: Any) -> str:
    return "none" if value is None else str(value)[:80]


def _counts(entry: Mapping[str, Any]) -> bool:
    return entry["kind"] not in NOT_FEDERATED


def _may_win(entry: Mapping[str, Any]) -> bool:
    """Whether a strategy is among the pairs, as in a run: it federates, has learned and did not diverge."""
    return _counts(entry) and entry["status"] != "diverged" and not entry.get("not_learned")
