"""What is said of single clients' messages, by their names and in words: see ensemble.screening, ensemble.contribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def named(learned: Mapping[str, Any], called: Callable[[int], str]) -> dict[str, Any]:
    """What summary.json says of a round, with the names of the clients of which it says something. called: the name of a client's id."""
    changed: dict[str, Any] = {}
    if "screened" in learned:
        changed["screened"] = [
            {**one, "name": called(one["client"]), "of_name": None if one["of"] is None else called(one["of"])}
            for one in learned["screened"]
        ]
    if "harm" in learned:
        changed["harm"] = [{**one, "name": called(one["client"])} for one in learned["harm"]]
    return {**learned, **changed}


def in_words(found: Mapping[str, Any]) -> str:
    """One finding as a sentence without its stop."""
    counts = "counts nothing" if found["weight"] == 0 else f"counts {found['weight']:.2g}"
    if found["reason"] == "copy":
        return f"the message of client {found['name']} is that of client {found['of_name']} again, and {counts}"
    return f"the {found['reason']} of client {found['name']} are {found['times']:,.4g} times as large as others', and its message {counts}"
