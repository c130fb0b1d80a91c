"""What a result depends on beside its scenario: versions, revision, processor, and the settings of its products."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("scarcity-ray", "ray", "torch", "numpy", "pyarrow", "pandas", "scikit-learn", "pydantic", "safetensors", "matplotlib")


def environment(seed: int, directory: Path | None = None) -> dict[str, Any]:
    """The content of environment.json. `directory`: where to look for a git revision; the working directory if left out.

    Nothing is imported for it: versions are those of the installed packages, null where one is missing.
    """
    return {
        "seed": seed,
        "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _installed(name) for name in _PACKAGES}},
        "git": _git(directory or Path.cwd()),
        "cpu": {"model": _processor(), "architecture": platform.machine(), "cores": os.cpu_count(), "usable_cores": _usable()},
        "memory_bytes": _memory(),
        "platform": platform.platform(),
        "variables": {name: os.environ.get(name) for name in ("MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(directory: Path) -> dict[str, Any] | None:
    """Revision, and whether tracked files differ from it; None outside a repository or without git."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=directory, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "modified": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _usable() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
