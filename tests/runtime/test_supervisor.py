"""Processes that are killed, and the one that supervises them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scarcity_ray.results import files
from scarcity_ray.results.files import Unwritable, held
from scarcity_ray.runtime.supervisor import TIMES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a supervisor")

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from scarcity_ray.runtime.supervisor import ProcessLost, supervise

signal.signal(signal.SIGINT, signal.default_int_handler)  # as the program does: a script's background jobs ignore it
try:
    vanished = supervise(lambda line: print("notified:", line))
except ProcessLost as error:
    sys.exit(f"vanished: {error}")
with open("played", "a") as file:
    print(os.getpid(), file=file)
"""


def started(folder: Path, act: str) -> subprocess.Popen[str]:
    """A program that does `act` in the child process; `vanished` is the number of those killed before."""
    command = [sys.executable, "-c", PROGRAM + act]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(folder: Path, act: str) -> tuple[int, str, str]:
    program = started(folder, act)
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


def playing(folder: Path) -> int:
    """The child process, once it runs."""
    give_up = time.monotonic() + 60
    while not (folder / "played").exists() or not (folder / "played").read_text().endswith("\n"):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return int((folder / "played").read_text())


@pytest.mark.parametrize(("act", "code"), [("", 0), ("sys.exit(3)", 3), ("sys.exit(130)", 130), ("raise ValueError('mine')", 1)])
def test_a_process_that_ends_by_itself_is_not_followed(tmp_path: Path, act: str, code: int) -> None:
    found, out, err = ended(tmp_path, act)
    assert (found, out) == (code, "")
    assert ("ValueError: mine" in err) == ("mine" in act)
    assert len((tmp_path / "played").read_text().split()) == 1


@pytest.mark.parametrize(
    ("how", "words"), [("os._exit(0)", "abruptly"), ("os._exit(1)", "abruptly"), ("os.kill(os.getpid(), 9)", "by signal 9")]
)
def test_a_killed_process_is_followed_by_another(tmp_path: Path, how: str, words: str) -> None:
    code, said, _ = ended(tmp_path, f"if vanished < 2: {how}\nprint('vanished', vanished)")
    assert code == 0
    *lines, last = said.splitlines()
    assert last == "vanished 2"
    assert len(lines) == 2
    assert all(words in line and line.endswith("another one continues it") for line in lines)


def test_not_for_ever(tmp_path: Path) -> None:
    code, _, err = ended(tmp_path, "os._exit(1)")
    assert code == 1
    assert err.startswith("vanished: its process was ended abruptly")
    assert len((tmp_path / "played").read_text().split()) == TIMES


def test_an_interrupt_reaches_it_once_even_where_a_terminal_sends_it_to_all(tmp_path: Path) -> None:
    act = """
signal.signal(signal.SIGINT, lambda *_: open("heard", "a").write("x"))
open("ready", "w").close()
give_up = time.monotonic() + 60
while not os.path.exists("heard") and time.monotonic() < give_up: time.sleep(0.01)
time.sleep(0.3)
sys.exit(130)
"""
    program = started(tmp_path, act)
    while not (tmp_path / "ready").exists():
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)
    os.killpg(program.pid, signal.SIGINT)
    program.communicate(timeout=60)
    assert program.returncode == 130
    assert (tmp_path / "heard").read_text() == "x"


def test_a_signal_to_end_is_obeyed(tmp_path: Path) -> None:
    program = started(tmp_path, "time.sleep(60)")
    runs = playing(tmp_path)
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (-signal.SIGTERM, "", "")
    assert not Path(f"/proc/{runs}").exists()


def test_a_signal_that_is_ignored_asks_for_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        program = started(tmp_path, "time.sleep(0.5)\nif not vanished: os._exit(1)\nprint('vanished', vanished)")
    finally:
        signal.signal(signal.SIGHUP, before)
    playing(tmp_path)
    program.send_signal(signal.SIGHUP)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert said.splitlines()[-1] == "vanished 1"


def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    program = started(tmp_path, "time.sleep(60)")
    runs = playing(tmp_path)
    program.kill()
    program.wait()
    give_up = time.monotonic() + 60
    while Path(f"/proc/{runs}").exists() and "\nState:\tZ" not in Path(f"/proc/{runs}/status").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_directory_is_kept_to_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_DYING_SECONDS", 0.2)
    with held(tmp_path / "run"):
        with pytest.raises(Unwritable, match=r"run: another run is being played there"), held(tmp_path / "run"):
            pytest.fail("two have it")
        with held(tmp_path / "other"):
            """That is nobody's."""
    with held(tmp_path / "run"):
        """It is free again."""
