"""The command line: what it prints where, and the exit code it leaves with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import scarcity_ray
from scarcity_ray import run
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.runtime.claim import OutputExists
from scarcity_ray.scenario import SpecErrors, json_schema, load

ROOT = Path(__file__).parent.parent
SMALL = """\
name: small
rounds: 1
data:
  source: {kind: digits}
  clients: 20
  partition: {kind: iid}
model: {kind: linear}
strategies:
  - {kind: local_only}
execution: {ray: false}
"""


class RunFailed(RuntimeError):
    def __init__(self, message: str, directory: Path | None) -> None:
        self.message, self.directory = message, directory


class Interrupted(RuntimeError):
    def __init__(self, directory: Path | None) -> None:
        self.directory = directory


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of the simulation: what it was asked, and what it answers (an exception to raise, or None)."""
    calls = SimpleNamespace(asked=[], answer=None, interrupt=False)

    def simulate(scenario: Any, **options: Any) -> None:
        calls.asked.append((scenario, options))
        if calls.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        if calls.answer is not None:
            raise calls.answer

    def prepare(scenario: Any, base_dir: Path) -> Any:
        if calls.answer is not None:
            raise calls.answer
        return SimpleNamespace(slots=None)

    stand_in = ModuleType("scarcity_ray.runtime.simulation")
    for each in (OutputExists, RunFailed, Interrupted, simulate, prepare):
        setattr(stand_in, each.__name__, each)
    monkeypatch.setitem(sys.modules, "scarcity_ray.runtime.simulation", stand_in)
    monkeypatch.setattr("scarcity_ray.runtime.plan_in_words.plan_in_words", lambda plan: [("actors", "1"), ("memory", "little")])
    before = signal.getsignal(signal.SIGINT)
    yield calls
    signal.signal(signal.SIGINT, before)


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_options_reach_the_simulation(small: Path, calls: SimpleNamespace) -> None:
    assert exit_code("run", small, "--set", "rounds=3", "--set", "local.lr=1e-2", "--out", "there", "--force") == 0
    ((loaded, options),) = calls.asked
    assert (loaded.path, loaded.scenario.rounds, loaded.scenario.local.lr) == (small, 3, 0.01)
    assert options == {"out": "there", "force": True, "show": True, "attended": False}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OutputExists(Path("there")), 2, ["there already holds a run", "--force"]),
        (RunFailed("the disk is full", Path("kept")), 1, ["the run failed: the disk is full", "kept in kept: models/, rounds.parquet"]),
        (RunFailed("no actor came up", None), 1, ["the run failed: no actor came up", "nothing was written"]),
        (Interrupted(Path("kept")), 130, ["interrupted", "kept in kept: models/, rounds.parquet"]),
        (KeyboardInterrupt(), 130, ["interrupted before the run started; nothing was written"]),
        (SpecError(("data", "clients"), 20, "too many"), 2, ["small.yaml:5:3: data.clients is 20: too many"]),
        (
            SpecErrors([SpecError(("rounds",), 1, "a"), SpecError(("model", "kind"), "linear", "b")]),
            2,
            ["2 problems", ":2:1: rounds", ":7:9: model.kind"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(error: BaseException, code: int, words: list[str], small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    (small.parent / "kept" / "models").mkdir(parents=True)
    (small.parent / "kept" / "rounds.parquet").touch()
    calls.answer = error
    assert exit_code("run", small, "--out", "there") == code
    output = capsys.readouterr()
    assert output.out == ""
    assert all(word in output.err for word in words), output.err
    assert "Traceback" not in output.err


def test_a_wrong_scenario_is_told_on_stderr_and_never_wrapped(small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    folder = small.parent / ("a_long_name_" * 15)
    folder.mkdir()
    path = folder / "bad.yaml"
    path.write_text(SMALL.replace("rounds: 1", "rounds: one"))
    assert exit_code("run", path) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "bad.yaml cannot run: 1 problem",
        f"  {path}:2:1: rounds is 'one'; allowed: an integer of at least 1",
    ]
    assert not calls.asked


def test_force_needs_out(small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    assert exit_code("run", small, "--force") == 2
    assert "give --out DIR too" in capsys.readouterr().err
    assert not calls.asked


def test_a_dry_run_prints_a_scenario_and_its_plan(small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    assert exit_code("run", small, "--dry-run") == 0
    text = capsys.readouterr().out
    assert text.endswith("\n# actors  1\n# memory  little\n")
    again = small.with_name("again.yaml")
    again.write_text(text)
    assert load(again).scenario == load(small).scenario
    assert not calls.asked


def test_a_dry_run_refuses_what_a_run_would(small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    calls.answer = SpecError(("execution",), None, "too little memory")
    assert exit_code("run", small, "--dry-run") == 2
    assert "small.yaml:10:1: execution" in capsys.readouterr().err


def test_schema_strategies_and_version(capsys: Any) -> None:
    assert exit_code("schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert exit_code("strategies") == 0
    assert "| `sf_hfe` | sums over its rows" in capsys.readouterr().out
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"{scarcity_ray.__version__}\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["x.yaml", "--dry-run"], ["run", "x.yaml", "--dry-run"]),
        (["--dry-run", "x.yaml"], ["run", "--dry-run", "x.yaml"]),
        (["run", "x.yaml"], ["run", "x.yaml"]),
        (["schema"], ["schema"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_a_scenario_needs_no_command_with_python_m(given: list[str], meant: list[str]) -> None:
    assert run._with_command(given) == meant


def program(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "scarcity_ray.run", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_every_problem_is_told_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(SMALL.replace("rounds: 1", "rounds: 2.5").replace("local_only", "fedavg"))
    assert exit_code("run", "bad.yaml") == 2
    assert capsys.readouterr().err.splitlines() == [
        "bad.yaml cannot run: 2 problems",
        "  bad.yaml:2:1: rounds is 2.5; allowed: an integer of at least 1",
        f"  bad.yaml:9:6: strategies.0.kind is 'fedavg'; did you mean fed_avg? allowed: {', '.join(STRATEGIES.classes)} or import",
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_the_program_refuses_what_the_data_cannot_give(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(SMALL.replace("clients: 20", "clients: 2000"))
    done = program("bad.yaml", "--set", "seed=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "bad.yaml:5:3: data.clients is 2000: " in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_help_and_version_load_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from scarcity_ray import run; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'scarcity_ray.scenario')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_an_interrupt_reaches_a_run_started_with_sigint_ignored(small: Path, calls: SimpleNamespace, capsys: Any) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's background jobs are started
    try:
        calls.interrupt = True
        assert exit_code("run", small) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err
