"""What the cases of ensemble.py share: running scenarios for each seed, tuning competitors, comparing figures with bars."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from scarcity_ray import Results, simulate
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.data import Data
from scarcity_ray.runtime import plan
from scarcity_ray.runtime.simulation import RunFailed

Scenario = dict[str, Any]
PROBES = (40, 50, 60)
"""Numbers of features whose messages are measured: their size is quadratic in it, so three determine all."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A figure with its bar.

    value: the mean over seeds of `values`, or the number of successful seeds among `count`. spread: their standard deviation
    (n - 1), None for one seed. bytes: per client, uploads and downloads together. bar: the required value, in words; met:
    whether it is reached; "" and None if the figure is only for comparison.
    """

    name: str
    value: float
    spread: float | None = None
    count: int | None = None
    bytes: float | None = None
    bar: str = ""
    met: bool | None = None
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What a case found. notes: sentences below its table. details: what else the JSON holds."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"rows": [asdict(row) for row in self.rows], "notes": self.notes, **self.details}


def figure(
    name: str,
    values: Iterable[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    bytes: float | None = None,
    budget: int | None = None,
) -> Row:
    """A figure with one value per seed. The bar is on the mean, and on the bytes if there is a budget."""
    found = [float(value) for value in values]
    mean = float(np.mean(found))
    bars, kept = [], []
    if at_least is not None:
        bars.append(f">= {at_least:g}")
        kept.append(mean >= at_least)
    if at_most is not None:
        bars.append(f"<= {at_most:g}")
        kept.append(mean <= at_most)
    if budget is not None:
        bars.append(f"in {budget:,} bytes")
        kept.append(bytes is not None and bytes <= budget)
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Row(name, mean, spread, None, bytes, " ".join(bars), all(kept) if kept else None, found)


def count(name: str, hits: Sequence[bool], values: Sequence[float], share: float | None = None) -> Row:
    """The number of seeds with a correct value; the bar is a share of the seeds, rounded up."""
    asked = None if share is None else math.ceil(share * len(hits) - 1e-9)
    bar, met = ("", None) if asked is None else (f">= {asked} of {len(hits)}", sum(hits) >= asked)
    return Row(name, sum(hits), None, len(hits), None, bar, met, [float(value) for value in values])


@dataclass(frozen=True)
class Run:
    """One seed of a scenario: the results of each strategy."""

    seed: int
    results: Mapping[str, Results]

    def of(self, strategy: str) -> dict[str, Any]:
        """A strategy's entry in the summary."""
        entry: dict[str, Any] = self.results[strategy].summary["strategies"][strategy]
        return entry

    def clients(self, strategy: str) -> Any:
        """The clients after a strategy's last round, a data frame sorted by id."""
        frame = self.results[strategy].table("clients", filters=[("strategy", "=", strategy)]).to_pandas()
        return frame[frame["round"] == frame["round"].max()].reset_index(drop=True)

    def curve(self, strategy: str) -> Values:
        """After each round: bytes per client so far, mean accuracy, and accuracy of the worst tenth of clients, `[3, rounds]`."""
        results = self.results[strategy]
        frame = results.table("rounds", filters=[("strategy", "=", strategy)]).to_pandas()
        sent = (frame["uplink_bytes"] + frame["downlink_bytes"]).cumsum() / results.summary["clients"]
        return np.stack([sent, frame["test_accuracy"], frame["test_accuracy_worst_decile"]]).astype(np.float64)


def of_all(runs: Sequence[Run], strategy: str, *keys: str) -> list[float]:
    """A number of the summary, for each seed."""
    found = []
    for run in runs:
        value: Any = run.of(strategy)
        for key in keys:
            value = value[key]
        found.append(float(value))
    return found


def sent(runs: Sequence[Run], strategy: str) -> float:
    """Bytes per client, uploads and downloads together: the largest of all seeds."""
    return max(of_all(runs, strategy, "bytes_per_client"))


def groups(title: str, runs: Sequence[Run], name: str, true: int, *, bars: bool) -> list[Row]:
    """How often the number of groups was found, and how often the groups themselves. bars: the first in 8 seeds of 10, the second in 9."""
    numbers = [len(run.of(name)["experts"]) for run in runs]
    rows = [count(f"{title}: number of experts is {true}", [number == true for number in numbers], numbers, 0.8 if bars else None)]
    if true > 1:
        alike = [adjusted_rand_score(clients["group"], clients["expert_id"]) for clients in (run.clients(name) for run in runs)]
        rows.append(figure(f"{title}: adjusted Rand index", alike))
        rows.append(count(f"{title}: adjusted Rand index >= 0.95", [value >= 0.95 for value in alike], alike, 0.9 if bars else None))
    return rows


