"""Does guidance pay? Insight exchange with guided local steps, compared with the best uniform number of steps.

Every client keeps its own model and takes local steps; nobody sends weights. Uniform: all clients take the same number of
steps, the best of a list by the mean loss over validation rows after the last round. Guided: the MetaLearner distributes the
same total by the clients' insights. All else is the same: rows, initial model, step size, rounds. Seeds are paired. The list
begins with 2: with 1 step per client there is nothing to distribute, because each client takes at least one.

    python benchmarks/guidance.py            # 10 seeds, about seven minutes on one core
    python benchmarks/guidance.py --quick    # 3 seeds and fewer steps
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from scarcity_ray import simulate
from scarcity_ray.results.environment import environment

ROUNDS = 10
HELD_OUT = {"test_fraction": 0.5, "validation_fraction": 0.25}
DIGITS = {"source": {"kind": "digits"}, **HELD_OUT}
SETTINGS: dict[str, dict[str, Any]] = {
    "digits, 100 clients, Dirichlet 0.3": {
        "data": {**DIGITS, "clients": 100, "partition": {"kind": "dirichlet", "alpha": 0.3}},
        "model": {"kind": "mlp", "hidden": [32]},
        "local": {"batch_size": 8, "lr": 0.05},
        "steps": (2, 5, 10, 20, 50),
    },
    "LEAF synthetic(1, 1), 30 clients": {
        "data": {"source": {"kind": "leaf_synthetic", "alpha": 1.0, "beta": 1.0}, **HELD_OUT},
        "model": {"kind": "linear"},
        "local": {"batch_size": 10, "lr": 0.05},
        "steps": (5, 10, 20, 50, 100, 200),
    },
    "digits, 60 clients, sizes skewed by 1.5": {
        "data": {**DIGITS, "clients": 60, "partition": {"kind": "quantity_skew", "sigma": 1.5, "minimum": 8}},
        "model": {"kind": "mlp", "hidden": [32]},
        "local": {"batch_size": 8, "lr": 0.05},
        "steps": (2, 5, 10, 20, 50),
    },
}
METRICS = ("test_accuracy", "test_accuracy_worst_decile", "test_loss")


def strategies(local: dict[str, Any], steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """Uniform and guided insight exchange for each number of steps."""
    return [
        {"kind": "insight_exchange", "name": f"{name}_{number}", "guide": name == "guided", "local": {**local, "steps": number}}
        for number in steps
        for name in ("uniform", "guided")
    ]


def interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Mean, and half the width of its 95 % interval (Student's t)."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "half_width": float(half)}


def compare(name: str, setting: dict[str, Any], first: int, seeds: int, out: Path) -> dict[str, Any]:
    """One setting: the steps that each seed chose on its validation rows, the test metrics of both, and guided minus uniform."""
    steps = setting["steps"]
    scenario = {
        "name": "guidance",
        "seed": first,
        "repeats": seeds,
        "rounds": ROUNDS,
        "data": setting["data"],
        "model": setting["model"],
        "strategies": strategies(setting["local"], steps),
        "evaluation": {"every": ROUNDS},
        "execution": {"ray": False},
    }
    results = simulate(scenario, out=out, show=False)
    insights = results.frame("insights").query(f"round == {ROUNDS}")
    validation = insights.groupby(["seed", "strategy"])["loss_after"].mean()
    last = results.frame("rounds").query(f"round == {ROUNDS}").set_index(["seed", "strategy"])
    chosen = {seed: min(steps, key=lambda number: validation[seed, f"uniform_{number}"]) for seed in range(first, first + seeds)}
    found: dict[str, Any] = {"setting": name, "chosen_steps": chosen, "metrics": {}, "by_steps": {}}
    for metric in METRICS:
        both = {way: np.array([last.loc[(seed, f"{way}_{n}"), metric] for seed, n in chosen.items()]) for way in ("uniform", "guided")}
        summary = {way: float(values.mean()) for way, values in both.items()}
        found["metrics"][metric] = {**summary, "difference": interval(both["guided"] - both["uniform"])}
        for number in steps:
            pair = [last.xs(f"{way}_{number}", level="strategy")[metric].to_numpy(dtype=float) for way in ("uniform", "guided")]
            row = {"uniform": float(pair[0].mean()), "guided": float(pair[1].mean()), "difference": interval(pair[1] - pair[0])}
            found["by_steps"].setdefault(str(number), {})[metric] = row
    return found


def show(console: Console, found: list[dict[str, Any]], seeds: int) -> None:
    """Prints the comparison at the best number of steps, and below it the same for every number of steps."""
    for one in found:
        table = Table(title=one["setting"], title_justify="left")
        for heading in ("steps", "metric", "uniform", "guided", "guided - uniform"):
            table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
        counts = sorted(set(one["chosen_steps"].values()))
        rows = [("best: " + "/".join(map(str, counts)), one["metrics"]), *one["by_steps"].items()]
        for place, (steps, metrics) in enumerate(rows):
            for metric, row in metrics.items():
                if place == 0 or metric == "test_accuracy":
                    difference = f"{row['difference']['mean']:+.4f} +- {row['difference']['half_width']:.4f}"
                    name = metric.removeprefix("test_").replace("_", " ")
                    table.add_row(steps, name, f"{row['uniform']:.4f}", f"{row['guided']:.4f}", difference)
        console.print(table)
    console.print(f"{seeds} seeds, {ROUNDS} rounds, 95 % paired intervals; first the best number of steps, then each number of the list")


def main() -> None:
    """Runs the settings, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 seeds, every other number of steps: under two minutes")
    parser.add_argument("--seeds", type=int, help="number of seeds, at least 2 (default 10; 3 with --quick)")
    parser.add_argument("--json", type=Path, default=Path("guidance.json"), help="where the figures go (default guidance.json)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first seed (default 1)")
    options = parser.parse_args()
    seeds = options.seeds if options.seeds is not None else 3 if options.quick else 10
    if seeds < 2:
        parser.error(f"--seeds is {seeds}; an interval needs at least 2")

    console = Console()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, setting) in enumerate(SETTINGS.items()):
            console.print(f"{name} ...")
            tried = {**setting, "steps": setting["steps"][::2]} if options.quick else setting
            found.append(compare(name, tried, options.first_seed, seeds, Path(folder) / str(place)))
    show(console, found, seeds)
    options.json.write_text(
        json.dumps({"rounds": ROUNDS, "seeds": seeds, "environment": environment(options.first_seed), "settings": found}, indent=2)
    )
    console.print(f"figures: {options.json}")


if __name__ == "__main__":
    main()
