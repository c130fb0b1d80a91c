"""Lint and import contracts are part of the tests, types of the marked ones: checking them takes as long as a tenth of all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--check", "--no-cache", "."],
        pytest.param([sys.executable, "-m", "mypy"], marks=pytest.mark.slow),
        ["lint-imports", "--no-cache"],
    ],
    ids=["ruff check", "ruff format", "mypy", "lint-imports"],
)
def test_the_code_passes(command: list[str]) -> None:
    first = command[0] if command[0] == sys.executable else str(Path(sys.executable).parent / command[0])
    done = subprocess.run([first, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
