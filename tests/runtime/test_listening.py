"""Ray that a run starts: who can reach it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, re, ray
from pathlib import Path
from scarcity_ray.runtime.ray_fleet import RayLauncher
launcher = RayLauncher(cpus=1)
session = ray.get_runtime_context().get_session_name()
sockets = set()
for process in Path("/proc").glob("[0-9]*"):
    try:
        if session in (process / "cmdline").read_text() or process.name == str(os.getpid()):
            sockets |= {os.readlink(one) for one in (process / "fd").iterdir()}
    except OSError:
        pass
for table in ("tcp", "tcp6"):
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
            print(words[1].split(":")[0])
print(os.environ["RAY_AUTH_MODE"], Path.home().joinpath(".ray/auth_token").exists())
launcher.close()
again = RayLauncher(cpus=1)
print(ray.get(ray.remote(lambda: 42).remote()))
again.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are looked up in /proc")
def test_ray_of_a_run_listens_on_loopback_and_asks_for_a_token_of_its_own(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *addresses, mode, left = done.stdout.splitlines()
    assert len(addresses) >= 3
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert mode == "token False"
    assert left == "42"
