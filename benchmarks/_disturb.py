"""Causes one fault in one run of the command line, and measures how long the run stops for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import HERE, descendants
from _nodes import Nodes, environment

FAULTS = ("Client", "Server", "MetaLearner", "Expert", "node", "raylet", "hung", "process", "driver")
"""What fails: an actor, by its class; one of two nodes; Ray's raylet on this machine; a Client that no longer answers; the run's
process, which the program replaces; the program itself, whose run `resume` continues."""

_PATIENCE = 20.0  # seconds until a Client counts as hung; longer than an actor's start
_AFTER = 12  # rounds on disk when the fault happens
_LIMIT = 300.0
_POLL = 0.005
_WRITTEN = 0.7  # seconds until all rounds that are finished are on disk, see recorder.FLUSH_SECONDS


def scenario(kind: str, address: str | None) -> dict[str, Any]:
    """A scenario with more rounds than will be played, and a strategy that uses the actor that fails."""
    strategy: dict[str, Any] = {"kind": "fed_avg"}
    if kind == "MetaLearner":
        strategy = {"kind": "insight_exchange"}
    if kind == "Expert":
        features = {"kind": "random_fourier", "features": 8}
        strategy = {"kind": "sf_hfe", "experts": 1, "forgetting": 0.5, "personal": False, "representation": features}
    more: dict[str, Any] = {"address": address, "wait_for_cluster": 10.0} if address else {}
    more |= {"give_up_after": _PATIENCE} if kind == "hung" else {}
    return {
        "name": "recovery",
        "rounds": 100_000,
        "data": {"source": {"kind": "digits"}, "clients": 40, "partition": {"kind": "iid"}},
        "model": {"kind": "mlp", "hidden": [32]},
        "local": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "strategies": [strategy],
        "evaluation": {"every": 100_000},
        "execution": {"cpus": 2, "actors": 2, **more},
    }


def recovery(kind: str) -> dict[str, float]:
    """seconds: from the fault to the end of the next round. round_seconds: the median of the rounds before."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)))
        nodes = stack.enter_context(Nodes([1, 1])) if kind == "node" else None
        around = nodes.environment if nodes else environment(folder)
        (folder / "scenario.yaml").write_text(json.dumps(scenario(kind, nodes.address if nodes else None)))  # JSON is YAML
        run, program = folder / "run", [sys.executable, "-m", "scarcity_ray.run"]
        driver = _start([*program, str(folder / "scenario.yaml"), "--out", str(run)], around)
        try:
            _wait(driver, lambda: _rounds(run) >= _AFTER)
            quiet = float(np.median(pq.read_table(run / "rounds.parquet")["seconds"].to_numpy()[1:]))
            struck = time.monotonic()
            if kind == "driver":
                driver.kill()
                driver.wait()
                done = _rounds(run)
                driver = _start([*program, "resume", str(run)], around)
            else:
                _strike(kind, driver.pid, nodes)
                if kind != "process":  # a killed process writes no more rows
                    _wait(driver, lambda: "; attempt " in _log(run))
                    time.sleep(_WRITTEN)  # actors take longer than this to restart
                done = _rounds(run)
            _wait(driver, lambda: _rounds(run) > done)
            return {"seconds": time.monotonic() - struck, "round_seconds": quiet}
        finally:
            everybody = descendants(driver.pid)
            driver.kill()
            driver.wait()
            for pid in everybody:  # a stopped process does not end with its driver
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _strike(kind: str, driver: int, nodes: Nodes | None) -> None:
    if nodes is not None:
        os.kill(nodes.raylets[0], signal.SIGKILL)
        return
    called = {"hung": "ray::Client", "raylet": "raylet/raylet", "process": sys.executable}.get(kind, f"ray::{kind}")
    victims = [pid for pid in descendants(driver) if called in _title(pid).partition("\0")[0]]
    os.kill(min(victims), signal.SIGSTOP if kind == "hung" else signal.SIGKILL)


def _start(command: list[str], around: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=HERE.parent, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(driver: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not reached():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run ended ({driver.poll()}) or made no progress for {_LIMIT:g} s")
        time.sleep(_POLL)


def _rounds(run: Path) -> int:
    """How many rounds are on disk; 0 while the table is being replaced."""
    try:
        return sum(pq.read_metadata(part).num_rows for part in (run / "rounds.parquet").glob("part-*"))
    except (OSError, pa.ArrowException):
        return 0


def _log(run: Path) -> str:
    log = run / "logs" / "scarcity.log"
    return log.read_text() if log.exists() else ""


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
