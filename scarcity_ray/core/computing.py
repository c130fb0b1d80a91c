"""The version of what computes: a run can be resumed, and verified, where it is the one that the run began with.

Comments, messages of the command line, plots and the way that work is sent to processes change no result, so a hash of all
files would refuse too much. The version is a number that people raise; so that nobody forgets it, a test compares the digest of
the modules that compute with the one in `computing.digest`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

COMPUTING_VERSION = 8
"""Raised whenever the same scenario, data and seed can give other results than before, or a checkpoint of before cannot be read."""

PACKAGE = Path(__file__).parents[1]

DIGEST_FILE = Path(__file__).with_name("computing.digest")
"""`digest()` as it was when somebody last decided whether COMPUTING_VERSION had to be raised."""

_FOLDERS = (
    "actors",
    "aggregation",
    "baselines",
    "core",
    "data",
    "ensemble",
    "inference",
    "metrics",
    "models",
    "scarcity",
    "schedules",
    "selection",
    "strategies",
    "training",
    "uplink",
)
"""What can change a result. The others (commands, runtime, results, report, scenario, serving, tuning) run it, write it down or show it."""


def digest(package: Path = PACKAGE) -> str:
    """SHA-256 over the syntax trees of the modules that compute, by their paths in the package.

    Comments, docstrings and formatting do not enter, nor does the version of Python that reads the modules (3.10 to 3.13).
    """
    total = hashlib.sha256()
    paths = (path for folder in _FOLDERS for path in (package / folder).rglob("*.py"))
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in paths):
        if name != "core/computing.py":
            tree = ast.parse(path.read_bytes())
            total.update(f"{name}\n{''.join(_written(tree))}\n".encode())
    return total.hexdigest()


def _written(node: object) -> Iterator[str]:
    """A syntax tree as text. `ast.dump` leaves out other empty fields in each version of Python; here all are left out."""
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in sorted(ast.iter_fields(node)):
            if name in ("kind", "type_comment", "type_ignores") or value is None or value == []:
                continue
            yield f"{name}="
            yield from _written(_joined(value) if isinstance(node, ast.JoinedStr) else value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for part in node:
            if not _is_docstring(part):
                yield from _written(part)
                yield ","
        yield "]"
    else:
        yield ascii(node)


def _is_docstring(node: object) -> bool:
    """A text that stands by itself, wherever it does: it computes nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with its plain text in one piece: versions of Python cut it in different places."""
    whole: list[ast.expr] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(part, ast.Constant) and isinstance(last, ast.Constant):
            whole[-1] = ast.Constant(str(last.value) + str(part.value))
        else:
            whole.append(part)
    return whole


if __name__ == "__main__":
    DIGEST_FILE.write_text(f"{digest()}\n", encoding="ascii")
    print(f"{DIGEST_FILE}: the digest of version {COMPUTING_VERSION} of what computes")
