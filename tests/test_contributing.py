"""The examples in CONTRIBUTING.md are code that tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
CODE = [path.read_text(encoding="utf-8") for folder in ("scarcity_ray", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_there_is_one_for_each_seam() -> None:
    assert len(DIFFS) == 5


@pytest.mark.parametrize("place", range(len(DIFFS)))
def test_an_example_is_in_the_code_and_short(place: int) -> None:
    lines = DIFFS[place].splitlines()
    assert all(line.startswith("+") for line in lines)
    added = "\n".join(line[1:] for line in lines)
    assert len(lines) <= 40
    assert any(added in code for code in CODE)
