"""Digits without hidden groups: what accuracy costs in bytes, and whether meta-learned initial models help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from _common import show
from _ensemble_runs import Bench, Found, Row, Run, all_tuned, figure, grid, groups, moments, of_all, sent, that_fit, tuned

BARS = {153_600: 0.975, 46_080: 0.962, 614_400: 0.980}
"""Least mean accuracy for each budget: bytes per client, uploads and downloads together."""
FIRST = 153_600


def data(alpha: float) -> dict[str, Any]:
    """The data of scenarios/noniid.yaml: 100 clients with 8 or 9 training images each."""
    return {"source": {"kind": "digits"}, "clients": 100, "partition": {"kind": "dirichlet", "alpha": alpha}, "test_fraction": 0.5}


def digits(bench: Bench) -> Found:
    """sf_hfe within three budgets of bytes, each compared with FedAvg tuned for the same budget."""
    seeds = bench.some(bench.seeds)
    bars = {budget: bar for budget, bar in BARS.items() if not bench.quick or budget <= FIRST}
    features = dict(zip(bars, that_fit(bench, data(0.3), bars), strict=True))
    skews = bench.plays({"0.3": _moments(bench, 0.3, features.values()), "0.1": _moments(bench, 0.1, [features[FIRST]])}, seeds, apart=True)
    settings = _settings(bench.quick)
    (*within, free), tried = tuned(bench, data(0.3), 100, settings, seeds, [*bars, None])
    _show_grid(settings, tried)

    rows: list[Row] = []
    best = of_all(skews["0.3"], f"sf_hfe_{features[FIRST]}", "test_accuracy")
    for (budget, bar), neighbour in zip(bars.items(), within, strict=True):
        name, runs = f"sf_hfe_{features[budget]}", skews["0.3"]
        accuracy = of_all(runs, name, "test_accuracy")
        title = f"sf_hfe, {features[budget]} features"
        rows += [
            figure(title, accuracy, at_least=bar, bytes=sent(runs, name), budget=budget),
            figure(f"{title}, worst tenth", of_all(runs, name, "test_accuracy_worst_decile")),
            figure("fed_avg, tuned for these bytes", neighbour.accuracy, bytes=neighbour.bytes),
            figure(f"{title}, less fed_avg", _less(accuracy, neighbour.accuracy), at_least=0),
            *groups(title, runs, name, 1, bars=False),
            *_one_expert(bench, title, runs, name),
        ]
    name = f"sf_hfe_{features[FIRST]}"
    skewed = of_all(skews["0.1"], name, "test_accuracy")
    rows += [
        figure("fed_avg, tuned, 100 rounds", free.accuracy, bytes=free.bytes),
        figure("fed_avg, tuned, worst tenth", free.worst),
        figure(f"sf_hfe, {features[FIRST]} features, less that", _less(best, free.accuracy), at_least=0),
        figure(f"sf_hfe, {features[FIRST]} features, Dirichlet 0.1", skewed, bytes=sent(skews["0.1"], name)),
        figure("the same less Dirichlet 0.3", _less(skewed, best), at_least=-0.005),
        *groups("Dirichlet 0.1", skews["0.1"], name, 1, bars=False),
        *_one_expert(bench, "Dirichlet 0.1", skews["0.1"], name),
    ]
    notes = [f"{budget:,} bytes: {one.words}" for budget, one in zip(bars, within, strict=True)] + [f"any bytes: {free.words}"]
    found = [{**setting, "accuracy": value} for setting, value in zip(settings, tried, strict=True)]
    return Found(rows, notes, {"fed_avg_grid": found})


def meta(bench: Bench) -> Found:
    """Reptile and Per-FedAvg, which adapt to each client, compared with FedAvg, which does not."""
    seeds = bench.some(bench.seeds)
    steps = (0.3,) if bench.quick else (0.1, 0.3, 0.5)
    kinds = {kind: grid(kind, steps) for kind in ("fed_avg", "reptile", "per_fed_avg")}
    found = all_tuned(bench, data(0.3), 30 if bench.quick else 60, kinds, seeds)
    rows = [figure("fed_avg", found["fed_avg"].accuracy, bytes=found["fed_avg"].bytes)]
    for kind in ("reptile", "per_fed_avg"):
        rows.append(figure(kind, found[kind].accuracy, bytes=found[kind].bytes))
        rows.append(figure(f"{kind}, less fed_avg", _less(found[kind].accuracy, found["fed_avg"].accuracy), at_least=0))
    return Found(rows, [one.words for one in found.values()])


def _moments(bench: Bench, alpha: float, features: Iterable[int]) -> dict[str, Any]:
    own = [moments(n) for n in features]
    fixed = [] if bench.quick else [{**one, "name": f"{one['name']}_one", "experts": 1} for one in own]
    return {"rounds": 3, "data": data(alpha), "strategies": own + fixed}


def _one_expert(bench: Bench, title: str, runs: Sequence[Run], name: str) -> list[Row]:
    """The accuracy with the number of experts set to 1, to show what choosing the number costs."""
    return [] if bench.quick else [figure(f"{title}, set to one expert", of_all(runs, f"{name}_one", "test_accuracy"))]


def _settings(quick: bool) -> list[dict[str, Any]]:
    if quick:
        return grid("fed_avg", (0.3,), fraction=(0.1,))
    return grid("fed_avg", (0.1, 0.3, 0.5, 1.0), epochs=(1, 5), hidden=(32, 128), fraction=(1.0, 0.1))


def _show_grid(settings: list[dict[str, Any]], tried: list[float]) -> None:
    """Prints FedAvg's accuracy on the rows that choose settings: a line per model, fraction and epochs, a column per step size."""
    steps = sorted({one["local"]["lr"] for one in settings})
    lines: dict[str, list[str]] = {}
    for one, value in zip(settings, tried, strict=True):
        name = f"{one['model']['hidden'][0]} hidden, {one['fraction']:.0%} a round, {one['local']['epochs']} epochs"
        lines.setdefault(name, []).append(f"{value:.3f}")
    columns = ["setting", *(f"lr {step:g}" for step in steps)]
    show("fed_avg on every third test row after 100 rounds", columns, [[name, *values] for name, values in lines.items()])


def _less(values: list[float], others: list[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
