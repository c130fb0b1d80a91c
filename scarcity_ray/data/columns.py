"""From record batches to a pool: selects columns, decides their kinds, and finds missing values and the client of each row."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Categorical, Classes, Column, Pool, Task
from scarcity_ray.data.reader import Reader, day, dotted_days, holds_dates
from scarcity_ray.data.standardise import LONGEST_WORD

MOST_WORDS = 1000  # largest number of categories of one text feature; a column with more is a name or a text, not a category
_SOURCE = ("data", "source")
_FACT = ("scarcity", "column")
_SPLIT = ("data", "split")
INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls the column that numbers the rows of a table."""
_NAMED = 5  # names in a sentence


class Columns(Spec):
    """Which columns of a table are the label, the client, the group and the features."""

    label: Annotated[str, Field(description="column to predict: a float is a regression; integers and text are classes")]
    client: Annotated[str | None, Field(description="column with the client of each row; null for a table that is dealt out")] = None
    group: Annotated[str | None, Field(description="column with the group of each client, recorded with the results")] = None
    features: Annotated[
        tuple[str, ...] | None,
        Field(strict=False, min_length=1, description="input columns, or powers of them as age^2; null for all others"),
    ] = None
    task: Annotated[Task | None, Field(description="regression or classification; null: decided by the label's type")] = None
    missing: Annotated[
        Literal["refuse", "drop", "indicator"],
        Field(
            description="rows that lack a value (null, NaN or infinite): refuse the table; drop them; indicator: keep them, with the mean "
            "of the others or a word of its own, and an input that says so (a row without a label or a client is dropped)"
        ),
    ] = "refuse"


def read(
    spec: Columns,
    schema: pa.Schema,
    scan: Callable[[list[str]], Iterable[pa.RecordBatch]],
    ignored: Sequence[str] = (),
    facts: Sequence[str] = (),
    beside: Mapping[str, str] | None = None,
) -> Pool:
    """The pool of a table. Batches are read once, one at a time. Each number takes 8 bytes of memory, each word 4.

    scan: returns the batches of the named columns. ignored: columns that are features only if they are named. facts: columns of numbers
    that say something of a client, and are features only if they are named. beside: columns that split a client's rows, by what they are
    for (`by`: a word or whole number; `time`: a number or date); features only if they are named.
    Raises SpecError for missing columns, unusable types and missing values.
    """
    if spec.group is not None and spec.client is None:
        raise SpecError((*_SOURCE, "group"), spec.group, "groups are groups of clients: name the `client` column too")
    beside = beside or {}
    features = _features(spec, schema, (*ignored, *facts, *beside.values()))
    special = {field: name for field in ("label", "client", "group") if (name := getattr(spec, field)) is not None}
    readers: dict[str, Reader] = {}
    for field, name in special.items():
        _require((*_SOURCE, field), name, schema)
        text, kind = _is_text((*_SOURCE, field), name, schema), schema.field(name).type
        if field != "label" and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise SpecError((*_SOURCE, field), name, f"the column holds {kind}; a {field} is an integer or text")
        if name in readers:
            raise SpecError((*_SOURCE, field), name, "the column is already the label or the client")
        readers[name] = Reader(name, text or field != "label")
    for place, (feature, name, power) in enumerate(features):
        text = not holds_dates(schema.field(name).type) and _is_text((*_SOURCE, "features", place), name, schema)
        if text and power != 1:
            raise SpecError((*_SOURCE, "features", place), feature, f"{name} is text: text has no powers")
        readers.setdefault(name, Reader(name, text))
    for name in facts:
        _require(_FACT, name, schema)
        if _is_text(_FACT, name, schema):
            raise SpecError(_FACT, name, "the column is text: a client's value is a number")
        readers.setdefault(name, Reader(name, False))
    apart = {field: _beside(spec, field, name, schema) for field, name in beside.items()}

    for batch in scan(list(dict.fromkeys([*readers, *beside.values()]))):
        for reader in (*readers.values(), *apart.values()):
            reader.add(batch.column(reader.name))
        _refuse_long_text(readers[name] for _, name, _ in features)
    inputs = list(dict.fromkeys(name for _, name, _ in features))
    must = [reader for name, reader in readers.items() if name not in inputs or name in facts] + list(apart.values())
    keep, notes = _complete(spec, [*readers.values(), *apart.values()], must)
    yes_no = [name for name in inputs if readers[name].as_truth()]
    dates = [name for name in inputs if readers[name].as_days() or holds_dates(schema.field(name).type)]

    columns = {name: reader.values(keep) for name, reader in readers.items()}
    y, classes = _label(spec, columns[spec.label], schema.field(spec.label).type)
    since = {}
    for name in dates:
        column = columns[name]
        assert not isinstance(column, Categorical)
        first = np.floor(np.nanmin(column)) if np.isfinite(column).any() else 0.0
        columns[name], since[name] = column - first, day(first)
    x = tuple(column if isinstance(column := columns[name], Categorical) else column**power for _, name, power in features)
    pool = Pool(
        x,
        y,
        "regression" if classes is None else "classification",
        1 if classes is None else len(classes),
        inputs=tuple((name, power) for _, name, power in features),
        label=spec.label,
        classes=classes,
        beside={field: reader.values(keep) for field, reader in apart.items()},
        yes_no=tuple(yes_no),
        dates=since,
        indicators=spec.missing == "indicator",
        notes=(*_of_index(spec, schema), *notes, *_of_kinds(yes_no, since)),
    )
    client, group = columns.get(spec.client or ""), columns.get(spec.group or "")
    if not isinstance(client, Categorical):
        if facts:
            raise SpecError(_FACT, facts[0], "without a `client` column no row says whose value it is: name data.source.client")
        return pool
    if gone := sorted(set(readers[str(spec.client)].places) - set(client.words)):
        pool = replace(
            pool, notes=(*pool.notes, f"{_some(gone)} {'has' if len(gone) == 1 else 'have'} no rows left, and no part in the run")
        )
    own = {name: _fact(name, columns[name], client) for name in facts}
    groups = _group(spec.group, group, client) if spec.group and isinstance(group, Categorical) else None
    return replace(pool, owner=client.codes.astype(np.int64), names=client.words, group=groups, client=spec.client, facts=own)


