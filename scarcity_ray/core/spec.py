"""The base class of all settings that YAML may contain, and the error that says which setting is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen, strict settings class. Each field has its default, range, unit and one line of help."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SpecError(ValueError):
    """A setting that passes its own range but cannot work with the data, the model or the machine.

    `field` is the path in the scenario, as ("data", "partition", "alpha") or ("strategies", 1, "fraction").
    `value` is the value at this path. `message` says what is wrong and what to do.
    """

    def __init__(self, field: tuple[str | int, ...], value: Any, message: str) -> None:
        super().__init__(field, value, message)
        self.field = field
        self.value = value
        self.message = message

    def __str__(self) -> str:
        path = ".".join(str(part) for part in self.field)
        return f"{path} is {self.value!r}: {self.message}"