@dataclass(frozen=True)
class Bench:
    """The size of the benchmark, and its process pool. first: the first seed."""

    quick: bool
    seeds: int
    first: int
    pool: Executor
    folder: Path

    def some(self, seeds: int) -> range:
        """This many seeds, from the first on."""
        return range(self.first, self.first + seeds)

    def runs(self, scenario: Scenario, seeds: Iterable[int], *, apart: bool = False, choosing: bool = False) -> list[Run]:
        """Runs a scenario with each seed. choosing: test clients only on the rows that choose settings, see `tuned`."""
        return self.plays({"": scenario}, seeds, apart=apart, choosing=choosing)[""]

    def plays(
        self, scenarios: Mapping[str, Scenario], seeds: Iterable[int], *, apart: bool = False, choosing: bool = False
    ) -> dict[str, list[Run]]:
        """Runs several scenarios in parallel, one process per core. Results do not depend on where they are computed.

        apart: run each strategy by itself, so that few seeds keep all cores busy; a run then compares no strategies.
        """
        tasks: dict[str, list[tuple[int, list[Future[Results]]]]] = {}
        for name, scenario in scenarios.items():
            parts = [{**scenario, "strategies": [one]} for one in scenario["strategies"]] if apart else [scenario]
            tasks[name] = [(seed, [self._submit(part, seed, choosing) for part in parts]) for seed in seeds]
        return {name: [_run(seed, [part.result() for part in parts]) for seed, parts in some] for name, some in tasks.items()}

    def _submit(self, scenario: Scenario, seed: int, choosing: bool) -> Future[Results]:
        return self.pool.submit(play, scenario, seed, tempfile.mkdtemp(dir=self.folder), choosing)


def _run(seed: int, parts: Sequence[Results]) -> Run:
    return Run(seed, {name: results for results in parts for name in results.summary["strategies"]})


def play(scenario: Scenario, seed: int, out: str, choosing: bool = False) -> Results:
    """Runs a scenario in this process, without plots. choosing: test clients only on the rows that choose settings, see `tuned`."""
    deal = plan.deal

    def dealt(data: Data, seed: int, *rest: Any) -> Federation:
        federation = deal(data, seed, *rest)
        return replace(federation, test=_third(federation.test)) if choosing else federation

    settings = {"name": "ensemble", **scenario, "seed": seed, "execution": {"ray": False}}
    with (
        mock.patch.object(plan, "deal", dealt),
        mock.patch("scarcity_ray.report.curves.draw_curves"),  # nobody needs these plots, and they take longer than a small run
        mock.patch("scarcity_ray.report.experts_plot.draw_experts"),
    ):
        try:
            return simulate(settings, out=out)
        except RunFailed:
            left = Results.load(out)
            if any(entry["status"] == "interrupted" for entry in left.summary["strategies"].values()):
                raise
            return left  # a strategy that diverged has no accuracy, so it is not chosen


