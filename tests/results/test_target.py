"""What a strategy took to reach a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.report.final_table import target_in_words
from scarcity_ray.results.target import Target
from scarcity_ray.scenario import ScenarioError


def points(*values: float) -> list[dict[str, Any]]:
    """Evaluations every second round, 100 bytes and 10 joules a round of all clients, ten minutes each."""
    return [
        {"round": 2 * k, "value": value, "bytes": 200 * k, "joules": 20.0 * k, "clock_seconds": 1200.0 * k}
        for k, value in enumerate(values, 1)
    ]


def test_a_target_counts_from_the_first_of_three_evaluations_that_reach_it() -> None:
    found = Target("classification", "accuracy", 0.9).needed(points(0.5, 0.91, 0.89, 0.9, 0.93, 0.95), clients=5)
    assert found == {"rounds": 8, "hours": pytest.approx(4 / 3), "bytes": 160.0, "joules": 16.0}


@pytest.mark.parametrize("values", [(), (0.95, 0.95), (0.95, 0.95, 0.8, 0.95, 0.95)])
def test_who_does_not_stay_has_not_reached_it(values: tuple[float, ...]) -> None:
    found = Target("classification", "accuracy", 0.9).needed(points(*values), clients=5)
    assert found == {"rounds": None, "hours": None, "bytes": None, "joules": None}


def test_who_has_nothing_more_to_learn_stays() -> None:
    target = Target("classification", "accuracy", 0.9)
    assert target.needed(points(0.5, 0.95), clients=5, settles=True)["rounds"] == 4
    assert target.needed(points(0.95, 0.5), clients=5, settles=True)["rounds"] is None


def test_an_error_is_reached_from_above_and_as_it_is_shown() -> None:
    assert Target("regression", "rmse", 2.0).needed(points(9.0, 4.0, 4.0, 3.9), clients=1)["rounds"] == 4  # the column holds squares


def test_a_run_says_it_with_and_without_a_clock(tmp_path: Path) -> None:
    strategies = [{"kind": "fed_avg"}, {"kind": "fed_avg", "name": "slow", "local": {"lr": 1e-6}}]
    content = scenario(rounds=8, strategies=strategies, evaluation={"target": {"accuracy": 0.3}}, local={"epochs": 5, "lr": 0.2})
    free = simulate(content, out=tmp_path / "free").summary
    scarce = simulate(content | {"scarcity": {"compute": {}, "energy": {}}}, out=tmp_path / "scarce").summary
    one, other = (run["strategies"]["fed_avg"]["target"] for run in (free, scarce))
    assert one["rounds"] == other["rounds"] is not None
    assert one["hours"] is None
    assert other["hours"] > 0
    assert other["joules"] > 0
    assert scarce["strategies"]["slow"]["target"]["rounds"] is None
    (line,) = target_in_words(scarce)
    assert line.startswith(f"accuracy of 0.300, kept for 3 evaluations: fed_avg after {one['rounds']} rounds, ")
    assert "slow never" in line


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"rmse": 2.0}, r"evaluation\.target is 'rmse': it does not suit a classification"),
        ({"auc": 0.9}, r"measured after the last round alone"),
    ],
)
def test_a_target_that_cannot_be_seen_is_refused(target: dict[str, float], words: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=words):
        simulate(scenario(evaluation={"target": target}), out=tmp_path / "run")
