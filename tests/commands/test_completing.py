"""Completion, as a shell asks for it: by the words so far in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scarcity_ray.results.sealed import save_sealed
from scarcity_ray.run import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one of them with a run inside and with names of clients; scenarios; and what is neither."""
    for run, names in (("runs/noniid", ["north", "south, old", "5"]), ("runs/deep/wider", None)):
        (tmp_path / run / "models").mkdir(parents=True)
        (tmp_path / run / "scenario.yaml").touch()
        strategies = {name: {} for name in ("guess", "alone", "fed_avg", "sf_hfe")}
        (tmp_path / run / "summary.json").write_text(json.dumps({"clients": 12, "strategies": strategies}))
        for model in ("sf_hfe", "sf_hfe.seed8"):
            save_sealed(tmp_path / run / "models" / f"{model}.safetensors", {"x": torch.zeros(1)}, {"encoding": {"clients": names}})
    (tmp_path / "runs" / "noniid" / "scarcity" / "free").mkdir(parents=True)
    (tmp_path / "runs" / "noniid" / "scarcity" / "free" / "scenario.yaml").touch()
    for file in ("runs/notes.txt", "own.yaml", "more/small.yaml", "more/deep/er.yaml", ".hidden.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


WIDER = "runs/deep/wider"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("clients ", [WIDER, "runs/noniid"]),
        ("clients runs/n", ["runs/noniid"]),
        ("resume runs/noniid/", ["runs/noniid/scarcity/free"]),
        ("verify no/such/", []),
        ("run ", ["more/", "more/small.yaml", "own.yaml", "runs/"]),
        ("run more/d", ["more/deep/", "more/deep/er.yaml"]),
        ("clients runs/noniid --strategy ", ["guess", "fed_avg", "sf_hfe"]),
        ("clients --strategy ", []),
        ("predict runs/noniid rows.csv --model sf_hfe.", ["sf_hfe.seed8"]),
        ("unlearn runs/noniid --client ", ["north", "south, old", "5"]),
        (f"predict {WIDER} --client 1", ["1", "10", "11"]),
        (f"compare runs/noniid {WIDER} --reference w", ["wider/fed_avg", "wider/sf_hfe"]),
        (f"compare runs/noniid {WIDER} ", [WIDER, "runs/noniid"]),
        ("export runs/noniid --to t", ["tensorboard"]),
        ("exp", ["export"]),
    ],
)
def test_what_is_offered(
    folder: Path, words: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_SCARCITY_RAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"scarcity-ray {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    with pytest.raises(SystemExit):
        main([])
    assert list(filter(None, capsys.readouterr().out.splitlines())) == offered


def test_files_of_no_run_offer_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (folder / "runs" / "noniid" / "models").iterdir():
        model.write_bytes(b"\xff" * 20)
    (folder / "runs" / "noniid" / "summary.json").write_text("[]")
    for option in ("--client", "--model"):
        monkeypatch.setenv("_SCARCITY_RAY_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"scarcity-ray predict runs/noniid {option} n")
        monkeypatch.setenv("COMP_CWORD", "4")
        with pytest.raises(SystemExit):
            main([])
        assert capsys.readouterr().out.strip() == ""


def test_nothing_slow_is_loaded(folder: Path) -> None:
    """The program as the shell calls it: what takes longest is to import."""
    code = (
        "import atexit, sys; from scarcity_ray.run import main; "
        "atexit.register(lambda: print('slow', *({'torch', 'ray', 'numpy', 'pyarrow', 'pandas', 'rich'} & {*sys.modules}))); main()"
    )
    words = {"COMP_WORDS": "scarcity-ray clients runs/noniid --strategy s", "COMP_CWORD": "4", "_SCARCITY_RAY_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sf_hfe", "slow"]
