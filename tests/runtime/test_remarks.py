"""What is said of a scenario before its run: in the plan and in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.hospitals import hospital_rows
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.inference.mean_gain import mean_gain
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.plan_in_words import plan_in_words
from scarcity_ray.runtime.remarks import half_width
from scarcity_ray.scenario import parse

MANY = {"source": {"kind": "blobs", "shape": [2], "samples_per_client": 60}, "clients": 100}
FEW = {**MANY, "clients": 10}
FIVE = "a mean gain of 5 points of accuracy cannot be told from none"
BOTH = [{"kind": "local_only"}, {"kind": "fed_avg"}, {"kind": "sf_hfe"}]


def told(**changes: Any) -> list[str]:
    plan = prepare(parse(scenario(**changes)), Path())
    assert [text for what, text in plan_in_words(plan) if what == "note"] == list(plan.notes)
    return [note.split(":")[0] for note in plan.notes]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": MANY, "strategies": [{"kind": "fed_avg"}], "repeats": 2}, []),
        ({"data": {**MANY, "validation_fraction": 0.2}, "strategies": BOTH, "repeats": 2}, []),
        ({"data": MANY, "strategies": BOTH}, ["no validation rows", "one seed"]),
        ({"data": FEW, "strategies": [{"kind": "fed_avg"}]}, [FIVE, "one seed"]),
        ({"data": {**FEW, "clients": 30}, "strategies": [{"kind": "fed_avg"}], "repeats": 2}, []),
        ({"data": MANY, "strategies": [{"kind": "fed_avg"}], "repeats": 2, "evaluation": {"clients": 10}}, [FIVE]),
        ({"data": {**FEW, "test_fraction": 0}, "repeats": 2}, ["no client has test rows, so no gain has an interval"]),
    ],
)
def test_only_what_can_mislead_is_told(changes: dict[str, Any], expected: list[str]) -> None:
    assert told(**changes) == expected


@pytest.mark.parametrize(("clients", "rows"), [(10, 12), (60, 5), (40, 40)])
def test_the_half_width_is_that_of_gains_of_such_rows(clients: int, rows: int) -> None:
    rng, halves = np.random.default_rng(0), []
    for _ in range(200):
        of_rows = rng.choice([-1, 0, 1], (clients, rows), p=[0.1, 0.75, 0.15])  # variance .2475
        found = mean_gain((of_rows.mean(1) + 0.08 * rng.standard_normal(clients))[None], keep_rows=True)
        halves.append((found.high - found.low) / 2)
    assert half_width(np.full(clients, rows)) == pytest.approx(np.mean(halves), rel=0.1)
    assert half_width(np.full(clients, rows), 4, renewed=True) == pytest.approx(half_width(np.full(clients, rows)) / 2)
    assert np.isnan(half_width(np.array([5])))


def test_the_log_tells_the_same_once(tmp_path: Path) -> None:
    pq.write_table(hospital_rows(), tmp_path / "stays.parquet")
    source = {"kind": "table", "path": "stays.parquet", "label": "days", "client": "site"}
    made = scenario(data={"source": source}, model={"kind": "linear"}, rounds=1, repeats=1, strategies=[{"kind": "fed_avg"}])
    simulate(made, base_dir=tmp_path, out=tmp_path / "run")
    assert (tmp_path / "run" / "logs" / "scarcity.log").read_text().count("one seed: intervals leave out the luck of training") == 1
