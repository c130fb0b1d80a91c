"""Thousands of clients: how long the MetaLearner learns, and how much memory the run uses."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from _common import HERE, watch
from _ensemble_runs import Bench, Found, Run, figure, groups, moments

from scarcity_ray import Results, simulate
from scarcity_ray.strategies import sf_hfe

GIB = 2.0**30


def scale(bench: Bench) -> Found:
    """5,000 clients with 10 to 20 rows each, three hidden groups, 256 features, number of experts not given: one seed."""
    clients, features = (300, 96) if bench.quick else (5000, 256)
    sizes = {"lognormal": {"mean": 3.4, "sigma": 0.2, "minimum": 20, "maximum": 40}}
    scenario = {
        "name": "scale",
        "seed": bench.first,
        "rounds": 3,
        "data": {
            "source": {"kind": "blobs", "shape": [64], "classes": 10, "samples_per_client": sizes},
            "clients": clients,
            "transforms": [{"kind": "affine", "groups": 3}],
            "test_fraction": 0.5,
        },
        "strategies": [moments(features)],
        "execution": {"ray": False},
    }
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        out, given, seconds = Path(folder) / "run", Path(folder) / "scenario.json", Path(folder) / "seconds.json"
        given.write_text(json.dumps(scenario))
        watched = watch([sys.executable, str(HERE / "_ensemble_scale.py"), str(given), str(out), str(seconds)], out, 0.5)
        name = f"sf_hfe_{features}"
        run = Run(bench.first, {name: Results.load(out)})
        (learning,) = json.loads(seconds.read_text())
        rows = [
            figure(f"seconds of learning, {clients:,} clients x {features} features", [learning], at_most=300),
            figure("seconds of the whole run", [watched.seconds]),
            figure("peak memory of the whole run, GiB", [watched.peak_bytes / GIB]),
            figure("accuracy", [run.of(name)["test_accuracy"]], bytes=run.of(name)["bytes_per_client"]),
            *groups("three groups", [run], name, 3, bars=False),
        ]
    return Found(rows)


def main() -> None:
    """`python _ensemble_scale.py SCENARIO.json OUT SECONDS.json`: runs in its own process, so that its memory is the run's."""
    scenario, out, seconds = map(Path, sys.argv[1:])
    took, learn = [], sf_hfe.learn

    def timed(*moments: Any, **settings: Any) -> Any:
        began = time.monotonic()
        learned = learn(*moments, **settings)
        took.append(time.monotonic() - began)
        return learned

    with mock.patch.object(sf_hfe, "learn", timed):
        simulate(json.loads(scenario.read_text()), out=out)
    seconds.write_text(json.dumps(took))


if __name__ == "__main__":
    main()
