"""`scarcity-ray verify`: an honest run is confirmed, and the first entry that was altered is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.results.sealed import load_sealed, save_sealed
from scarcity_ray.run import main
from scarcity_ray.runtime.simulation import RunFailed
from scarcity_ray.runtime.verification import verify

STRATEGIES = [{"kind": "fed_avg", "fraction": 0.5}, {"kind": "insight_exchange"}]
EVERY = {"ray": False, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "run"
    simulate(scenario(rounds=2, strategies=STRATEGIES, execution=EVERY), out=path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to be altered."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def alter(run: Path, table: str, column: str, place: int, value: Any) -> Any:
    """Rewrites one value of a table, as who has pyarrow can, and returns what it was."""
    (part,) = (run / f"{table}.parquet").iterdir()
    rows = pq.ParquetFile(part).read()
    values, at = rows[column].to_pylist(), rows.schema.get_field_index(column)
    before, values[place] = values[place], value
    rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    pq.write_table(rows, part, compression="zstd", write_page_checksum=True)
    return before


def test_a_finished_run_is_confirmed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(SystemExit) as left:
        main(["verify", str(finished)])
    assert left.value.code == 0
    assert "4 rounds repeated: the same to the last bit" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before  # it is only read


@pytest.mark.parametrize("rounds", [1, 3, 99])
def test_single_rounds_are_confirmed(finished: Path, rounds: int) -> None:
    found = verify(finished, rounds)
    # The first round of each strategy can always be repeated; one after it where its checkpoint was not overtaken by the next.
    assert min(rounds, 2) <= found.rounds <= min(rounds, 4)
    assert (found.difference, found.changed) == (None, [])


@pytest.mark.parametrize("rounds", [None, 4])
@pytest.mark.parametrize(("table", "column", "place", "value", "where"), [
    ("rounds", "train_loss", 0, 0.5, "fed_avg, seed 3, round 1, rounds.train_loss: 0.5 then, "),
    ("rounds", "uplink_bytes", 2, 7, "insight_exchange, seed 3, round 1, rounds.uplink_bytes: 7 then, "),
    ("clients", "test_loss", 32, 0.25, "fed_avg, seed 3, round 1, client 8, clients.test_loss: 0.25 then, "),
    ("insights", "mean_grad", 5, 0.125, "insight_exchange, seed 3, round 1, client 5, insights.mean_grad: 0.125 then, "),
])  # fmt: skip
def test_an_altered_value_is_named(run: Path, rounds: int | None, table: str, column: str, place: int, value: Any, where: str) -> None:
    before = alter(run, table, column, place, value)
    assert str(verify(run, rounds).difference) == f"{where}{before!r} now"


def test_the_first_of_several_differences_is_named(run: Path) -> None:
    alter(run, "clients", "test_loss", 47, 0.25)
    alter(run, "clients", "test_loss", 37, 0.25)
    alter(run, "rounds", "train_loss", 3, 0.5)
    difference = verify(run).difference
    assert difference is not None
    assert (difference.strategy, difference.round, difference.client, difference.column) == ("fed_avg", 2, "1", "clients.test_loss")


@pytest.mark.parametrize(("place", "name"), [(3, "guess"), (15, "alone")])
def test_an_altered_baseline_is_named(run: Path, place: int, name: str) -> None:
    alter(run, "clients", "test_accuracy", place, 0.25)
    assert str(verify(run).difference).startswith(f"{name}, seed 3, round 2, client 3, clients.test_accuracy: 0.25 then, ")


def test_the_command_leaves_with_1_and_the_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alter(run, "rounds", "train_loss", 0, 0.5)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(run), "--rounds", "4"])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("different after ")
    assert "fed_avg, seed 3, round 1, rounds.train_loss: 0.5 then, " in said
    assert len(said.splitlines()) == 1


def test_a_run_of_before_inputs_stood_beside_waves_is_repeated_without_them(tmp_path: Path) -> None:
    representation = {"kind": "random_fourier", "features": 24, "inputs": False}
    generated = {"source": {"kind": "shifted_regression", "features": 3, "samples_per_client": 8}, "clients": 6}
    run = tmp_path / "run"
    simulate(scenario(data=generated, strategies=[{"kind": "fed_avg"}, {"kind": "sf_hfe", "representation": representation}]), out=run)
    content = yaml.safe_load((run / "scenario.yaml").read_text())
    assert content["strategies"][1]["representation"].pop("inputs") is False
    (run / "scenario.yaml").write_text(yaml.safe_dump(content))
    found = verify(run)
    assert (found.difference, found.changed) == (None, [])
    content["strategies"][1]["representation"]["inputs"] = "auto"
    (run / "scenario.yaml").write_text(yaml.safe_dump(content))
    assert str(verify(run).difference).startswith("sf_hfe, seed 3, round 2")


def test_an_altered_hash_is_named(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["strategies"]["insight_exchange"]["result_hash"] = "0" * 64
    (run / "summary.json").write_text(json.dumps(summary))
    difference = verify(run).difference
    assert difference is not None
    assert str(difference).startswith(f"insight_exchange, seed 3, the trained model (result hash): '{'0' * 64}' then, ")


@pytest.mark.parametrize(("change", "differs"), [
    (lambda tensors, told: tensors["0.bias"].__setitem__(2, 7.0), ", 0.bias: '7.0' then, '"),
    (lambda tensors, told: tensors.update({"0.bias": tensors["0.bias"].double()}),
     ", 0.bias: 'torch.float64, [12]' then, 'torch.float32, [12]' now"),
    (lambda tensors, told: tensors.pop("0.bias"), ": "),
    (lambda tensors, told: told["encoding"].update(classes=list(range(10))[::-1]), ", its metadata: 'another' then, 'this' now"),
])  # fmt: skip
def test_an_altered_model_is_named(run: Path, change: Any, differs: str) -> None:
    """Sealed again, as a person who can write the file could; the summary still has the hash of what was trained."""
    file = run / "models/fed_avg.safetensors"
    tensors, told = load_sealed(file)
    change(tensors, told)
    save_sealed(file, tensors, told)
    assert str(verify(run).difference).startswith(f"fed_avg, seed 3, models/fed_avg.safetensors{differs}")


def test_a_missing_model_is_named(run: Path) -> None:
    (run / "models/fed_avg.safetensors").unlink()
    assert str(verify(run).difference) == "fed_avg, seed 3, models/fed_avg.safetensors: 'missing' then, 'there' now"


def test_seconds_may_differ(run: Path) -> None:
    alter(run, "rounds", "seconds", 0, 1e6)
    alter(run, "insights", "train_seconds", 0, 1e6)
    assert verify(run).difference is None
    assert verify(run, 4).difference is None


def test_a_run_without_test_rows_is_confirmed(tmp_path: Path) -> None:
    data = scenario()["data"] | {"test_fraction": 0.0}
    simulate(scenario(rounds=1, data=data, execution=EVERY), out=tmp_path / "run")
    assert verify(tmp_path / "run").difference is None
    assert verify(tmp_path / "run", 1).difference is None


TIRED = """
import pathlib
import torch

class Tired(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        if torch.is_grad_enabled() and pathlib.Path("tired").exists():
            raise KeyError("no more")
        return self.layer(x)
"""


def test_an_unfinished_run_is_compared_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends by a client's own exception, which is raised once and not tried again."""
    (tmp_path / "tired.py").write_text(TIRED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    content, tired = scenario(rounds=2, model={"kind": "import", "path": "tired:Tired"}, execution=EVERY), Path("tired")
    simulate(content, out="whole")
    tired.touch()
    with pytest.raises(RunFailed, match=r"client [0-9]+: KeyError: 'no more'"):
        simulate(content, out="run")
    log = Path("run/logs/scarcity.log").read_text()
    assert "attempt" not in log
    for more in ([], ["--rounds", "1"]):
        with pytest.raises(SystemExit) as left:
            main(["verify", "whole", "--imports", *more])
        assert left.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("the repetition failed: client ")
        assert "Traceback" not in said
    tired.unlink()
    assert verify("run", imports=True).difference is None
