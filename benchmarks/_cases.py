"""The single measurements of scaling.py: each is a run with its figures and their bars (targets)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _common import HERE, Watched, watch
from _timed import Split, middle

GIB = 2.0**30
BARS: dict[str, tuple[str, float]] = {
    "ten_thousand": ("round_seconds", 3.0),
    "registered": ("round_seconds", 1.0),
    "registered_memory": ("beyond_gib", 2.0),
    "empty_round": ("round_seconds", 0.015),
    "fixed_cost": ("seconds", 10.0),
}
"""The figure of each case that must stay below a limit, and the limit."""


def scenario(clients: int, sampled: int, rounds: int, actors: int, rows: int = 20, features: int = 60, **strategy: Any) -> dict[str, Any]:
    """Logistic regression on blobs: `clients` registered, `sampled` of them per round, `rows` each."""
    return {
        "name": "scaling",
        "rounds": rounds,
        "data": {
            "source": {"kind": "blobs", "shape": [features], "classes": 10, "samples_per_client": rows},
            "clients": clients,
            "test_fraction": 0.0,
        },
        "model": {"kind": "linear"},
        "local": {"epochs": 1, "batch_size": 10, "lr": 0.05},
        "strategies": [strategy or {"kind": "fed_avg", "clients_per_round": sampled}],
        "evaluation": {"every": rounds},
        "execution": {"actors": actors},
    }


def timed(settings: dict[str, Any], memory_every: float | None = 0.2) -> tuple[dict[str, float], Watched]:
    """A run with timed actors in its own process: the median split of a round, and the process's measurements."""
    splits, watched = timed_rounds(settings, memory_every)
    return middle(splits), watched


def timed_rounds(
    settings: dict[str, Any], memory_every: float | None = None, environment: Mapping[str, str] | None = None
) -> tuple[list[Split], Watched]:
    """The same, but with the split of every round. environment: the variables of its process."""
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        out, given, splits = Path(folder) / "run", Path(folder) / "scenario.json", Path(folder) / "splits.json"
        given.write_text(json.dumps(settings))
        watched = watch([sys.executable, str(HERE / "_timed.py"), str(given), str(out), str(splits)], out, memory_every, environment)
        return [Split(**split) for split in json.loads(splits.read_text())], watched


def plain(settings: dict[str, Any], memory_every: float | None = None) -> tuple[Watched, float]:
    """A run by the command line, and the Arrow bytes per insight in its table (NaN without insights)."""
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        out, given = Path(folder) / "run", Path(folder) / "scenario.yaml"
        given.write_text(json.dumps(settings))  # JSON is YAML
        watched = watch([sys.executable, "-m", "scarcity_ray.run", str(given), "--out", str(out)], out, memory_every)
        insights = pq.read_table(out / "insights.parquet")
        return watched, insights.nbytes / len(insights) if len(insights) else float("nan")


def ten_thousand(actors: int, quick: bool) -> dict[str, float]:
    """10,000 clients of 20 rows, all in every round."""
    split, watched = timed(scenario(10_000, 10_000, 4 if quick else 10, actors))
    return {"round_seconds": split["round"], **split, "peak_gib": watched.peak_bytes / GIB}


def registered(actors: int, quick: bool) -> dict[str, float]:
    """100,000 clients registered, 1,000 per round; memory beyond that of the same run with 100 clients."""
    split, watched = timed(scenario(100_000, 1000, 6 if quick else 20, actors))
    _, least = timed(scenario(100, 100, 6 if quick else 20, actors))
    return {
        "round_seconds": split["round"],
        **split,
        "peak_gib": watched.peak_bytes / GIB,
        "ray_and_torch_gib": least.peak_bytes / GIB,
        "beyond_gib": (watched.peak_bytes - least.peak_bytes) / GIB,
    }


def empty_round(actors: int, quick: bool) -> dict[str, float]:
    """One client with one row in each actor: what a round costs besides training."""
    split, _ = timed(scenario(actors, actors, 100 if quick else 500, actors, rows=1, features=1), memory_every=None)
    return {"round_seconds": split["round"], **split}


def fixed_cost(actors: int, quick: bool) -> dict[str, float]:
    """Seconds of the whole command, for one round of two clients."""
    seconds = [plain(scenario(2, 2, 1, actors))[0].seconds for _ in range(1 if quick else 3)]
    return {"seconds": float(np.median(seconds)), "least_seconds": min(seconds)}


def many_rounds(actors: int, quick: bool) -> dict[str, float]:
    """Memory growth per round of all processes, without and with a history: the slope of a line through the last three quarters."""
    rounds, clients = (1000 if quick else 5000), 20
    found: dict[str, float] = {"rounds": rounds, "clients": clients}
    for kind in ("fed_avg", "insight_exchange"):
        watched, insight = plain(scenario(clients, clients, rounds, actors, kind=kind), memory_every=0.5)
        first, last = watched.rounds
        first += (last - first) / 4  # skip the time in which pools and buffers fill
        seconds, held = np.array([look for look in watched.history if first < look[0] < last]).T
        slope = float(np.polyfit(seconds, held, 1)[0])  # bytes a second
        found[f"{kind}_seconds"] = watched.seconds
        found[f"{kind}_bytes_a_round"] = slope * (watched.rounds[1] - watched.rounds[0]) / rounds
        if kind == "insight_exchange":
            found["arrow_bytes_an_insight"] = insight
            found["bytes_an_insight"] = (found[f"{kind}_bytes_a_round"] - found["fed_avg_bytes_a_round"]) / clients
    return found


CASES: dict[str, Callable[[int, bool], dict[str, float]]] = {
    case.__name__: case for case in (ten_thousand, registered, empty_round, fixed_cost, many_rounds)
}
