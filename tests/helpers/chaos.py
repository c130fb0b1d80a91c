"""Runs that are disturbed: a seed says what dies and when, and `play` makes it so, with real processes and signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from helpers.scenarios import scenario

ROOT = Path(__file__).parents[2]

ROUNDS = {
    "fed_avg": 30,
    "local_only": 12,
    "hier_fed_avg": 8,
    "ifca": 8,
    "per_fed_avg": 6,
    "reptile": 6,
    "insight_exchange": 12,
    "gradient_exchange": 8,
    "fed_buff": 10,
    "trunk": 4,
    "follows": 5,
}
"""What each strategy of the scenario plays, in their order."""

LEARNING, EXPERTS = ("insight_exchange", "gradient_exchange", "trunk", "follows"), ("trunk", "follows")
"""The strategies that call the MetaLearner, and Experts."""

ACTORS = ("Client", "Server", "MetaLearner", "Expert")
OWN = {"raylet": "raylet/raylet", "head": "gcs/gcs_server"}
"""Ray's own processes, by what they are called."""

GROUNDS: tuple[tuple[str, ...], ...] = (ACTORS, ("process", "hung", "raylet"), ("node",))
"""What dies for certain, by where a run is played: here, here again, and on a cluster of two nodes. A run's process is followed by
another of the same program; the driver is that program, and `resume` continues it."""

GIVE_UP_AFTER = 15.0
"""Seconds until a hung Client is given up."""

_SPARED = 2  # rounds at the end, in which a run notices what has died
_NOTICED = 120.0  # seconds
_POLL = 0.01


def disturbed(**execution: Any) -> dict[str, Any]:
    """The scenario: every family of strategies, on clients whose data change at round 4."""
    turned = {"transforms": [{"kind": "rotate", "groups": 3}], "drift": {"round": 4, "share": 0.5}}
    features = {"kind": "random_fourier", "features": 8}
    strategies: list[dict[str, Any]] = [
        {"kind": "fed_avg", "fraction": 0.5},
        {"kind": "local_only"},
        {"kind": "hier_fed_avg", "period": 2},
        {"kind": "ifca", "experts": 2, "fraction": 0.5},
        {"kind": "per_fed_avg", "alpha": 0.1},
        {"kind": "reptile"},
        {"kind": "insight_exchange"},
        {"kind": "gradient_exchange", "dimensions": 20},
        {"kind": "fed_buff", "concurrency": 5, "buffer": 2},
        {"kind": "sf_hfe", "name": "trunk", "experts": 1, "differences": "slopes", "representation": {"kind": "trunk", "rounds": 3}},
        {"kind": "sf_hfe", "name": "follows", "experts": 2, "forgetting": 0.5, "personal": False, "representation": features},
    ]
    played = [strategy | {"rounds": rounds} for strategy, rounds in zip(strategies, ROUNDS.values(), strict=True)]
    paces = {"compute": {"jitter": 0.5}}  # matters for fed_buff alone, whose clients work at their own pace
    return scenario(data=scenario()["data"] | turned, strategies=played, scarcity=paces, execution=execution)


@dataclass(frozen=True)
class Fault:
    """after: rounds that are on disk when it strikes. which: of those that it could strike, modulo their number."""

    kind: str
    after: int
    which: int


@dataclass(frozen=True)
class Schedule:
    """What happens to one run. cluster: it is played on two nodes, and not on Ray of its own."""

    seed: int
    cluster: bool
    checkpoint_every: str
    faults: tuple[Fault, ...]


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    chosen, ground = random.Random(seed), seed % len(GROUNDS)
    cluster = GROUNDS[ground] == ("node",)
    others = (*ACTORS, "driver", "process") if cluster else (*ACTORS, "driver", "process", *OWN)
    kinds = [*GROUNDS[ground], *chosen.choices(others, k=chosen.randint(0, 2))]
    faults = [Fault(kind, chosen.choice(_when(kind)), chosen.randrange(8)) for kind in kinds]
    return Schedule(seed, cluster, chosen.choice(["auto", "1", "3", "7"]), tuple(sorted(faults, key=lambda fault: fault.after)))


def _when(kind: str) -> list[int]:
    """The rounds, counted through the run, after which a fault of a kind finds its victim at work."""
    working = {"MetaLearner": LEARNING, "Expert": EXPERTS}.get(kind, tuple(ROUNDS))
    played = [name for name, rounds in ROUNDS.items() for _ in range(rounds)]
    return [after for after in range(1, len(played) - _SPARED) if played[after] in working]


@dataclass
class Outcome:
    """What became of a run. noticed: the deaths since the driver's last start that made work be done again."""

    directory: Path
    code: int
    said: str
    noticed: int


def play(plan: Schedule, folder: Path) -> Outcome:
    """A run of the scenario under a schedule, to its end."""
    with ExitStack() as stack:
        # Ray's sockets are in it, and their paths may have 107 letters; no other cluster of this machine is found there.
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ch", ignore_cleanup_errors=True))
        stack.callback(_end_all_of, temporary)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_TMPDIR": temporary, "RAY_AUTH_MODE": "disabled"}
        nodes = stack.enter_context(_nodes(environment)) if plan.cluster else None
        return _Play(plan, folder, environment, nodes).through()


