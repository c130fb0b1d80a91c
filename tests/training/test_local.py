"""A strategy's own local training says what is other than the scenario's, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from scarcity_ray.training.local import Local, LocalOverrides

SCENARIO = Local(epochs=5, batch_size=8, lr=0.3, momentum=0.9, weight_decay=0.01, clip_norm=1.0)


def changed(**fields: Any) -> dict[str, Any]:
    return SCENARIO.model_dump() | fields


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, changed()),
        ({"lr": 0.1}, changed(lr=0.1)),  # though that is the default
        ({"clip_norm": None}, changed(clip_norm=None)),
        ({"momentum": 0.0}, changed(momentum=0.0)),
        ({"epochs": 2}, changed(epochs=2)),
        ({"steps": 7}, changed(epochs=None, steps=7)),
        ({"steps": 7, "epochs": None}, changed(epochs=None, steps=7)),
        ({"steps": None}, changed()),
        ({"optimizer": "adam"}, changed(optimizer="adam", momentum=0.0)),
        ({"optimizer": "sgd"}, changed()),
        (Local(lr=0.2).model_dump(), Local(lr=0.2).model_dump()),
    ],
)
def test_what_is_not_set_is_inherited(own: dict[str, Any], expected: dict[str, Any]) -> None:
    whole = LocalOverrides(**own).over(SCENARIO)
    assert whole.model_dump() == expected
    assert whole.over(Local()) == whole  # nothing is left to inherit


def test_epochs_replace_inherited_steps() -> None:
    steps = Local(steps=4)
    assert LocalOverrides(epochs=2).over(steps).model_dump() == Local(epochs=2).model_dump()
    assert LocalOverrides(batch_size=3).over(steps).model_dump() == Local(steps=4, batch_size=3).model_dump()


def test_adam_is_inherited_and_has_no_momentum_of_sgds() -> None:
    adam = Local(optimizer="adam", lr=0.01)
    assert LocalOverrides(lr=0.1).over(adam).model_dump() == Local(optimizer="adam", lr=0.1).model_dump()
    assert LocalOverrides(optimizer="sgd", momentum=0.5).over(adam).momentum == 0.5
    with pytest.raises(ValueError, match="momentum belongs to sgd"):
        LocalOverrides(momentum=0.5).over(adam)


def test_only_what_is_set_is_written() -> None:
    assert LocalOverrides(lr=0.1, clip_norm=None).model_dump(mode="json") == {"lr": 0.1, "clip_norm": None}
    assert LocalOverrides().model_dump_json() == "{}"


def test_a_whole_local_inherits_nothing() -> None:
    whole: LocalOverrides = TypeAdapter(LocalOverrides).validate_python(Local(lr=0.2))
    assert whole.over(SCENARIO).model_dump() == Local(lr=0.2).model_dump()


def test_by_itself_it_is_a_local_like_any_other() -> None:
    """As where a strategy is used without a scenario."""
    import numpy as np

    samples = np.array([0, 1, 10, 11])
    assert LocalOverrides(lr=0.2).steps_for(samples).tolist() == Local(lr=0.2).steps_for(samples).tolist()
    with pytest.raises(ValueError, match="give epochs or steps, not both"):
        LocalOverrides(epochs=1, steps=1)


def test_its_schema_has_the_same_fields_and_no_defaults() -> None:
    own, whole = (kind.model_json_schema()["properties"] for kind in (LocalOverrides, Local))
    assert {name: {**field, "default": whole[name]["default"]} for name, field in own.items()} == whole
    assert all("default" not in field for field in own.values())
