"""The shipped cluster.yaml on machines one already has, for real: ssh, `ray up`, a run, a worker lost, results, `ray down`."""

from __future__ import annotations

from pathlib import Path
from subprocess import Popen

import pytest

from cluster.machines import ROOT, Machines, finish, lacking, wait_until
from cluster.runs import SCENARIO, hashes, on_this_machine
from cluster.shipped import shipped, write

ADDRESSES = {"laptop": "10.77.0.10", "head": "10.77.0.11", "worker1": "10.77.0.12", "worker2": "10.77.0.13"}
ROUNDS = 300
"""Of each strategy: enough that what is to die in the middle of them does."""

TOKEN = {"RAY_AUTH_MODE": "token"}

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(lacking() != "", reason=lacking())]


def test_up_run_lose_a_worker_fetch_iterate_down(tmp_path: Path) -> None:
    with Machines(ADDRESSES, "10.77.0.1", 24) as machines:
        config = shipped("local", machines)
        config["provider"] |= {"head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["worker1"], ADDRESSES["worker2"]]}
        cluster = write(config, machines)

        def laptop(command: str, seconds: float = 120) -> str:
            return machines.run("laptop", f"cd {ROOT}; {command}", seconds=seconds, **TOKEN)

        laptop("(umask 077; ray get-auth-token --generate)")
        laptop(f"ray up -y {cluster} || ray up -y {cluster}", 400)  # Ray gives a head 30 s to start; a busy machine may take longer
        _await_cpus(machines, 4)
        assert machines.run("worker1", "stat -c %a ~/.ray/auth_token").strip() == "600"
        _refuses_a_wrong_token(machines)

        def begun(name: str) -> Popen[str]:
            command = f"scarcity-ray run ~/scarcity_ray/{SCENARIO} --set rounds={ROUNDS} --out ~/runs/{name}"
            run = machines.start("laptop", f"cd {ROOT}; ray exec {cluster} '{command}'", **TOKEN)
            wait_until(lambda: run.poll() is not None or _exists(machines, f"~/runs/{name}/checkpoints/*"), 120, "a first round")
            return run

        run = begun("lost_worker")
        machines.run("worker1", "pkill -9 -x raylet")
        finish(run, 300)

        _await_cpus(machines, 4)  # the lost worker is back
        run = begun("lost_driver")
        machines.run("head", "pkill -9 -f '[s]carcity-ray run'")
        run.communicate(timeout=60)
        assert run.returncode != 0
        laptop(f"ray exec {cluster} 'scarcity-ray resume ~/runs/lost_driver'", 300)

        laptop(f"ray rsync-down {cluster} '~/runs/' {machines.folder}/fetched/")
        expected = hashes(on_this_machine(tmp_path / "here", ROUNDS))
        for name in ("lost_worker", "lost_driver"):
            assert hashes(machines.folder / "fetched" / name) == expected

        changed = f"rm -rf ~/changed; mkdir ~/changed; cp -r {ROOT}/scarcity_ray ~/changed; cd ~/changed"
        version = "sed -i 's/^__version__ = .*/__version__ = \"7.7.7\"/' scarcity_ray/__init__.py"
        machines.start("laptop", f"cd {ROOT}; ray dashboard {cluster}", **TOKEN)
        wait_until(lambda: _succeeds(machines, "laptop", "ray job list --address http://localhost:8265"), 60, "a way to the dashboard")
        job = "ray job submit --address http://localhost:8265 --working-dir . -- scarcity-ray --version"
        assert "7.7.7" in laptop(f"{changed} && {version} && {job}")

        laptop(f"ray down -y {cluster}")
        assert not _succeeds(machines, "head", "pgrep -f 'raylet|gcs_server'")


def _await_cpus(machines: Machines, cpus: int) -> None:
    wait_until(lambda: f"/{cpus}.0 CPU" in _printed(machines, "head", "ray status"), 240, f"{cpus} CPUs in the cluster")


def _refuses_a_wrong_token(machines: Machines) -> None:
    status = f"ray status --address {ADDRESSES['head']}:6379"
    assert _succeeds(machines, "laptop", status)
    assert not _succeeds(machines, "laptop", f"RAY_AUTH_TOKEN={'0' * 64} {status}")
    assert not _succeeds(machines, "laptop", f"RAY_AUTH_MODE=disabled {status}")


def _exists(machines: Machines, path: str) -> bool:
    return _succeeds(machines, "head", f"ls {path}")


def _succeeds(machines: Machines, name: str, command: str) -> bool:
    process = machines.start(name, command, **TOKEN)
    process.communicate(timeout=60)
    return process.returncode == 0


def _printed(machines: Machines, name: str, command: str) -> str:
    return machines.start(name, command, **TOKEN).communicate(timeout=60)[0]