def _third(rows: Shards) -> Shards:
    """Every third row of each client, starting with the first."""
    place = np.arange(len(rows.x)) - np.repeat(rows.starts[:-1], rows.counts)
    kept = place % 3 == 0
    return Shards(rows.x[kept], rows.y[kept], np.concatenate([[0], np.cumsum(-(-rows.counts // 3))]))


def moments(features: int, **settings: Any) -> dict[str, Any]:
    """sf_hfe with this many random Fourier features."""
    return {"kind": "sf_hfe", "name": f"sf_hfe_{features}", "representation": {"kind": "random_fourier", "features": features}, **settings}


def that_fit(bench: Bench, data: Scenario, budgets: Iterable[int]) -> list[int]:
    """For each budget of bytes per client, the largest number of features whose messages fit.

    The size is quadratic in the number of features, so three small runs determine it for all numbers. Between runs it differs
    by at most 5 bytes (an expert's number, a second variance), which are subtracted from the budget.
    """
    (run,) = bench.runs({"rounds": 3, "data": data, "strategies": [moments(n, experts=1) for n in PROBES]}, bench.some(1))
    return most_features([run.of(f"sf_hfe_{n}")["bytes_per_client"] for n in PROBES], [budget - 5 for budget in budgets])


def most_features(sizes: Sequence[float], budgets: Iterable[int]) -> list[int]:
    """For each budget the largest number of features whose messages fit, from the bytes of those of PROBES features; 0 where none fit."""
    square, linear, constant = np.polyfit(PROBES, sizes, 2)
    roots = (linear**2 + 4 * square * (budget - constant) for budget in budgets)
    return [max(int((math.sqrt(max(root, 0.0)) - linear) / (2 * square)), 0) for root in roots]


@dataclass(frozen=True)
class Tuned:
    """A chosen setting and its results on test rows.

    bytes: per client until `round`. accuracy, worst: for each seed, the mean over clients and over the worst tenth.
    """

    setting: dict[str, Any]
    round: int
    bytes: float
    accuracy: list[float]
    worst: list[float]

    @property
    def words(self) -> str:
        """The setting in words."""
        local, hidden = self.setting["local"], self.setting["model"].get("hidden", ["no"])
        share = f", {self.setting['fraction']:.0%} a round" if "fraction" in self.setting else ""
        return f"{self.setting['kind']}: {hidden[0]} hidden, lr {local['lr']:g}, {local['epochs']} epochs{share}, {self.round} rounds"


def grid(
    kind: str,
    lr: Sequence[float],
    *,
    epochs: Sequence[int] = (5,),
    hidden: Sequence[int] = (32,),
    fraction: Sequence[float] = (1.0,),
    batch_size: int = 8,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The settings of a weight strategy to choose from. hidden: units of one hidden layer, 0 for none."""
    found: list[dict[str, Any]] = []
    for units in hidden:
        for share in fraction:
            for passes in epochs:
                for step in lr:
                    model = {"kind": "mlp", "hidden": [units]} if units else {"kind": "linear"}
                    local = {"epochs": passes, "batch_size": batch_size, "lr": step}
                    one = {"kind": kind, "name": f"{kind}_{len(found)}", "model": model, "local": local, **settings}
                    found.append(one if kind == "local_only" else {**one, "fraction": share})
    return found


def tuned(
    bench: Bench, data: Scenario, rounds: int, settings: list[dict[str, Any]], seeds: Iterable[int], budgets: Sequence[int | None] = (None,)
) -> tuple[list[Tuned], list[float]]:
    """For each budget, the best setting and the best round to stop at, by mean accuracy over seeds and clients. Also the
    accuracy of each setting after the last round, on the rows that choose.

    Settings are chosen on every third test row of each client and reported on all test rows, which favours the tuned
    strategies a little. Validation rows taken from eight training rows would harm them: with fewer rows there are fewer
    steps, another step size is best, and the chosen one may diverge on all rows.
    """
    seeds = list(seeds)
    tried = bench.runs({"rounds": rounds, "data": data, "strategies": settings}, seeds, apart=True, choosing=True)
    curves = [_mean_curve(tried, one["name"]) for one in settings]
    picks = [_best(curves, budget) for budget in budgets]
    wanted = [settings[place] for place in sorted({place for place, _ in picks})]
    played = bench.runs({"rounds": rounds, "data": data, "strategies": wanted}, seeds, apart=True)
    found = []
    for place, last in picks:
        lines = np.stack([run.curve(settings[place]["name"])[:, last] for run in played])
        found.append(Tuned(settings[place], last + 1, float(lines[:, 0].max()), lines[:, 1].tolist(), lines[:, 2].tolist()))
    return found, [float(accuracy[-1]) for _, accuracy in curves]


def all_tuned(
    bench: Bench, data: Scenario, rounds: int, kinds: Mapping[str, list[dict[str, Any]]], seeds: Iterable[int]
) -> dict[str, Tuned]:
    """The best setting of each kind, without a budget of bytes."""
    seeds = list(seeds)
    with ThreadPoolExecutor() as threads:  # they wait for processes: kinds are tuned in parallel
        waiting = {kind: threads.submit(tuned, bench, data, rounds, settings, seeds) for kind, settings in kinds.items()}
        return {kind: one.result()[0][0] for kind, one in waiting.items()}


def _mean_curve(runs: Sequence[Run], strategy: str) -> Values:
    """Bytes per client and mean accuracy after each round, `[2, rounds]`; the accuracy is -inf where a seed diverged."""
    curves = [run.curve(strategy) for run in runs]
    rounds = min(curve.shape[1] for curve in curves)
    mean: Values = np.mean([curve[:2, :rounds] for curve in curves], axis=0)
    return np.nan_to_num(mean, nan=-np.inf)


def _best(curves: Sequence[Values], budget: int | None) -> tuple[int, int]:
    """Index of the setting and of the round with the highest accuracy within the budget."""
    options = [
        (accuracy, place, last)
        for place, curve in enumerate(curves)
        for last, (size, accuracy) in enumerate(curve.T)
        if budget is None or size <= budget
    ]
    _, place, last = max(options, key=lambda option: option[0])
    return place, last
