"""A disk that fills up, and places that cannot be written to: the run ends with the file, the cause, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.scenarios import scenario

from scarcity_ray import Results
from scarcity_ray.run import main

LIMITED = """
import resource, sys
from scarcity_ray.run import main
most = int(sys.argv[1])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
main(["run", *sys.argv[2:]])
"""


def run(folder: Path, out: str, most: int = 0, **changes: Any) -> subprocess.CompletedProcess[str]:
    """The program, no file of which may be longer than so many bytes."""
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario(**changes)))
    command = [sys.executable, "-c", LIMITED, str(most), "scenario.yaml", "--out", out]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Logging error" not in done.stderr
    return done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB, for root only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)  # also while something still looks at it


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_its_rounds(tmp_path: Path, small_disk: Path) -> None:
    done = run(tmp_path, "disk/run", rounds=100_000, evaluation={"every": 1})
    assert done.returncode == 1
    head, kept, resume = done.stderr.splitlines()
    assert head.startswith("the run failed: cannot write to disk/run/")
    assert head.endswith(": No space left on device")
    assert kept.startswith("kept in disk/run: checkpoints/, clients.parquet/, environment.json")
    assert resume == "to continue: scarcity-ray resume disk/run"
    assert Results.load(small_disk / "run").rounds.num_rows > 0
    assert not list((small_disk / "run").glob(".*"))  # no draft takes what room is left


@pytest.mark.slow
@pytest.mark.parametrize(("most", "file"), [
    (1_500, "environment.json"), (12_000, ".rounds.parquet/part-00000000.parquet"),
    (60_000, "models/fed_avg.safetensors"),
])  # fmt: skip
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, most: int, file: str) -> None:
    done = run(tmp_path, "run", most, rounds=1, model={"kind": "mlp", "hidden": [400]})
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"the run failed: cannot write to run/{file}: File too large"
    assert done.stderr.splitlines()[1].startswith("kept in run: ")


@pytest.mark.slow
def test_a_plot_that_cannot_be_drawn_fails_no_run(tmp_path: Path) -> None:
    done = run(tmp_path, "run", 30_000, rounds=1)
    assert done.returncode == 0, done.stderr
    assert "run/curves.png could not be drawn: " in done.stdout
    assert "Look at" not in done.stdout
    assert "All numbers are in run." in done.stdout
    assert Results.load(tmp_path / "run").summary["strategies"]["fed_avg"]["status"] == "finished"


@pytest.mark.parametrize(
    ("out", "why"), [("file", "Not a directory"), ("file/run", "Not a directory"), ("sealed/run", "Permission denied")]
)
def test_a_place_that_is_none_is_named(
    out: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "sealed").mkdir(mode=0o500)
    if out == "sealed/run" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "scenario.yaml").write_text(yaml.safe_dump(scenario()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["run", "scenario.yaml", "--out", out])
    assert left.value.code == 1
    assert capsys.readouterr().err.splitlines() == [f"the run failed: cannot write to {out}: {why}", "nothing was written"]
