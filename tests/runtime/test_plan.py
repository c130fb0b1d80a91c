"""What is wrong with a scenario once its data are there is told with the field that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.scenarios import scenario

from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import SpecErrors, load

REGRESSION = {"source": {"kind": "shifted_regression"}, "clients": 5}
CNN = {"kind": "cnn"}


def errors_of(tmp_path: Path, **changes: Any) -> list[str]:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(scenario(**changes), sort_keys=False))
    loaded = load(path)
    with pytest.raises((SpecError, SpecErrors)) as caught:
        prepare(loaded.scenario, loaded.base_dir)
    return [line.split(": ", 1)[1] for line in str(loaded.explain(caught.value)).splitlines()[1:]]


def test_a_strategy_that_cannot_learn_the_task_is_named_by_its_place(tmp_path: Path) -> None:
    strategies = [{"kind": "local_only"}, {"kind": "prototypes"}, {"kind": "fed_avg"}, {"kind": "prototypes", "name": "second"}]
    errors = errors_of(tmp_path, data=REGRESSION, model={"kind": "linear"}, strategies=strategies)
    why = "prototypes are means of classes, and a regression has none: try sf_hfe"
    assert errors == [f"strategies.1.kind is 'prototypes': {why}", f"strategies.3.kind is 'prototypes': {why}"]


def test_a_model_that_does_not_fit_is_named_where_it_was_chosen(tmp_path: Path) -> None:
    own = [{"kind": "local_only"}, {"kind": "fed_avg", "model": CNN}]
    (error,) = errors_of(tmp_path, data=REGRESSION, model={"kind": "linear"}, strategies=own)
    assert error.startswith("strategies.1.model.kind is 'cnn': ")
    (error,) = errors_of(tmp_path, data=REGRESSION, model=CNN, strategies=[{"kind": "fed_avg"}])
    assert error.startswith("model.kind is 'cnn': ")


def test_what_a_strategy_cannot_do_with_the_data_is_told_of_the_data(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, data={**REGRESSION, "clients": 1}, strategies=[{"kind": "local_only"}, {"kind": "sf_hfe"}])
    assert error.startswith("data.clients is 1: sf_hfe chooses its strengths by leaving one client out")
