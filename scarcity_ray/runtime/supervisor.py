"""A run in a process of its own, and one that attends it: a system without memory ends the largest, and Ray a driver without a head."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable

TIMES = 5
"""How often a run's process may vanish before no other is started."""


class ProcessLost(RuntimeError):
    """Every process that was to play the run has vanished."""


_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def supervise(tell: Callable[[str], None]) -> int:
    """Returns in a process of its own, and once more in another whenever that has vanished: how many have until then.

    The process that calls it attends them: it hands on signals, and ends as the last of them ends. To vanish is to end by a
    signal that it did not hand on, or past Python, as Ray ends a driver. tell: takes a line for the user, in the attending
    process. Call it before any thread is started. Where the system is not Linux nobody attends, and it returns 0 at once.
    Raises ProcessLost, in the attending process.
    """
    if sys.platform != "linux":
        return 0
    for vanished in range(TIMES):
        sys.stdout.flush()
        sys.stderr.flush()
        hears, says = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)  # until each of the two is ready for them
        attending, runs = os.getpid(), os.fork()
        if not runs:
            os.close(hears)
            _become_supervised(attending, says)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return vanished
        os.close(says)
        status, asked = _wait(runs, before)
        orderly = os.read(hears, 1)
        os.close(hears)
        if orderly:
            sys.exit(os.waitstatus_to_exitcode(status))
        if asked is not None:  # as it would have ended without anybody between
            signal.signal(asked, signal.SIG_DFL)
            os.kill(os.getpid(), asked)
        how = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "past all rules, as by Ray where its head has died"
        if vanished + 1 < TIMES:
            tell(f"the run's process was ended {how}; another goes on with it")
    raise ProcessLost(f"its process was ended {how}, {TIMES} times")


def _become_supervised(attending: int, says: int) -> None:
    """Makes this process one that dies with who attends it, gets signals from nobody else, and says when it ends by itself."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the attending process alone, and this one once, through it
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != attending:  # it died before
        os._exit(1)
    atexit.register(os.write, says, b".")


def _wait(runs: int, mask: set[int]) -> tuple[int, int | None]:
    """The status that a process ends with, and the last signal that was handed on to it. mask: signals to block meanwhile."""
    asked: list[int] = []

    def hand_on(number: int, _: object) -> None:
        asked.append(number)
        os.kill(runs, number)

    def stop(*_: object) -> None:  # Ctrl-Z, until `fg`
        os.kill(runs, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(runs, signal.SIGCONT)

    handlers: dict[signal.Signals, Callable[..., None]] = {**dict.fromkeys(_FORWARDED, hand_on), signal.SIGTSTP: stop}
    heeded = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]  # `nohup` ignores a hang-up, say
    before = {number: signal.signal(number, handlers[number]) for number in heeded}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        _, status = os.waitpid(runs, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, asked[-1] if asked else None
