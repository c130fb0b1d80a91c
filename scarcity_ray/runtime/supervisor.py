"""A run in a child process, and the parent process that starts another child where that one is killed.

When memory runs out the system kills the largest process, and Ray ends its driver when its head dies: this process is both.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable

TIMES = 5
"""How many child processes may be killed before the run is given up."""


class ProcessLost(RuntimeError):
    """Every child process that played the run was killed."""


_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def supervise(notify: Callable[[str], None]) -> int:
    """Returns in a child process, and again in a new one whenever the last was killed: the number of those killed until then.

    The process that calls it supervises the children: it forwards signals to them, and exits as the last of them exits. Killed means
    ended by a signal that was not forwarded, or by an exit that skips Python's own, as Ray ends a driver. notify: takes a line for
    the user, in the supervising process. Call it before any thread is started. Where the system is not Linux it returns 0 at once,
    without a child.
    Raises ProcessLost, in the supervising process.
    """
    if sys.platform != "linux":
        return 0
    for killed in range(TIMES):
        sys.stdout.flush()
        sys.stderr.flush()
        reads, writes = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)  # until each of the two is ready for them
        parent, child = os.getpid(), os.fork()
        if not child:
            os.close(reads)
            _become_supervised(parent, writes)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return killed
        os.close(writes)
        status, forwarded = _wait(child, before)
        orderly = os.read(reads, 1)
        os.close(reads)
        if orderly:
            sys.exit(os.waitstatus_to_exitcode(status))
        if forwarded is not None:  # ends as it would have ended without a child
            signal.signal(forwarded, signal.SIG_DFL)
            os.kill(os.getpid(), forwarded)
        how = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "abruptly, as by Ray when its head dies"
        if killed + 1 < TIMES:
            notify(f"the run's process was ended {how}; another one continues it")
    raise ProcessLost(f"its process was ended {how}, {TIMES} times")


def _become_supervised(parent: int, writes: int) -> None:
    """Makes this process end when its parent ends, get signals only from it, and write to the pipe when Python ends in order."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the parent alone, which forwards it once
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    atexit.register(os.write, writes, b".")


def _wait(child: int, mask: set[int]) -> tuple[int, int | None]:
    """The status that a child process ends with, and the last signal that was forwarded to it. mask: signals to block meanwhile."""
    forwarded: list[int] = []

    def forward(number: int, _: object) -> None:
        forwarded.append(number)
        os.kill(child, number)

    def stop(*_: object) -> None:  # Ctrl-Z, until `fg`
        os.kill(child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(child, signal.SIGCONT)

    handlers: dict[signal.Signals, Callable[..., None]] = {**dict.fromkeys(_FORWARDED, forward), signal.SIGTSTP: stop}
    handled = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]  # `nohup`, for one, ignores SIGHUP
    before = {number: signal.signal(number, handlers[number]) for number in handled}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, forwarded[-1] if forwarded else None