def _beside(spec: Columns, field: str, name: str, schema: pa.Schema) -> Reader:
    """The reader of a column that splits a client's rows. It is read apart, as it may be a feature too. Raises SpecError."""
    _require((*_SPLIT, field), name, schema)
    kind = schema.field(name).type
    if name in (spec.label, spec.client):
        raise SpecError((*_SPLIT, field), name, "the column is the label or the client: name another one")
    if not (pa.types.is_temporal(kind) or not _is_text((*_SPLIT, field), name, schema) or field == "by"):
        raise SpecError((*_SPLIT, field), name, "the column is text: times are numbers or dates, as 2024-05-31")
    return Reader(name, field == "by")


def _features(spec: Columns, schema: pa.Schema, ignored: Sequence[str]) -> list[tuple[str, str, int]]:
    """Each feature as (text in the settings, column, power)."""
    special = {spec.label, spec.client, spec.group}
    if spec.features is None:
        names = [name for name in schema.names if name not in special and name not in ignored and name not in INDEX]
        if not names:
            raise SpecError((*_SOURCE, "features"), None, f"the table has no column besides {', '.join(schema.names)}")
        return [(name, name, 1) for name in names]
    found = []
    for place, feature in enumerate(spec.features):
        power = re.fullmatch(r"(.+)\^([1-9])", feature)
        name = power[1] if power and feature not in schema.names else feature
        path = (*_SOURCE, "features", place)
        _require(path, name, schema)
        if name in special:
            raise SpecError(path, feature, "the column is the label, the client or the group; it cannot be a feature too")
        if feature in spec.features[:place]:
            raise SpecError(path, feature, "the feature is named twice")
        found.append((feature, name, int(power[2]) if power and name != feature else 1))
    return found


def not_one(name: str, names: list[str]) -> str | None:
    """A message, with the nearest name, if `name` is not exactly once among the columns `names`; None if it is."""
    count = names.count(name)
    if count > 1:
        return f"the table has {count} columns of that name"
    if count == 1:
        return None
    near = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"the table has no such column{hint} It has: {some(names)}"


def some(words: Sequence[object]) -> str:
    """The first 20 words of a list, as text."""
    return ", ".join(str(word) for word in words[:20]) + (", ..." if len(words) > 20 else "")


def _require(path: tuple[str | int, ...], name: str, schema: pa.Schema) -> None:
    """Raises SpecError if the table does not have exactly one column of this name."""
    if fault := not_one(name, schema.names):
        raise SpecError(path, name, fault)


def holds_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text."""
    return bool(pa.types.is_dictionary(kind)) or str(kind) in ("string", "large_string", "string_view")


def holds_numbers(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers; true and false count as 1 and 0."""
    return any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean))


def _is_text(path: tuple[str | int, ...], name: str, schema: pa.Schema) -> bool:
    """Whether a column contains text. Raises SpecError if it contains neither text nor numbers."""
    kind = schema.field(name).type
    if holds_text(kind) or holds_numbers(kind):
        return holds_text(kind)
    if pa.types.is_null(kind):
        raise SpecError(path, name, "the column has no value at all: list the `features` without it")
    raise SpecError(path, name, f"the column holds {kind}, not numbers, booleans, text or dates: turn it into a number, or leave it out")


def _refuse_long_text(readers: Iterable[Reader]) -> None:
    """Raises SpecError for a text feature with too many categories, or with categories that are too long."""
    for reader in readers:
        longest = max((len(word.encode()) for word in reader.places), default=0)
        if (len(reader.places) > MOST_WORDS or longest > LONGEST_WORD) and dotted_days(reader.places) is None:
            raise SpecError(
                (*_SOURCE, "features"),
                reader.name,
                f"the text column has at least {len(reader.places):,} categories, the longest of {longest} bytes; allowed are at most "
                f"{MOST_WORDS:,} categories of at most {LONGEST_WORD} bytes: list the `features` without it",
            )


