"""A user's own object by its import path, `package.module:Name`. Importing a module runs its code."""

from __future__ import annotations

import importlib
from functools import reduce
from types import ModuleType
from typing import Any

from scarcity_ray.core.spec import SpecError

PATTERN = r"^[\w.]+:[\w.]+$"

USER_MODULES: dict[str, ModuleType] = {}
"""The modules that were imported by a path and are not installed: another process, or another machine, may not find them."""


def load_object(path: str, field: tuple[str | int, ...]) -> Any:
    """The object that a path names. Raises SpecError at `field` where the module or the name is not there."""
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's module runs on import, so anything may be raised
        raise SpecError(field, path, f"module {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not {"site-packages", "dist-packages"} & {*str(getattr(found, "__file__", None)).split("/")}:
        USER_MODULES[module] = found
    try:
        return reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise SpecError(field, path, f"module {module} has no {name}") from error
