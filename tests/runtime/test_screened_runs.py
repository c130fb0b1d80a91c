"""A client whose unit is wrong, from a table to the report: found by name, and gone after unlearning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate
from scarcity_ray.report.final_table import experts_in_words
from scarcity_ray.serving.unlearn import unlearn

WRONG = "site 07"
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "sf_hfe", "name": "inputs", "representation": {"kind": "identity"}},
    {"kind": "sf_hfe", "name": "off", "representation": {"kind": "identity"}, "screening": "off"},
    {"kind": "sf_hfe", "name": "forgets", "representation": {"kind": "identity"}, "forgetting": 0.5},
    {"kind": "sf_hfe", "name": "waves", "representation": {"kind": "random_fourier", "features": 16, "inputs": False}},
    {
        "kind": "sf_hfe",
        "name": "pilot",
        "representation": {"kind": "random_fourier", "features": 16, "bandwidth": "evidence"},
        "screening": "refuse",
    },
]


def played(folder: Path, times: float) -> Results:
    draw, parts = np.random.default_rng(0), []
    for client in range(16):
        x = draw.standard_normal((12, 2)) + 1
        y = x @ [2.0, -1.0] + 0.3 * draw.standard_normal(12)
        parts.append(pd.DataFrame(x * (times if client == 7 else 1), columns=["a", "b"]).assign(y=y, site=f"site {client:02}"))
    pd.concat(parts).to_parquet(folder / "rows.parquet", index=False)
    source = {"kind": "table", "path": str(folder / "rows.parquet"), "label": "y", "client": "site", "task": "regression"}
    data = {"source": source, "test_fraction": 0.25}
    return simulate(scenario(data=data, rounds=3, strategies=STRATEGIES), out=folder / f"run {times:g}")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return played(tmp_path_factory.mktemp("wrong"), 1000.0)


@pytest.mark.parametrize("name", ["inputs", "forgets", "waves", "pilot"])
def test_it_is_named_in_summary_table_log_and_report(wrong: Results, name: str) -> None:
    (entry,) = wrong.summary["strategies"][name]["screened"]
    assert (entry["name"], entry["client"], entry["reason"]) == (WRONG, 7, "inputs")
    rows = wrong.frame("clients").query("strategy == @name").dropna(subset=["expert_id"])
    weights = rows.set_index("client")["screening_weight"]
    assert (weights[weights.index != WRONG] == 1).all()
    assert (weights[[WRONG]] < 1e-3).all()
    words = f"the inputs of client {WRONG} are "
    assert f"{name}: round {rows['round'].max()}: {words}" in (wrong.directory / "logs" / "scarcity.log").read_text()
    assert any(line.startswith(f"{name}: {words}") for line in experts_in_words(wrong.summary))


def test_off_counts_all_and_says_nothing(wrong: Results) -> None:
    assert wrong.summary["strategies"]["off"]["screened"] == []
    assert wrong.frame("clients").query("strategy == 'off'")["screening_weight"].isna().all()
    assert not any(line.startswith("off: the inputs") for line in experts_in_words(wrong.summary))


@pytest.mark.slow
def test_others_are_served_as_in_a_run_without_the_mistake(wrong: Results, tmp_path: Path) -> None:
    right, errors = played(tmp_path, 1.0), {}
    for title, run in (("wrong", wrong), ("right", right)):
        rows = run.frame("clients").dropna(subset=["expert_id"])
        rows = rows[(rows["client"] != WRONG) & (rows["round"] == rows.groupby("strategy")["round"].transform("max"))]
        errors[title] = rows.groupby("strategy")["test_loss"].mean()
    ratio = errors["wrong"] / errors["right"]
    assert ratio["off"] > 1.3
    assert ratio["inputs"] == pytest.approx(1, abs=0.1)
    assert ratio["forgets"] == pytest.approx(1, abs=0.1)
    assert (ratio[["waves", "pilot"]] < 1.3).all()
    assert all(right.summary["strategies"][one["name"]]["screened"] == [] for one in STRATEGIES)


@pytest.mark.slow
def test_unlearning_screens_the_messages_that_stay(tmp_path: Path) -> None:
    run = played(tmp_path, 1000.0)
    before = run.ensemble("inputs").heads
    unlearn(run, "site 03")
    (entry,) = run.summary["strategies"]["inputs"]["screened"]
    assert entry["name"] == WRONG
    assert float((run.ensemble("inputs").heads - before).norm() / before.norm()) < 0.1
    unlearn(run, WRONG)
    for name in ("inputs", "forgets", "waves", "pilot"):
        assert run.summary["strategies"][name]["screened"] == []
    rows = run.frame("clients").query("strategy == 'inputs'").dropna(subset=["expert_id"])
    assert (rows["screening_weight"] == 1).all()
