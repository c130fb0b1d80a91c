"""A run whose actors die for want of memory ends with the cause in one line, and what to do about it in the next."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml
from helpers.scenarios import scenario
from helpers.side_by_side import side_by_side

from scarcity_ray.runtime.fleet import ActorLost, OutOfMemory, WorkerError, remedy

MODEL = """
import os, signal, time
import torch

class Greedy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        if torch.is_grad_enabled() and "ray::Client" in open("/proc/self/cmdline").read():
            held = []
            while {endless}:
                held.append(b"x" * (16 << 20))
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(x)
"""
REMEDY = "take fewer actors (execution.actors), fewer clients or a smaller model, or a machine with more memory"


def in_use() -> float:
    """The share of this machine's memory that is in use."""
    told = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return 1 - int(told["MemAvailable:"]) / int(told["MemTotal:"])


def run(folder: Path, endless: bool) -> list[str]:
    """What the program says on stderr about a run, in a Ray session of its own that ends what takes a tenth of the memory."""
    (folder / "greedy.py").write_text(MODEL.format(endless=endless))
    content = scenario(model={"kind": "import", "path": "greedy:Greedy"}, execution={"cpus": 1})
    (folder / "scenario.yaml").write_text(yaml.safe_dump(content))
    watched = {"RAY_memory_usage_threshold": f"{min(in_use() + 0.1, 0.95):.3f}", "RAY_memory_monitor_refresh_ms": "50"}
    environment = {**os.environ, "RAY_TMPDIR": str(folder), **(watched if endless else {})}
    command = [sys.executable, "-m", "scarcity_ray.run", "scenario.yaml", "--out", "run"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("its work is done again") == 4
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Future[list[str]]]:
    """What the program says, by whether its model is endless. The folders' paths are short: Ray's sockets lie below them."""
    return side_by_side(lambda endless: run(tmp_path_factory.mktemp("oom"), endless), [True, False])


@pytest.mark.slow
def test_who_takes_all_memory_is_told_in_two_lines(said: dict[bool, Future[list[str]]]) -> None:
    cause, advice, kept = said[True].result()[:3]
    used = r"memory ran out, [\d.]+[KMG]B of [\d.]+[KMG]B in use"
    assert re.fullmatch(rf"the run failed: an actor died: {used} \(5 times in a row\) \(in (Client|Server)\.\w+\)", cause)
    assert advice == REMEDY
    assert kept.startswith("kept in run: ")


@pytest.mark.slow
def test_who_is_killed_again_and_again_may_have_taken_all_memory(said: dict[bool, Future[list[str]]]) -> None:
    """The kernel tells nobody whom it ended, or why."""
    cause, advice = said[False].result()[:2]
    assert cause == "the run failed: an actor died (5 times in a row) (in Client.local_train)"
    assert advice == f"where actors die again and again, memory has run out, as a rule: {REMEDY}"


def test_the_remedy_is_for_deaths_alone() -> None:
    assert remedy(OutOfMemory("Client", "local_train", "memory ran out")) == REMEDY
    assert remedy(ActorLost("Client", "local_train", "an actor died")).endswith(REMEDY)
    assert remedy(WorkerError("Client", "local_train", "client 3: KeyError: 'x'")) == ""
    assert remedy(OSError("no space")) == ""
