"""A run that was cut short continues from its last checkpoint to the end it would have had, or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.clock import wall_clock
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate, verify
from scarcity_ray.core.computing import COMPUTING_VERSION
from scarcity_ray.results.checkpoints import Checkpoint, Checkpoints
from scarcity_ray.run import main
from scarcity_ray.runtime.observers import Round, StrategyRun
from scarcity_ray.runtime.observers.plots import Plots
from scarcity_ray.runtime.simulation import Changed, Interrupted, RunFailed, resume

ROOT = Path(__file__).parents[2]
MOMENTS = 4
STRATEGIES = [
    {"kind": "local_only", "rounds": 8},
    {"kind": "fed_avg", "fraction": 0.5, "rounds": 16},
    {"kind": "insight_exchange", "rounds": 6},
    {"kind": "ifca", "experts": 2, "rounds": 6},
    {"kind": "sf_hfe", "experts": 1, "personal": False, "rounds": 4, "representation": {"kind": "trunk", "rounds": 2}},
]


def cut(**changes: Any) -> dict[str, Any]:
    """Two seeds of five strategies, some with memory, in this process."""
    return scenario(**({"strategies": STRATEGIES, "repeats": 2} | changes))


def lasting(directory: Path) -> tuple[Any, ...]:
    """The summary and the tables of a run, without times."""

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: plain(inner) for name, inner in value.items() if not wall_clock(name)}

    tables = [pq.read_table(directory / f"{name}.parquet") for name in ("rounds", "clients", "insights")]
    return plain(Results.load(directory).summary), *(
        table.drop_columns([name for name in table.column_names if wall_clock(name)]) for table in tables
    )


def same(one: Path, other: Path) -> bool:
    return all(a == b for a, b in zip(lasting(one), lasting(other), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing cuts short."""
    return simulate(cut(), out=tmp_path_factory.mktemp("whole") / "run").directory


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the same run leaves if it is killed with -9 at several moments: the program is stopped at each and its folder
    copied, but at the last, where it is killed."""
    folder = tmp_path_factory.mktemp("moments")
    (folder / "scenario.yaml").write_text(yaml.safe_dump(cut(execution={"ray": False, "checkpoint_every": 1})))
    command = [sys.executable, "-m", "scarcity_ray.run", str(folder / "scenario.yaml"), "--out", str(folder / "run")]
    total = 2 * sum(int(strategy["rounds"]) for strategy in STRATEGIES)
    left = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as program:
        for moment in range(MOMENTS):
            while rounds(folder / "run") < moment * total // MOMENTS + 1:
                assert program.poll() is None
                time.sleep(0.01)
            program.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
            left.append(folder / str(moment))
            shutil.copytree(folder / "run", left[-1])
            program.send_signal(signal.SIGKILL if moment == MOMENTS - 1 else signal.SIGCONT)
    assert program.returncode == -signal.SIGKILL
    return left


def rounds(directory: Path) -> int:
    """How many are on disk."""
    try:
        return sum(pq.read_metadata(part).num_rows for part in (directory / "rounds.parquet").glob("part-*"))
    except (OSError, pa.ArrowException):
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_after_a_kill_it_ends_as_if_nothing_had_happened(moment: int, moments: list[Path], whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(moments[moment], tmp_path / "run")
    before = rounds(directory)
    assert before < rounds(whole)
    resume(directory)
    assert same(directory, whole)


EXCHANGES = [
    {"kind": "insight_exchange"},
    {"kind": "gradient_exchange", "dimensions": 20},
    {"kind": "prototypes", "representation": {"kind": "trunk", "rounds": 2}},
    {"kind": "sf_hfe", "experts": 2, "forgetting": 0.5, "representation": {"kind": "random_fourier", "features": 8}},
    {"kind": "sf_hfe", "experts": 1, "representation": {"kind": "auto", "features": 72}},
]


@pytest.mark.parametrize("strategy", EXCHANGES, ids=lambda strategy: strategy["kind"])
def test_within_any_round_of_an_exchange_it_goes_on(strategy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history and the hash are made of rows that were on disk, and of those that follow."""
    content = scenario(strategies=[strategy], rounds=3, execution={"ray": False, "checkpoint_every": 1})
    simulate(content, out=tmp_path / "whole")
    played = rounds(tmp_path / "whole")
    assert played >= 2
    on_round = Plots.on_round
    for cut_after in range(1, played):

        def interrupt(last: Plots, run: StrategyRun, round: Round, cut_after: int = cut_after) -> None:
            on_round(last, run, round)
            if round.number == cut_after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Plots, "on_round", interrupt)  # the last observer: the others have seen the round
            with pytest.raises(Interrupted):
                simulate(content, out=tmp_path / "run", force=True)
        assert rounds(tmp_path / "run") == cut_after
        resume(tmp_path / "run")
        assert same(tmp_path / "run", tmp_path / "whole")


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("spoil", [truncated, flipped, lambda content: b""])
def test_a_broken_checkpoint_is_left_alone(
    spoil: Callable[[bytes], bytes], moments: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = shutil.copytree(moments[2], tmp_path / "run")
    *_, before, last = sorted((directory / "checkpoints").glob("*.safetensors"))
    good = Checkpoint.of(before)
    last.write_bytes(spoil(last.read_bytes()))
    found, broken = Checkpoints(directory).last()
    assert found is not None
    assert (found.strategy, found.seed, found.round) == (good.strategy, good.seed, good.round)
    assert len(broken) == 1
    assert str(last) in broken[0]


def test_after_a_kill_within_a_write_it_goes_on_from_the_checkpoint_before(moments: list[Path], whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(moments[-2], tmp_path / "run")
    last = max((directory / "checkpoints").glob("*.safetensors"))
    last.write_bytes(truncated(last.read_bytes()))
    for name in ("rounds", "clients", "insights"):  # and what a part of a table leaves that was not in its place yet
        (directory / f".{name}.parquet.part").write_bytes(b"PAR1")
    resume(directory)
    assert same(directory, whole)


FEW_STEPS = {"epochs": 1, "batch_size": 64, "lr": 0.2}
TROUBLE: dict[str, Any] = {"steps": 0, "error": None}
"""For Troubled: what it raises, and after how many steps."""


class Troubled(torch.nn.Module):
    """A linear model that raises what the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TROUBLE["steps"] -= 1
        if TROUBLE["steps"] == 0 and TROUBLE["error"] is not None:
            raise TROUBLE["error"]
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("error", "raised"), [(KeyboardInterrupt(), Interrupted), (ValueError("no more"), RunFailed)])
def test_after_an_interrupt_or_a_failure_it_goes_on(error: BaseException, raised: type[Exception], tmp_path: Path) -> None:
    model = {"kind": "import", "path": f"{__name__}:Troubled"}
    strategies = [{"kind": "fed_avg"}, {"kind": "local_only"}]
    content = cut(model=model, local=FEW_STEPS, strategies=strategies, rounds=4, execution={"ray": False, "checkpoint_every": 1})
    TROUBLE.update(steps=0, error=None)
    simulate(content, out=tmp_path / "whole")
    steps = -TROUBLE["steps"]
    for share in (0.3, 0.8):  # in the first strategy or the second, of the first seed or the second
        TROUBLE.update(steps=int(share * steps), error=error)
        with pytest.raises(raised) as ended:
            simulate(content, out=tmp_path / "run", force=True)
        assert ended.value.directory == tmp_path / "run"  # type: ignore[attr-defined]
        assert "interrupted" in {one["status"] for one in statuses(tmp_path / "run")}
        TROUBLE.update(steps=0, error=None)
        resume(tmp_path / "run", imports=True)
        assert same(tmp_path / "run", tmp_path / "whole")


def statuses(directory: Path) -> list[dict[str, Any]]:
    entries = Results.load(directory).summary["strategies"].values()
    return [one for entry in entries for one in entry.get("seeds", {"": entry}).values()]


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert resume(whole).summary == Results.load(whole).summary
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.parametrize("every", [1, 3])
def test_at_most_so_many_rounds_are_repeated(every: int, tmp_path: Path) -> None:
    """And a client's own model comes back as it was."""
    model = {"kind": "import", "path": f"{__name__}:Troubled"}
    execution = {"ray": False, "checkpoint_every": every}
    content = scenario(model=model, local=FEW_STEPS, strategies=[{"kind": "local_only"}], rounds=8, execution=execution)
    TROUBLE.update(steps=0, error=None)
    simulate(content, out=tmp_path / "whole")
    steps = -TROUBLE["steps"]
    TROUBLE.update(steps=steps * 15 // 16, error=ValueError("no more"))  # in round 8
    with pytest.raises(RunFailed):
        simulate(content, out=tmp_path / "run")
    last, _ = Checkpoints(tmp_path / "run").last()
    assert last is not None
    done = rounds(tmp_path / "run")  # rounds 6 and 7 may have been played ahead and not be done
    assert 5 <= done <= 7
    assert last.round == done // every * every
    assert set(last.client_state) == {"v"}
    TROUBLE.update(steps=0, error=None)
    resume(tmp_path / "run", imports=True)
    assert -TROUBLE["steps"] == pytest.approx(steps * (8 - last.round) / 8, rel=0.15)
    assert same(tmp_path / "run", tmp_path / "whole")


# -- what has changed ------------------------------------------------------------------------------------------------


TABLE = """\
shop,size,price
a,1,1.5
a,2,2.5
a,3,3.1
a,4,4.4
b,1,1.1
b,2,1.8
b,3,3.3
b,4,4.2
"""


@pytest.fixture
def tabled(tmp_path: Path) -> Path:
    """A run on a table, of which half is done."""
    (tmp_path / "shops.csv").write_text(TABLE)
    source = {"kind": "table", "path": "shops.csv", "client": "shop", "label": "price", "task": "regression"}
    content = scenario(data={"source": source}, model={"kind": "linear"}, rounds=6, execution={"ray": False, "checkpoint_every": 1})
    directory = simulate(content, base_dir=tmp_path, out=tmp_path / "run").directory
    for path in [directory / "summary.json", *sorted((directory / "checkpoints").glob("*"))[-3:]]:
        path.unlink()
    return directory


def edit(path: Path, place: str, value: Any) -> None:
    """Sets a value in a YAML file (JSON is YAML), at a dotted place."""
    content = inner = yaml.safe_load(path.read_text())
    *folders, name = place.split(".")
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    path.write_text(json.dumps(content))


CHANGES: dict[str, tuple[str, str, Any, str]] = {
    "scenario": ("scenario.yaml", "local.lr", 0.3, "local.lr: 0.2 then, 0.3 now"),
    "version": ("environment.json", "versions.torch", "1.0", "version of torch: 1.0 then, "),
    "what computes": ("environment.json", "computing", 0, f"version of the computing code: 0 then, {COMPUTING_VERSION} now"),
    "processor": ("environment.json", "cpu.model", "Abacus", "processor: Abacus then, "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_shown_and_refused(change: str, tabled: Path) -> None:
    name, place, value, difference = CHANGES[change]
    edit(tabled / name, place, value)
    refused(tabled, difference)


def refused(directory: Path, difference: str) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(Changed) as found:
        resume(directory)
    assert len(found.value.differences) == 1
    assert difference in found.value.differences[0]
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert {one["status"] for one in statuses(resume(directory, force=True).directory)} == {"finished"}


def test_another_row_of_the_data_is_seen(tabled: Path) -> None:
    (tabled.parent / "shops.csv").write_text(TABLE.replace("b,4,4.2", "b,4,4.3"))
    refused(tabled, "data")


MODEL = """\
import torch
from {name}_layers import layer


def made():
    return layer(64, 10)
"""
LAYERS = """\
import torch


def layer(inputs, outputs):
    return torch.nn.Linear(inputs, outputs)
"""


def test_another_module_behind_an_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the scenario names, and what that imports from beside it."""
    name = f"user_{tmp_path.name.replace('-', '_')}"
    files = {tmp_path / f"{name}.py": MODEL.format(name=name), tmp_path / f"{name}_layers.py": LAYERS}
    for path, text in files.items():
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"kind": "import", "path": f"{name}:made"}
    directory = simulate(scenario(model=model), out=tmp_path / "run").directory
    assert resume(directory, imports=True).summary == Results.load(directory).summary
    assert verify(directory, 1, imports=True).changed == []
    for path, text in files.items():
        path.write_text(text + "# another\n")
        found = f"module {path.stem} (SHA-256): "
        with pytest.raises(Changed) as refused:
            resume(directory, imports=True)
        (line,) = refused.value.differences
        assert line.startswith(found)
        (line,) = verify(directory, 1, imports=True).changed
        assert line.startswith(found)
        resume(directory, imports=True, force=True)
        path.write_text(text)


def test_a_run_of_an_earlier_release_is_refused_by_one_line(tabled: Path) -> None:
    told = json.loads((tabled / "environment.json").read_text())
    del told["computing"]
    (tabled / "environment.json").write_text(json.dumps(told))
    refused(tabled, "version of the computing code: none (an earlier scarcity_ray) then, ")


def test_other_source_that_computes_the_same_is_not_refused(tabled: Path) -> None:
    edit(tabled / "environment.json", "source", "0" * 64)
    assert {one["status"] for one in statuses(resume(tabled).directory)} == {"finished"}


@pytest.mark.parametrize(("place", "value"), [("execution.clients_per_actor", 1), ("execution.checkpoint_every", 2)])
def test_where_the_work_is_done_may_change(place: str, value: Any, tabled: Path, tmp_path: Path) -> None:
    edit(tabled / "scenario.yaml", place, value)
    assert {one["status"] for one in statuses(resume(tabled).directory)} == {"finished"}


def test_the_program_says_what_has_changed_and_what_to_do(tabled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(tabled / "scenario.yaml", "local.lr", 0.3)
    with pytest.raises(SystemExit) as left:
        main(["resume", str(tabled)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "local.lr: 0.2 then, 0.3 now" in said
    assert "--force" in said
    with pytest.raises(SystemExit) as left:
        main(["resume", str(tabled), "--force"])
    assert left.value.code == 0
