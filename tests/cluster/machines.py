"""Several machines on one: each with its own network, processes, files and ssh server, in Linux namespaces.

Nothing reaches the real network, nothing is left behind: a machine is one process with all that descends from it, and dies with
the tests' process. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
_PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ip", "rsync", "pgrep", "unshare", "nsenter", "setpriv")
_PATH = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def lacking() -> str:
    """Why no machines can be made here; empty where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to make namespaces"
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install openssh-server openssh-client iproute2 rsync procps"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs the file system overlayfs"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"], capture_output=True, text=True)
    return f"needs namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def finish(process: subprocess.Popen[str], seconds: float) -> str:
    """What the process printed, once it has ended well. Raises AssertionError with it otherwise."""
    try:
        printed = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        printed = f"{process.communicate()[0]}\nhad not ended after {seconds:g} s"
    assert process.returncode == 0, f"{process.args[-1]}\n{printed}"
    return printed


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises AssertionError that names `what` if it is not so after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} s: not {what}"
        time.sleep(0.5)


class Machines:
    """Machines by name, each at its IPv4 address, on one network that leads nowhere else.

    Enter it to start them. `folder` is theirs to read: their ssh key, and what a test puts there; it is gone at the end.
    """

    def __init__(self, addresses: Mapping[str, str], gateway: str, bits: int) -> None:
        self.addresses, self.gateway, self.bits = dict(addresses), gateway, bits
        self.folder = Path(tempfile.mkdtemp(prefix="machines-"))
        self.key = self.folder / "key"
        self._tag = f"scarcity{os.getpid()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Machines:
        try:
            _forget_the_dead()
            self._write_files()
            self._lay_network()
            for name in self.addresses:
                self._start(name)
            for name in self.addresses:
                self._await_ssh(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self, name: str, command: str, **variables: str) -> subprocess.Popen[str]:
        """The command, begun on that machine as its root, in a home of its own; what it prints, errors too, is in `stdout`."""
        process = self._processes[name].pid
        inside = Path(f"/proc/{process}/task/{process}/children").read_text().split()[0]
        settings = {"HOME": "/root", "USER": "root", "TERM": "dumb", "PATH": _PATH, "COLUMNS": "200"} | variables
        return subprocess.Popen(
            [
                *("nsenter", f"--target={inside}", "--all", "--root", "--wdns=/root", "env", "-i"),
                *(f"{key}={value}" for key, value in settings.items()),
                *("bash", "-c", command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, name: str, command: str, *, seconds: float = 60, **variables: str) -> str:
        """What the command prints on that machine. Raises AssertionError with that if it fails or has not ended after `seconds`."""
        return finish(self.start(name, command, **variables), seconds)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()  # the first process of a machine dies with it, and with that one all others
            process.wait()
        for namespace in _namespaces(f"{self._tag}-"):
            _ip("netns", "del", namespace)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_files(self) -> None:
        for key in ("key", "hostkey"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        self.folder.chmod(0o755)
        (self.folder / "hosts").write_text("".join(f"{ip} {name}\n" for name, ip in {"localhost": "127.0.0.1", **self.addresses}.items()))
        (self.folder / "sshd_config").write_text(
            f"HostKey {self.folder}/hostkey\nAuthorizedKeysFile {self.folder}/key.pub\nStrictModes no\nUsePAM no\nUseDNS no\n"
            "PasswordAuthentication no\nPidFile none\nMaxStartups 100\nMaxSessions 100\n"
        )

    def _lay_network(self) -> None:
        lan = f"{self._tag}-lan"
        _ip("netns", "add", lan)
        _ip("-n", lan, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", lan, "addr", "add", f"{self.gateway}/{self.bits}", "dev", "bridge0")
        _ip("-n", lan, "link", "set", "bridge0", "up")
        for name, address in self.addresses.items():
            own = f"{self._tag}-{name}"
            _ip("netns", "add", own)
            _ip("link", "add", f"to-{name}", "netns", lan, "type", "veth", "peer", "name", "eth0", "netns", own)
            _ip("-n", lan, "link", "set", f"to-{name}", "master", "bridge0", "up")
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("-n", own, "addr", "add", f"{address}/{self.bits}", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", own, "route", "add", "default", "via", self.gateway)  # Ray finds its own address by looking up a route

    def _start(self, name: str) -> None:
        (self.folder / name).mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", f"{self._tag}-{name}"),
                    *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"),
                    *("bash", Path(__file__).with_name("boot.sh"), self.folder, name, VENV, sys.base_prefix, ROOT),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await_ssh(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        while "listening on" not in log.read_text():
            assert self._processes[name].poll() is None, f"the machine {name} did not start:\n{log.read_text()}"
            time.sleep(0.05)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _namespaces(prefix: str) -> Sequence[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(prefix)]


def _forget_the_dead() -> None:
    """Network namespaces of tests that were killed: their machines are gone, their names are not."""
    for namespace in _namespaces("scarcity"):
        owner = re.match(r"scarcity(\d+)-", namespace)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _ip("netns", "del", namespace)
