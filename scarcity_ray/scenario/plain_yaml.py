"""Reads and writes YAML: plain data by the rules of YAML 1.2, with the place of every value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from scarcity_ray.scenario.diagnostics import Diagnostic, FieldPath, Place

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000  # aliases of aliases let a file of a few lines expand to billions of values


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML's plain and single-quoted styles lose some line breaks (U+0085); its double-quoted one escapes them.
        return self.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


# The core schema of YAML 1.2: `1e-3` is a number and `no`, `on`, `1:30` and `2024-01-01` are text. PyYAML's own
# rules (YAML 1.1) do the opposite. Underscores in numbers (10_000) stay allowed.
_INT = r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+"
_FLOAT = r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _reader_or_writer in (_Loader, _Dumper):
    _reader_or_writer.yaml_implicit_resolvers = {}
    for _kind, _pattern, _first in (
        ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, list("-+0123456789.")),
        ("merge", "<<", ["<"]),
    ):
        _reader_or_writer.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def _float(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    text.encode()  # raises for half of a surrogate pair: YAML can escape it, but UTF-8 cannot encode it
    return text


_SCALARS = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": lambda text: int(text.replace("_", ""), 0),
    _TAG + "float": _float,
    _TAG + "str": _text,
    _TAG + "merge": _text,
}


_NAMES = {_TAG + "int": "an integer", _TAG + "float": "a number"}


@dataclass
class Document:
    """A file's plain data (dicts with text keys, lists, numbers, text, true, false, null) and where each value was written."""

    data: Any = None
    places: dict[FieldPath, Place] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)


class _TooMuch(Exception):
    pass


class _Reader:
    """Converts YAML nodes to plain data, and records places and problems."""

    def __init__(self, source: str, in_file: bool) -> None:
        self.document = Document()
        self.source = source
        self.in_file = in_file
        self.open: list[yaml.Node] = []
        self.values = 0

    def place(self, mark: Any) -> Place:
        return Place(self.source, mark.line + 1, mark.column + 1) if self.in_file and mark is not None else Place(self.source)

    def refuse(self, path: FieldPath, message: str, mark: Any) -> None:
        self.document.problems.append(Diagnostic(path, message, self.place(mark)))

    def value(self, node: yaml.Node, path: FieldPath) -> Any:
        self.values += 1
        if self.values > _MOST_VALUES:
            raise _TooMuch
        if any(node is parent for parent in self.open):
            self.refuse(path, "refers to itself through an alias; write the value out", node.start_mark)
            return None
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return self.sequence(node, path)
            if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
                return _SCALARS[node.tag](node.value)
        except ValueError:
            self.refuse(path, f"is {node.value[:40]!r}, which is not {_NAMES.get(node.tag, 'text')}", node.start_mark)
            return None
        finally:
            self.open.pop()
        self.refuse(path, f"has the tag {node.tag.replace(_TAG, '!!')}; allowed: plain YAML without tags", node.start_mark)
        return None

    def sequence(self, node: yaml.SequenceNode, path: FieldPath) -> list[Any]:
        found = []
        for index, item in enumerate(node.value):
            inner = (*path, index)
            self.document.places[inner] = self.place(item.start_mark)
            found.append(self.value(item, inner))
        return found

    def mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, item in node.value:
            if key.tag == _TAG + "merge" and isinstance(key, yaml.ScalarNode):
                for part in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    found = self.value(part, path)
                    merged = {**found, **merged} if isinstance(found, dict) else merged
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str" or not key.value.isprintable():
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self.refuse(path, f"has the key {shown}; allowed as keys: printable text", key.start_mark)
                continue
            inner = (*path, key.value)
            if key.value in first:
                lines = f"on line {first[key.value]} and on line {key.start_mark.line + 1}"
                self.refuse(inner, f"is given twice, {lines}; keep one" if self.in_file else "is given twice; keep one", key.start_mark)
                continue
            first[key.value] = key.start_mark.line + 1
            self.document.places[inner] = self.place(key.start_mark)
            own[key.value] = self.value(item, inner)
        return {**merged, **own}


def read(text: str, source: str, in_file: bool = True) -> Document:
    """Plain data of one YAML document. Never raises: errors are in the result's `problems`.

    source: the name for the places: the file's, or with in_file=False the option's.
    """
    reader = _Reader(source, in_file)
    document = reader.document
    document.places[()] = Place(source, 1, 1) if in_file else Place(source)
    try:
        node = yaml.compose(text, _Loader)
        if node is not None:
            document.places[()] = reader.place(node.start_mark)
            document.data = reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        words = ", ".join(part for part in (error.context, error.problem) if part)
        reader.refuse((), f"is not YAML: {words}" if not in_file else f"not YAML: {words}", error.problem_mark or error.context_mark)
    except yaml.YAMLError as error:
        document.problems.append(Diagnostic((), f"not YAML: {str(error).splitlines()[0]}", Place(source)))
    except RecursionError:
        document.problems.append(Diagnostic((), "nested too deeply", Place(source)))
    except _TooMuch:
        document.problems.append(
            Diagnostic((), f"aliases expand to more than {_MOST_VALUES:,} values; write the values out", Place(source))
        )
    return document


def write(data: Any) -> str:
    """YAML text that `read` turns back into the same data. The innermost lists and mappings are on one line."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True))