class _Play:
    def __init__(self, plan: Schedule, folder: Path, environment: dict[str, str], nodes: _Nodes | None) -> None:
        self.plan, self.environment, self.nodes = plan, environment, nodes
        self.run, self.said = folder / "run", folder / "said.txt"
        where = {"address": nodes.address, "wait_for_cluster": 20.0} if nodes else {}
        every = plan.checkpoint_every if plan.checkpoint_every == "auto" else int(plan.checkpoint_every)
        patience = {"give_up_after": GIVE_UP_AFTER} if any(fault.kind == "hung" for fault in plan.faults) else {}
        content = disturbed(ray=True, cpus=2, checkpoint_every=every, **where, **patience)
        (folder / "scenario.yaml").write_text(yaml.safe_dump(content))
        self.driver = self._start("run", str(folder / "scenario.yaml"), "--out", str(self.run))
        self.noticed = 0

    def through(self) -> Outcome:
        try:
            for fault in self.plan.faults:
                self._wait(lambda fault=fault: self._rounds() >= fault.after, f"round {fault.after}")
                self._strike(fault)
            return Outcome(self.run, self.driver.wait(timeout=300), self.said.read_text(), self.noticed)
        finally:
            self.driver.kill()
            self.driver.wait()

    def _strike(self, fault: Fault) -> None:
        before = self._attempts()
        if fault.kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.noticed = 0  # what it had not written down is not known any more
            self.driver = self._start("resume", str(self.run))
            return
        if fault.kind == "process":
            known = self._followed()
            os.kill(self._victim(fault), signal.SIGKILL)
            self._wait(lambda: self._followed() > known, "another process of the run")
            self.noticed = 0
            return
        if fault.kind == "node":
            assert self.nodes is not None
            self.nodes.kill(fault.which)
        else:
            os.kill(self._victim(fault), signal.SIGSTOP if fault.kind == "hung" else signal.SIGKILL)
        if fault.kind not in ("MetaLearner", "Expert", *OWN):  # every round needs the others
            self._wait(lambda: self._attempts() > before, f"the loss of a {fault.kind}")
            self.noticed += 1
        if fault.kind == "node":
            assert self.nodes is not None
            self.nodes.add()

    def _victim(self, fault: Fault) -> int:
        """A process that can be struck; one that died just before is on its way back."""
        title = OWN.get(fault.kind) or f"ray::{'Client' if fault.kind == 'hung' else fault.kind}"
        while True:
            assert self.driver.poll() is None, self.said.read_text()
            if victims := _children(self.driver.pid) if fault.kind == "process" else self._processes(title):
                return victims[fault.which % len(victims)]

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _NOTICED
        while not reached():
            code = self.driver.poll()
            assert code is None, f"{self.plan}: the run ended ({code}) before {what}: {self.said.read_text()}"
            assert time.monotonic() < deadline, f"{self.plan}: waited in vain for {what}: {self.said.read_text()}"
            time.sleep(_POLL)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with self.said.open("ab") as said:
            command = [sys.executable, "-m", "scarcity_ray.run", *words]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=said, stderr=subprocess.STDOUT)

    def _rounds(self) -> int:
        """How many are on disk."""
        try:
            return sum(pq.read_metadata(part).num_rows for part in (self.run / "rounds.parquet").glob("part-*"))
        except (OSError, pa.ArrowException):  # the folder is being replaced
            return 0

    def _attempts(self) -> int:
        log = self.run / "logs" / "scarcity.log"
        return log.read_text().count("; attempt ") if log.exists() else 0

    def _followed(self) -> int:
        return self.said.read_text().count("another one continues it")

    def _processes(self, title: str) -> list[int]:
        """The processes of the run, or of its cluster, that are called so, oldest first."""
        family = _descendants(self.nodes.pid if self.nodes else self.driver.pid)
        return sorted(pid for pid in family if title in _command(pid).partition("\0")[0])


class _Nodes:
    """A cluster in a process of its own: a head without CPUs, and nodes that come and go."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid
        first = self._hear()
        self.address, self.raylets = first["address"], first["raylets"]

    def kill(self, which: int) -> None:
        os.kill(self.raylets.pop(which % len(self.raylets)), signal.SIGKILL)

    def add(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("add\n")
        self.process.stdin.flush()
        self.raylets += self._hear()["raylets"]

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError(f"the cluster ended: {self.process.wait()}")


@contextmanager
def _nodes(environment: dict[str, str]) -> Iterator[_Nodes]:
    command = [sys.executable, "-m", "helpers.chaos"]
    process = subprocess.Popen(
        command, cwd=ROOT / "tests", env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield _Nodes(process)
    finally:
        process.communicate(timeout=60)  # the end of what it reads is its own


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _descendants(pid: int) -> list[int]:
    """All processes below one."""
    return [one for child in _children(pid) for one in (child, *_descendants(child))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _end_all_of(folder: str) -> None:
    """Ends what is left of the Ray in a folder: a stopped process does not notice that its raylet is gone."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes():  # all that it started have it
                os.kill(int(path.name), signal.SIGKILL)


def _host() -> None:
    """The cluster's own process: one word a line on what it reads, a line of JSON for each; it ends where they do."""
    from ray.cluster_utils import Cluster

    # A death shows in 2 seconds, and not in 15.
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 1000}
    node = {"object_store_memory": 100 << 20, "include_dashboard": False}
    head = node | {"num_cpus": 0, "_system_config": health | {"health_check_failure_threshold": 3}}
    cluster = Cluster(initialize_head=True, head_node_args=head)

    def add() -> int:
        return int(cluster.add_node(num_cpus=1, **node).all_processes["raylet"][0].process.pid)

    print(json.dumps({"address": cluster.address, "raylets": [add(), add()]}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"raylets": [add()]}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _host()
