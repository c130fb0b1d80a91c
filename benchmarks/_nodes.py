"""A Ray cluster in processes of this machine: a head without CPUs, and nodes that can be added and killed. They share its cores.

with Nodes([1, 1]) as nodes:  # two of one CPU each
    os.kill(nodes.raylets[0], signal.SIGKILL)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import HERE

_HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 1000}
_NODE = {"object_store_memory": 512 << 20, "include_dashboard": False}


class Nodes:
    """The cluster, in its own process, because Ray allows one per process. address: for `execution.address`. raylets: the
    process ids of the nodes, in order. Ray notices a node's death after 2 seconds (its default: 15)."""

    def __init__(self, cpus: list[int]) -> None:
        # Short, because Ray's sockets are in it, and their paths may have at most 107 letters.
        self._folder = tempfile.TemporaryDirectory(prefix="n", ignore_cleanup_errors=True)
        self.environment = environment(self._folder.name)
        command = [sys.executable, str(HERE / "_nodes.py")]
        self._host = subprocess.Popen(
            command, env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.pid, self.raylets = self._host.pid, list[int]()
        self.address = str(self._read()["address"])
        for count in cpus:
            self.add(count)

    def add(self, cpus: int) -> None:
        """Adds a node."""
        assert self._host.stdin is not None
        self._host.stdin.write(f"{cpus}\n")
        self._host.stdin.flush()
        self.raylets.append(int(self._read()["raylet"]))

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *exception: object) -> None:
        self._host.communicate(timeout=60)  # closes its input, which ends it
        self._folder.cleanup()

    def _read(self) -> dict[str, Any]:
        assert self._host.stdout is not None
        for line in self._host.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"the cluster ended with {self._host.wait()}")


def environment(folder: str | Path) -> dict[str, str]:
    """Variables for a process that finds no cluster of this machine except one in `folder`."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**others, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}


def main() -> None:
    """The cluster's process: reads the CPUs of each node to add, one per line, until the input ends."""
    from ray.cluster_utils import Cluster

    system = _HEALTH | {"health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={**_NODE, "num_cpus": 0, "_system_config": system})
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        node = cluster.add_node(num_cpus=int(line), **_NODE)
        print(json.dumps({"raylet": node.all_processes["raylet"][0].process.pid}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