def _complete(spec: Columns, readers: list[Reader], must: list[Reader]) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """True for the rows that are kept, `[rows]`, None if all are; and a sentence on those that lack a value.

    must: columns without which a row is of no use, whatever else is done. Raises SpecError where such rows are refused, or none is left.
    """
    for reader in readers:
        reader.join()
    lacks = {reader.name: missing for reader in readers if (missing := reader.missing()).any()}
    rows = len(readers[0].parts[0])
    if not rows:
        raise SpecError((*_SOURCE, "label"), spec.label, "the table has no rows")
    needed = lacks if spec.missing != "indicator" else {reader.name: lacks[reader.name] for reader in must if reader.name in lacks}
    left_out = np.any([*needed.values()], axis=0) if needed else np.zeros(rows, dtype=np.bool_)
    counts = ", ".join(f"{name} {missing.sum():,}" for name, missing in lacks.items())
    if left_out.all() or (lacks and spec.missing == "refuse"):
        remedy = "every row lacks one" if left_out.all() else f"`missing: drop` leaves out those {left_out.sum():,} rows of {rows:,}"
        keeps = "" if left_out.all() else ", and `missing: indicator` keeps those that lack inputs alone"
        raise SpecError((*_SOURCE, "missing"), spec.missing, f"values are missing (null, NaN or infinite): {counts}; {remedy}{keeps}")
    notes = []
    if left_out.any():
        why = ", ".join(f"{name} {missing.sum():,}" for name, missing in needed.items())
        notes.append(f"{left_out.sum():,} of {rows:,} rows lack a value and are left out: {why}")
    if told := [f"{name} {(missing & ~left_out).sum():,}" for name, missing in lacks.items() if name not in needed]:
        notes.append(f"rows without a value are kept, with an input that says so: {', '.join(told)}")
    return (~left_out if left_out.any() else None), notes


def _of_index(spec: Columns, schema: pa.Schema) -> list[str]:
    """A sentence on a column that numbers the rows, where it is left out."""
    names = [repr(name) if name else "without a name" for name in schema.names if name in INDEX]
    return [f"the column {name} numbers the rows, and is no feature" for name in names if spec.features is None]


def _of_kinds(yes_no: Sequence[str], since: Mapping[str, str]) -> list[str]:
    """Sentences on columns of words that are read as numbers."""
    found = [f"{_some(yes_no)}: yes is 1, no is 0"] if yes_no else []
    first = Counter(since.values())
    return found + [f"{_some([name for name in since if since[name] == one])}: dates, as days since the first, {one}" for one in first]


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are if not all of them are named."""
    return ", ".join(names[:_NAMED]) + (f", ... ({len(names):,} in all)" if len(names) > _NAMED else "")


def _label(spec: Columns, column: Column, kind: pa.DataType) -> tuple[NDArray[Any], Classes | None]:
    """Targets `[rows, 1]` and None; or classes `[rows]`, numbered in sorted order, and their values in the table."""
    measured = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    task = spec.task or ("regression" if measured else "classification")
    if task == "regression":
        if isinstance(column, Categorical):
            raise SpecError((*_SOURCE, "task"), task, f"the label {spec.label} is text; a regression needs numbers")
        return column[:, None], None
    classes: Classes
    codes: NDArray[Any]
    if isinstance(column, Categorical):
        classes, codes = column.words, column.codes
    else:
        if measured and (column != np.floor(column)).any():
            raise SpecError((*_SOURCE, "task"), task, f"the label {spec.label} holds fractions; classes are whole numbers or text")
        values, codes = np.unique(column, return_inverse=True)
        kinds = bool if pa.types.is_boolean(kind) else int
        classes = tuple(kinds(value) for value in values)
    if len(classes) < 2:
        raise SpecError((*_SOURCE, "label"), spec.label, f"every row has the same class, {classes[0]}")
    return codes.astype(np.int64), classes


def _group(name: str, group: Categorical, client: Categorical) -> NDArray[np.int64]:
    """The group of each client. Raises SpecError for a client in several groups."""
    pairs = np.unique(np.stack([client.codes, group.codes]), axis=1)
    twice = np.flatnonzero(np.diff(pairs[0]) == 0)
    if len(twice):
        who = pairs[0, twice[0]]
        words = ", ".join(group.words[code] for code in pairs[1, pairs[0] == who])
        raise SpecError((*_SOURCE, "group"), name, f"client {client.words[who]} is in several groups: {words}")
    groups: NDArray[np.int64] = pairs[1].astype(np.int64)
    return groups


def _fact(name: str, values: Column, client: Categorical) -> NDArray[np.float64]:
    """The value of each client. Raises SpecError where its rows have several, or one below 0."""
    assert not isinstance(values, Categorical)
    first = np.zeros(len(client.words))
    first[client.codes[::-1]] = values[::-1]  # the first row is written last
    other = np.flatnonzero((values != first[client.codes]) | (values < 0))
    if len(other):
        who = client.words[client.codes[other[0]]]
        found = ", ".join(f"{value:g}" for value in np.unique(values[client.codes == client.codes[other[0]]])[:5])
        raise SpecError(_FACT, name, f"client {who} has {found}: a client has one value in all its rows, 0 or more")
    return first
