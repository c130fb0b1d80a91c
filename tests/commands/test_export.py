"""`export`: what a run has written, read back by other programs."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.scenarios import scenario
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from scarcity_ray import Results, simulate
from scarcity_ray.run import app

DATA = {"source": {"kind": "digits"}, "clients": 6, "partition": {"kind": "iid"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A strategy with insights under two seeds, on slow devices, and one that nothing is scarce for."""
    strategies, scarcity = [{"kind": "fed_avg", "insights": True}, {"kind": "pooled"}], {"compute": {"speed": 0.001}}
    plain = scenario(data=DATA, model={"kind": "linear"}, strategies=strategies, repeats=2, scarcity=scarcity)
    return simulate(plain, out=tmp_path_factory.mktemp("export") / "run")


def left(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)], obj=False)
    return done.exit_code, done.output


def test_csv_has_every_digit(run: Results, tmp_path: Path) -> None:
    code, out = left(run.directory, "--to", "csv", "--out", tmp_path / "csv", "--json")
    assert (code, [Path(path).stem for path in json.loads(out)["written"]]) == (0, ["rounds", "clients", "insights", "summary"])
    for name in ("rounds", "clients", "insights"):
        written, kept = pd.read_csv(tmp_path / "csv" / f"{name}.csv", engine="pyarrow"), run.frame(name)
        lists = [column for column in kept if kept[column].map(lambda value: isinstance(value, np.ndarray)).any()]
        assert set(kept) - set(written) <= {"survey", "pilot", "moments", "trial", "prototypes", "gradient"}
        assert set(lists) <= set(kept) - set(written)
        assert len(written) == len(kept) > 0
        for column in written:
            if kept[column].notna().any():
                pd.testing.assert_series_equal(
                    written[column].astype(kept[column].dtype), kept[column], check_exact=True, check_names=False
                )
    rows = pd.read_csv(tmp_path / "csv" / "summary.csv", engine="pyarrow").set_index(["strategy", "seed"])
    assert len(rows) == 8  # the two baselines too
    for name, entry in run.summary["strategies"].items():
        for seed, own in entry["seeds"].items():
            row = rows.loc[(name, int(seed))]
            assert (row["test_loss"], row["bytes_per_client"], row["result_hash"]) == (
                own["test_loss"],
                own["bytes_per_client"],
                own["result_hash"],
            )
            if name != "alone":
                assert (row["gain.mean"], row["gain.seeds"]) == (entry["gain"]["mean"], 2)


def test_tensorboard_reads_every_round(run: Results, tmp_path: Path) -> None:
    assert left(run.directory, "--to", "tensorboard", "--out", tmp_path / "events")[0] == 0
    assert left(run.directory, "--to", "tensorboard", "--out", tmp_path / "events", "--force")[0] == 0  # events of the first do not stay
    rounds, summary = run.frame("rounds"), run.summary["strategies"]
    for name, entry in summary.items():
        for seed, own in entry["seeds"].items():
            events = EventAccumulator(str(tmp_path / "events" / name / f"seed{seed}")).Reload()
            tags = set(events.Tags()["scalars"])
            rows = rounds[(rounds["strategy"] == name) & (rounds["seed"] == int(seed))]
            for tag, column in (
                ("metrics/test_accuracy", "test_accuracy"),
                ("metrics/test_accuracy_worst_decile", "test_accuracy_worst_decile"),
                ("costs/uplink_bytes", "uplink_bytes"),
                ("rounds/train_loss", "train_loss"),
                ("costs/hours", "clock_seconds"),
            ):
                known = rows[rows[column].notna()]
                assert (tag in tags) == bool(len(known))
                points = events.Scalars(tag) if tag in tags else []
                assert [point.step for point in points] == known["round"].tolist()
                expected = known[column] / 3600 if column == "clock_seconds" else known[column]
                np.testing.assert_allclose([point.value for point in points], expected.astype(float), rtol=1e-6)
            (last,) = events.Scalars("final/test_accuracy")
            assert last.value == pytest.approx(own["test_accuracy"], rel=1e-6)
            assert "_hparams_/session_start_info" in events.summary_metadata


def test_a_folder_with_content_is_left_alone(run: Results, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, out = left(run.directory, "--to", "csv", "--out", tmp_path)
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["notes.txt"])
    assert "is not empty" in out
    assert left(run.directory, "--to", "csv", "--out", tmp_path, "--force")[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_name_does_not_lead_out_of_the_folder(run: Results, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    path.write_text(path.read_text().replace('"pooled": {', '"../../pooled": {'))
    code, out = left(tmp_path / "run", "--to", "tensorboard", "--out", tmp_path / "events")
    assert (code, sorted(one.name for one in tmp_path.iterdir())) == (2, ["run"])
    assert "leads out of" in out


def test_a_missing_extra_is_named(run: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *rest: Any, find: Callable[..., Any] = builtins.__import__) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    code, out = left(run.directory, "--to", "tensorboard", "--out", tmp_path / "events")
    assert (code, (tmp_path / "events").exists()) == (2, False)
    assert "pip install 'scarcity-ray[tensorboard]'" in " ".join(out.split())
