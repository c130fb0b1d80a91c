"""What README says can be done, done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.strategies import overview

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_first_two_commands_are_one_line_each() -> None:
    run, test = blocks("bash")[:2]
    assert len(run.splitlines()) == len(test.splitlines()) == 1
    assert "python -m scarcity_ray.run scenarios/noniid.yaml" in run
    assert "pytest" in test


def test_the_ten_lines_by_hand_federate(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("python") if "Server(" in block]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    losses, insights = capsys.readouterr().out.splitlines()
    numbers = [float(loss) for loss in losses.strip("[]").split(", ")]
    assert len(numbers) == 5
    assert numbers == sorted(numbers, reverse=True)
    assert insights == "15"


def test_the_table_of_strategies_is_that_of_the_registry() -> None:
    assert overview() in README
    assert all(cls.sends and cls.receives for cls in STRATEGIES.classes.values())


def test_every_shipped_scenario_is_listed() -> None:
    shipped = {path.name for path in (ROOT / "scenarios").glob("*.yaml")}
    assert shipped == set(re.findall(r"\(scenarios/([a-z_]+\.yaml)\)", README))
