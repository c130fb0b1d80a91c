"""Which of the clients that are there take part: one rule a file, registered under the `kind` that YAML names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Union

from scarcity_ray.core.selection import SELECTIONS, Selection

SELECTIONS.collect(__name__)

if TYPE_CHECKING:
    AnySelection = Selection | str
else:
    _names = ("uniform", *SELECTIONS.classes)
    AnySelection = Union[Literal[_names], SELECTIONS.annotation()]  # noqa: UP007 - no types, but values

__all__ = ["AnySelection", "Selection", "named"]


def named(selection: AnySelection) -> Selection | None:
    """The rule that a setting means: that of a name has its own defaults; None for uniform."""
    if not isinstance(selection, str):
        return selection
    return None if selection == "uniform" else SELECTIONS.classes[selection]()
