"""`--json`: each command prints one JSON object on stdout, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.scenarios import scenario
from typer.testing import CliRunner

from scarcity_ray import Results
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.run import app
from scarcity_ray.scenario import parse

FEATURES = {"kind": "random_fourier", "features": 8}


def asked(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], obj=False)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("json")
    content = scenario(strategies=[{"kind": "local_only"}, {"kind": "sf_hfe", "experts": 1, "representation": FEATURES}])
    (folder / "scenario.yaml").write_text(yaml.safe_dump(content))
    return asked("run", folder / "scenario.yaml", "--out", folder / "run")


def test_a_run_and_its_continuation_answer_with_the_summary(run: dict[str, Any]) -> None:
    assert run["summary"] == Results.load(run["directory"]).summary
    assert asked("resume", run["directory"]) == run


def test_the_plan_is_the_scenario_and_its_rows(run: dict[str, Any]) -> None:
    found = asked("run", Path(run["directory"]) / "scenario.yaml", "--dry-run")
    assert parse(found["scenario"]).rounds == 3
    assert {"clients", "rows", "metric", "sf_hfe"} <= {row["what"] for row in found["plan"]}


def test_clients_have_all_columns(run: dict[str, Any]) -> None:
    found = asked("clients", run["directory"], "--strategy", "sf_hfe")
    assert found["strategy"] == "sf_hfe"
    assert len(found["clients"]) == run["summary"]["clients"]
    assert {"client", "gain", "gain_low", "gain_high", "sure"} <= set(found["clients"][0])


def test_verification_says_what_differs(run: dict[str, Any]) -> None:
    assert asked("verify", run["directory"], "--rounds", "1") == {"rounds": 1, "difference": None, "changed": []}
    models = Path(run["directory"]) / "models"
    content = {path: path.read_bytes() for path in models.iterdir()}
    for path in content:
        path.unlink()
    found = asked("verify", run["directory"], code=1)
    assert (found["difference"]["strategy"], found["difference"]["then"]) == ("local_only", "missing")
    for path, one in content.items():
        path.write_bytes(one)


def test_strategies_are_those_of_the_registry() -> None:
    assert {one["kind"] for one in asked("strategies")["strategies"]} == set(STRATEGIES.classes)


def test_unlearning_says_what_was_done(run: dict[str, Any]) -> None:
    found = asked("unlearn", run["directory"], "--client", "3")
    assert (found["client"], found["relearned"], found["cut"]) == ("3", ["sf_hfe"], ["local_only"])
