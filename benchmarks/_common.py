"""What the benchmarks share: running and measuring the real command line, describing the machine, tables and JSON."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import Server
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.results.environment import environment
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.problem import Problem

HERE = Path(__file__).parent
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """The measurements of a command. seconds: its duration. peak_bytes: the most memory that it and its descendants used
    together (see memory_of). history: the samples of (seconds since the start, bytes). rounds: start and end of the rounds, in
    seconds since the start. train_cpu: processor seconds of the Client and Server actors during the rounds."""

    seconds: float = 0.0
    peak_bytes: int = 0
    history: list[tuple[float, int]] = field(default_factory=list)
    rounds: tuple[float, float] = (0.0, 0.0)
    train_cpu: float = 0.0


def run_scenario(path: Path, settings: Sequence[str] = (), *, memory_every: float | None = None) -> tuple[pd.DataFrame, Watched]:
    """Runs `python -m scarcity_ray.run PATH --set ...`: the rounds table, and the measurements.

    memory_every: seconds between two memory samples; None takes none (the kernel walks all pages for a sample).
    """
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "scarcity_ray.run", str(path), "--out", str(out)]
        command += [word for setting in settings for word in ("--set", setting)]
        watched = watch(command, out, memory_every)
        return pd.read_parquet(out / "rounds.parquet"), watched


def watch(command: Sequence[str], out: Path, memory_every: float | None, environment: Mapping[str, str] | None = None) -> Watched:
    """Runs a command that writes a run to `out`. environment: its variables, instead of this process's. Raises RuntimeError
    with the end of its output if it fails."""
    watched, done = Watched(), threading.Event()
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=HERE.parent, env=environment)
        thread = threading.Thread(target=_look, args=(process.pid, out, watched, done, memory_every, started))
        thread.start()
        code = process.wait()
        watched.seconds = time.perf_counter() - started
        done.set()
        thread.join()
        if code:
            words.seek(0)
            raise RuntimeError(f"{' '.join(command)} exits with {code}: {words.read()[-2000:]}")
    return watched


def _look(pid: int, out: Path, watched: Watched, done: threading.Event, memory_every: float | None, started: float) -> None:
    log, before, looked = out / "logs" / "scarcity.log", None, 0.0
    while not done.wait(0.05):
        actors = {p: cpu for p in descendants(pid) for name, cpu in [_stat(p)] if name.startswith(("ray::Client", "ray::Server"))}
        now = time.perf_counter() - started
        if before is None and log.exists() and " rounds" in log.read_text():
            before = actors  # processor time until now was the start
            watched.rounds = now, now
        if before is not None and len(actors) >= len(before):
            watched.train_cpu = sum(cpu - before.get(p, 0.0) for p, cpu in actors.items())
            watched.rounds = watched.rounds[0], now
        if memory_every is not None and now - looked >= memory_every:
            looked = now
            held = memory_of([pid, *descendants(pid)])
            watched.history.append((now, held))
            watched.peak_bytes = max(watched.peak_bytes, held)


def descendants(pid: int) -> list[int]:
    """All descendants of a process, from /proc."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def memory_of(pids: Sequence[int]) -> int:
    """Bytes of anonymous and shared memory of the processes together. A page that several map is divided among them, so that
    the object store counts once. Pages of files (library code) do not count: other programs share them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def _stat(pid: int) -> tuple[str, float]:
    """A process's title and its processor seconds so far."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return title, (int(fields[11]) + int(fields[12])) / _TICK


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """One process a core, one thread a process. An error cancels tasks that have not begun: its message need not wait for them."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def machine() -> dict[str, Any]:
    """Processor, versions, date and the current load average, which shows other work on the machine."""
    return {"date": date.today().isoformat(), "load_average": os.getloadavg()[0], **environment(0)}


def server_of(held: Federation, strategy: Strategy, problem: Problem) -> Server:
    """A server of a federation before round 1, all in this process."""
    client = Client(np.arange(held.clients))
    client.load_federation(held)
    server = Server(clients=LocalFleet([client]))
    server.load_federation()
    server.set_strategy(strategy, problem)
    return server


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, with numbers aligned to the right."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Writes the figures and the machine they were measured on."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
        Console().print(f"figures: {path}")
