"""The folder of a run: its own from the first moment, and gone where the run does not begin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.results.files import Unwritable
from scarcity_ray.runtime.claim import FILE, OutputExists, claimed
from scarcity_ray.scenario import ScenarioError


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    ready, held = Barrier(8), Barrier(8)

    def start(_: int) -> str:
        ready.wait()
        with claimed(tmp_path / "runs" / "mine", only=False) as directory:
            held.wait()
            (directory / FILE).write_text("name: mine\n")
            return directory.name

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(start, range(8)))
    assert found == {"mine", *(f"mine-{number}" for number in range(2, 9))}


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_does_not_begin_leaves_nothing(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "notes.txt").touch()
    with claimed(tmp_path / "runs" / "mine", only=True) as directory:
        assert (directory / FILE).exists()
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "notes.txt"] if there else [])


def test_one_folder_and_no_other(tmp_path: Path) -> None:
    with claimed(tmp_path / "mine", only=True) as directory:
        with pytest.raises(OutputExists, match=r"mine already holds a run: name another folder, or replace the run by force"):
            claimed(directory, only=True).__enter__()
        with claimed(directory, only=True, force=True) as again:
            assert again == directory
    (tmp_path / "file").touch()
    with pytest.raises(Unwritable, match="Not a directory"):
        claimed(tmp_path / "file", only=True).__enter__()


def test_what_cannot_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = {"source": {"kind": "table", "path": "no.csv", "label": "y"}, "clients": 2, "partition": {"kind": "iid"}}
    with pytest.raises(ScenarioError, match=r"data\.source\.path is 'no\.csv': there is no file"):
        simulate(scenario(data=table))
    with pytest.raises(ScenarioError, match="the folder for results is an empty text"):
        simulate(scenario(), out="")
    assert not list(tmp_path.iterdir())
