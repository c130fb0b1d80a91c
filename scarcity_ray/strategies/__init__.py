"""The strategies, one paper a file. Each registers itself under the `kind` that YAML names, so a new one is a new file here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scarcity_ray.core.strategy import STRATEGIES, Strategy

STRATEGIES.collect(__name__)

if TYPE_CHECKING:
    AnyStrategy = Strategy
else:
    AnyStrategy = STRATEGIES.annotation()

__all__ = ["AnyStrategy", "overview"]


def overview() -> str:
    """The strategies as a table in Markdown: README's."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kind, cls in STRATEGIES.classes.items():
        rows.setdefault((cls.sends, cls.receives), []).append(f"`{kind}`")
    lines = [f"| {', '.join(kinds)} | {sends} | {receives} |" for (sends, receives), kinds in rows.items()]
    return "\n".join(["| strategy | what goes up | what comes down |", "| --- | --- | --- |", *lines])


def __getattr__(name: str) -> Any:
    """A strategy's class by its name, as `scarcity_ray.strategies.FedAvg`."""
    for cls in STRATEGIES.classes.values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
