"""Runs of some of a table's clients, split by a column: they are continued, repeated, asked and unlearned like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.hospitals import SITES, hospital_rows
from helpers.interrupted import interrupt_after
from helpers.scenarios import scenario

from scarcity_ray import resume, simulate
from scarcity_ray.core.randomness import hash64
from scarcity_ray.runtime.verification import verify
from scarcity_ray.serving.predict import predict
from scarcity_ray.serving.unlearn import unlearn

IDENTITY = {"kind": "identity"}


def test_a_run_is_continued_repeated_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = hospital_rows(160)
    tiny = rows.slice(0, 1).set_column(0, "site", pa.array(["tiny"]))
    pq.write_table(pa.concat_tables([rows, tiny]), tmp_path / "stays.parquet")
    source = {"kind": "table", "path": "stays.parquet", "label": "days", "client": "site", "features": ["age", "dose", "ward"]}
    data = {"source": source, "partition": {"kind": "natural", "minimum": 5, "below": "drop"}, "participants": 4, "split": {"time": "age"}}
    strategies = [{"kind": "sf_hfe", "representation": IDENTITY}]
    made = scenario(rounds=2, repeats=2, data=data, model={"kind": "linear"}, strategies=strategies)
    whole = simulate(made, base_dir=tmp_path, out=tmp_path / "whole")
    interrupt_after(monkeypatch, 1, lambda: simulate(made, base_dir=tmp_path, out=tmp_path / "cut"))
    hashes = [
        [one["result_hash"] for one in run.summary["strategies"]["sf_hfe"]["seeds"].values()] for run in (whole, resume(tmp_path / "cut"))
    ]
    assert hashes[0] == hashes[1]
    assert verify(whole.directory).difference is None
    seeds = [one for _, one in whole.frame("clients").groupby("seed")]
    assert len(set(seeds[0]["client"])) == 4
    assert set(seeds[0]["client"]) == set(seeds[1]["client"]) < set(SITES)
    assert seeds[0]["num_test"].tolist() == seeds[1]["num_test"].tolist()
    assert whole.summary["repeats"] == "trainings"
    assert whole.summary["strategies"]["sf_hfe"]["gain"]["clients"] == 4  # each once, although there are two seeds
    assert predict(whole, hospital_rows(60), model="sf_hfe").num_rows == 60  # of all six sites
    assert "1 of 7 clients holds fewer than 5 rows and is left out: tiny" in (whole.directory / "logs" / "scarcity.log").read_text()


def test_an_unlearned_participant_is_as_if_fewer_had_been_drawn(tmp_path: Path) -> None:
    clients, rng = 8, np.random.default_rng(0)
    owner = np.append(np.repeat(np.arange(clients), 20), [clients])  # and one with a single row
    x = rng.standard_normal((len(owner), 3))
    y = (x[:, 0] + 0.3 * owner + rng.standard_normal(len(owner)) > 1).astype(int)
    seed = next(
        seed for seed in range(99) if (drawn := np.argsort(hash64(seed, "participants", np.arange(clients)))[:5])[-1] == drawn.max()
    )
    source = {"kind": "arrays", "x": x, "y": y, "client": owner, "standardise": False}
    data = {"source": source, "partition": {"kind": "natural", "below": "drop"}}
    more, fewer = (
        simulate(
            scenario(seed=seed, data={**data, "participants": count}, strategies=[{"kind": "sf_hfe", "representation": IDENTITY}]),
            out=tmp_path / str(count),
        )
        for count in (5, 4)
    )
    unlearn(more, str(drawn[-1]), strict=True)
    mine, wanted = more.tensors("sf_hfe"), fewer.tensors("sf_hfe")
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(mine[name], value, rtol=1e-5, atol=1e-6), name
