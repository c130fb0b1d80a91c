"""What does a small run cost if several share a session? Twelve scenarios on the same data, one after another in one process.

They differ in strategy and step size. Together: one session, so that Ray and the actors start once and the data are stored once.
Apart (with --apart): each starts its own Ray, as `simulate` does without a session. Seconds include the start and the end of Ray, but
not the imports of the process.

    python benchmarks/many_runs.py                     # a minute on 2 quiet cores
    python benchmarks/many_runs.py --apart             # three minutes
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import show, write_json

from scarcity_ray import Results, simulate
from scarcity_ray.runtime.session import Session

BAR = 30.0
"""The most seconds that the twelve runs may take together."""

STEP_SIZES = (0.05, 0.1, 0.2)
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "fed_avg", "fraction": 0.5},
    {"kind": "local_only"},
    {"kind": "reptile"},
    {"kind": "insight_exchange"},
]


def scenarios() -> list[dict[str, Any]]:
    """Twelve clients of digits, three rounds of one strategy each."""
    return [
        {
            "name": f"{strategy['kind']}-{1000 * lr:g}",
            "seed": 3,
            "rounds": 3,
            "data": {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "quantity_skew", "sigma": 1.2}},
            "model": {"kind": "mlp", "hidden": [12]},
            "local": {"epochs": 1, "batch_size": 8, "lr": lr},
            "strategies": [strategy],
            "execution": {"ray": True, "address": "local", "cpus": 2},
        }
        for strategy in STRATEGIES
        for lr in STEP_SIZES
    ]


def seconds_of(play: Callable[[dict[str, Any], Path], Results], folder: Path) -> tuple[list[float], list[dict[str, str]]]:
    """The seconds of each scenario, and its result hashes."""
    seconds, hashes = [], []
    for number, scenario in enumerate(scenarios()):
        began = time.perf_counter()
        results = play(scenario, folder / str(number))
        seconds.append(time.perf_counter() - began)
        hashes.append({name: entry["result_hash"] for name, entry in results.summary["strategies"].items()})
    return seconds, hashes


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--apart", action="store_true", help="also run each scenario by itself, and check that the result hashes are the same"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the figures go")
    options = parser.parse_args()
    figures: dict[str, Any] = {"bar": BAR}
    found: dict[str, list[dict[str, str]]] = {}
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder, contextlib.ExitStack() as stack:
        session = stack.enter_context(Session())
        began = time.perf_counter()
        each, found["together"] = seconds_of(lambda scenario, out: simulate(scenario, out=out, session=session), Path(folder, "together"))
        stack.pop_all().close()
        figures["together"] = {"seconds": time.perf_counter() - began, "each": each}
        if options.apart:
            began = time.perf_counter()
            each, found["apart"] = seconds_of(lambda scenario, out: simulate(scenario, out=out), Path(folder, "apart"))
            figures["apart"] = {"seconds": time.perf_counter() - began, "each": each}
            assert found["together"] == found["apart"], "results depend on the runs before"
    rows = [
        [name, f"{figures[name]['seconds']:.1f}", f"{figures[name]['each'][0]:.1f}", f"{sum(figures[name]['each'][1:]) / 11:.2f}"]
        for name in found
    ]
    show(f"12 small scenarios with Ray (bar: {BAR:g} s together)", ["", "seconds", "the first", "each of the others"], rows)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
