"""Puts a JSON Schema into words: what a field allows, and which known word the user probably meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from scarcity_ray.scenario import plain_yaml
from scarcity_ray.scenario.diagnostics import FieldPath, dotted, look_up

Schema = Mapping[str, Any]


def shown(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = " ".join(plain_yaml.write([value]).removesuffix("\n").split())
    text = text[1:-1] if text.startswith("[") else text.removeprefix("- ")
    return text if len(text) <= 80 else text[:77] + "..."


def join(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *head, tail = [*words]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that the user probably meant; None if none is similar."""
    plain = {name.lower().replace("_", "").replace("-", ""): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


class Words:
    """Reads a schema for error messages."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def at(self, path: FieldPath, data: Any) -> list[Schema]:
        """The alternatives that a field allows. data: the whole scenario, where a `kind` selects among them."""
        found = self.branches(self.schema)
        for part in path:
            found = [inner for branch in found if _fits(branch, data) for inner in self.inside(branch, part)]
            data = look_up(data, (part,))
        return found

    def inside(self, branch: Schema, part: str | int) -> list[Schema]:
        """The alternatives of one part of a mapping or list."""
        if isinstance(part, int):
            return self.branches(branch["items"]) if "items" in branch else []
        inner = branch.get("properties", {}).get(part)
        return self.branches(inner) if inner is not None else []

    def branches(self, node: Schema) -> list[Schema]:
        """The alternatives of a node, with references and unions resolved."""
        if "$ref" in node:
            return self.branches(self.schema["$defs"][node["$ref"].rpartition("/")[2]])
        inner = node.get("anyOf") or node.get("oneOf")
        return [branch for choice in inner for branch in self.branches(choice)] if inner else [node]

    def keys(self, path: FieldPath, data: Any, value: Any) -> list[str]:
        """The fields that a mapping at `path` may have."""
        return list(dict.fromkeys(key for branch in self.at(path, data) if _fits(branch, value) for key in branch.get("properties", {})))

    def kinds(self, path: FieldPath, data: Any) -> list[str]:
        """The kinds to choose from at `path`; empty where there is no choice."""
        return [kind for branch in self.at(path, data) for kind in _kinds(branch)]

    def owners(self, path: FieldPath, key: str) -> list[str]:
        """The kinds that have a field of that name, if `path` allows several kinds."""
        branches = self.branches(self.schema)
        for part in path:
            branches = [inner for branch in branches for inner in self.inside(branch, part)]
        return list(dict.fromkeys(kind for branch in branches if key in branch.get("properties", {}) for kind in _kinds(branch)))

    def home(self, key: str) -> str | None:
        """The path of a field of that name in another section, as a user writes it. Mappings that have a kind are skipped."""
        queue: list[tuple[FieldPath, Schema]] = [((), branch) for branch in self.branches(self.schema)]
        for path, node in queue:  # the loop appends to it, so fields near the root come first
            for name, inner in node.get("properties", {}).items():
                if name == key:
                    return dotted((*path, name))
                queue += [((*path, name), branch) for branch in self.branches(inner) if not _kinds(branch)]
        return None

    def allowed(self, branches: Iterable[Schema]) -> str:
        """What a field allows: "an integer of at least 1, or null"."""
        branches = list(branches)
        kinds = [kind for branch in branches for kind in _kinds(branch)]
        words = [self.one(branch) for branch in branches if not _kinds(branch) and branch.get("type") != "null"]
        words += [f"a mapping with kind: {join(kinds)}"] if kinds else []
        null = ", or null" if any(branch.get("type") == "null" for branch in branches) else ""
        return join(dict.fromkeys(words)) + null if words else "nothing"

    def one(self, branch: Schema) -> str:
        """One alternative in words."""
        if "const" in branch or "enum" in branch:
            return join(str(word) for word in branch.get("enum", [branch.get("const")]))
        kind = branch.get("type")
        if kind == "object":
            keys = list(branch.get("properties", {}))
            return f"a mapping with {join(keys, 'and') if len(keys) < 3 else ', '.join(keys)}" if keys else "a mapping"
        if kind == "array":
            least = branch.get("minItems")
            length = f" of at least {least}" if least else ""
            return f"a list{length}, each item {self.allowed(self.branches(branch.get('items', {})))}"
        if kind == "string":
            return _text(branch)
        names = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
        return names.get(str(kind), "any value") + _range(branch)


def _kinds(branch: Schema) -> list[str]:
    kind = branch.get("properties", {}).get("kind", {})
    return list(kind.get("enum", [kind["const"]] if "const" in kind else []))


def _fits(branch: Schema, value: Any) -> bool:
    """Whether a value may belong to this alternative: if the alternative has kinds, a mapping's `kind` must be one of them."""
    kinds = _kinds(branch)
    return not (kinds and isinstance(value, Mapping)) or value.get("kind") in kinds


def _text(branch: Schema) -> str:
    if branch.get("pattern") == r"^[A-Za-z0-9_-]{1,100}$":
        return "letters, digits, _ and -, at most 100"
    return (
        f"text of the form {branch['pattern']}" if "pattern" in branch else "text that is not empty" if branch.get("minLength") else "text"
    )


def _range(branch: Schema) -> str:
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {branch[key]}" for key, word in words.items() if key in branch]
    return " " + " and ".join(limits) if limits else ""
