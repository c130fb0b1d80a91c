"""The tables of a run: each schema declared once, with the unit and meaning of every column, and what the result hash covers.

Columns follow from the list of metrics, so `rounds` and `clients` are functions: a metric may be registered at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from scarcity_ray.core.metrics import GLOBAL, HIGH, LOW, POOLED, UNDEFINED, WORST, Metric
from scarcity_ray.metrics import METRICS

SCHEMA_VERSION = (1, 4)
"""Of the tables, major and minor, in the metadata of every file. Minor: columns were added, which older runs lack and older programs
ignore. Major: older programs would misread the tables and must refuse them. Files that state no version have 1.0. From 1.2 on a run has
columns for the details (`Metric.detail`) that apply to it, and no others."""

Hashed = Literal["yes", "unless_null", "no"]


def column(
    name: str, kind: Any, unit: str, description: str, *, nullable: bool = False, hashed: Hashed = "yes", wall_clock: bool = False
) -> pa.Field:
    """A column with its documentation; `unit` is "" where a value has none.

    hashed: whether the result hash covers it. "yes", with its nulls: the columns of version 1.0. A column that is added later must
    change no older hash: it is "unless_null", covered once it has a value in any row, or "no". wall_clock: it holds measured time,
    so it differs between two runs of one scenario; the hash does not cover it, and verification does not compare it.
    """
    documentation = {"unit": unit, "description": description, "hashed": "no" if wall_clock else hashed}
    return pa.field(name, kind, nullable=nullable, metadata=documentation | {"wall_clock": "yes" if wall_clock else "no"})


def hashed_as(field: pa.Field) -> Hashed:
    """How the result hash covers a column; one that does not state it is covered."""
    stated = (field.metadata or {}).get(b"hashed")
    return "no" if stated == b"no" else "unless_null" if stated == b"unless_null" else "yes"


def is_wall_clock(field: pa.Field) -> bool:
    """Whether a column holds measured time."""
    return (field.metadata or {}).get(b"wall_clock") == b"yes"


def is_optional(field: pa.Field) -> bool:
    """Whether the runs of an older version may lack a column: it was added later."""
    return field.nullable and hashed_as(field) != "yes"


_WHO = [
    column("strategy", pa.string(), "", "the strategy's name in the scenario"),
    column("seed", pa.int64(), "", "the seed of this repeat"),
]

_FIRST = ("test_loss", "test_accuracy", "test_accuracy_worst_decile", "test_loss_worst_decile")
"""Metrics' columns of version 1.0, in their order; all later ones stand at the end of a table.

Only these are hashed. Another metric is an observation: it changes no result, so measuring it must not change the hash.
"""


_OWN_NAME = column("client", pa.string(), "", "its name in the user's table; null where it has none", nullable=True, hashed="no")
_EXACT = (
    ("exact", "contribution without its approximation; null where that takes too long: ensemble.contribution"),
    ("low", "lower end of its 95 % interval"),
    ("high", "upper end of its 95 % interval; below 0: it harms the others"),
)
_GAIN = "in the metric that decides, over the client at its best alone, after the last round; above 0: better"


_SCARCE_ROUND = (
    ("clock_seconds", pa.float64(), "seconds", "the simulated clock at the end of the round; null without scarcity, as what follows"),
    ("available", pa.int64(), "clients", "clients that were there and could pay when the round began"),
    ("selected", pa.int64(), "clients", "clients that the server selected"),
    ("late", pa.int64(), "clients", "selected clients that missed the round's deadline"),
    ("dropped", pa.int64(), "clients", "selected clients that failed, or were gone when they would have finished"),
    ("excluded", pa.int64(), "clients", "clients that take part in no more rounds: a budget is spent, or their memory is too small"),
    ("wasted_bytes", pa.int64(), "bytes", "up and down, of selected clients whose work counted in no round"),
    ("joules", pa.float64(), "joules", "energy of all clients in this round"),
)
_SCARCE_CLIENT = (
    ("rounds_joined", pa.int64(), "rounds", "rounds so far in which the client was heard; null without scarcity, as what follows"),
    ("busy_seconds", pa.float64(), "seconds", "simulated time of its own in rounds so far"),
    ("joules", pa.float64(), "joules", "its energy so far"),
    ("battery", pa.float64(), "joules", "what is left in its battery; null on mains"),
    ("excluded_by", pa.string(), "", "why it takes part in no more rounds: memory, or the budget that is spent; null where it may"),
)


def rounds(metrics: Iterable[Metric] | None = None) -> pa.Schema:
    """One row a round. Loss is cross-entropy (nats), or squared error in the square of the label's unit.

    metrics: those of a run, all that are registered if None.
    """
    measured = {field.name: field for metric in (METRICS if metrics is None else metrics) for field in _of_round(metric)}
    return _table(
        *_WHO,
        column("round", pa.int64(), "rounds", "communication round, from 1"),
        column("clients", pa.int64(), "clients", "clients that took part in this round"),
        column("rejected", pa.int64(), "messages", "updates and insights of this round that were rejected"),
        column(
            "train_loss",
            pa.float64(),
            "loss",
            "mean of the losses in local training, weighted by samples; null in a round without local training",
            nullable=True,
        ),
        *(measured.pop(name) for name in _FIRST),
        column("uplink_bytes", pa.int64(), "bytes", "sent up in this round by all clients together"),
        column("downlink_bytes", pa.int64(), "bytes", "sent down in this round to all clients together"),
        column("seconds", pa.float64(), "seconds", "wall clock from the end of the last round to the end of this one", wall_clock=True),
        *measured.values(),
        *(column(name, kind, unit, what, nullable=True, hashed="unless_null") for name, kind, unit, what in _SCARCE_ROUND),
    )


def clients(metrics: Iterable[Metric] | None = None) -> pa.Schema:
    """One row a client for each evaluated round. metrics: as for `rounds`."""
    measured = {field.name: field for metric in (METRICS if metrics is None else metrics) for field in _of_client(metric)}
    return _table(
        *_WHO,
        column("round", pa.int64(), "rounds", "the evaluated round, from 1"),
        column("client_id", pa.int64(), "", "the client, from 0"),
        column("group", pa.int64(), "", "the hidden group its data belong to; 0 where there are none"),
        column("num_train", pa.int64(), "rows", "training rows of the client"),
        column("num_test", pa.int64(), "rows", "test rows of the client"),
        *(measured.pop(name) for name in _FIRST[:2]),
        column("uplink_bytes", pa.int64(), "bytes", "sent up by this client in this run so far"),
        column("downlink_bytes", pa.int64(), "bytes", "sent down to this client in this run so far"),
        column("expert_id", pa.int64(), "", "the expert it belongs to, from 0; null where there are none", nullable=True),
        column("confidence", pa.float64(), "share", "the responsibility of its expert, from 1 / experts to 1", nullable=True),
        column("contribution", pa.float64(), "loss", "what it saves the others of its expert: ensemble.contribution", nullable=True),
        column("contribution_whole", pa.float64(), "loss", "what it saves all others where one head serves all", nullable=True),
        *measured.values(),
        *(column(f"contribution_{part}", pa.float64(), "loss", what, nullable=True, hashed="no") for part, what in _EXACT),
        *(
            column(f"gain{half}{part}", pa.float64(), "", f"{what}{where}", nullable=True, hashed="no")
            for half, where in (("", ""), ("_0", ", on one half of the test rows"), ("_1", ", on the other half"))
            for part, what in (("", _GAIN), ("_error", "standard error of the gain, from the test rows"))
        ),
        _OWN_NAME,
        column("screening_weight", pa.float64(), "", "what its message counted: ensemble.screening", nullable=True, hashed="no"),
        *(column(name, kind, unit, what, nullable=True, hashed="unless_null") for name, kind, unit, what in _SCARCE_CLIENT),
    )


def _of_round(metric: Metric) -> list[pa.Field]:
    """The columns of a metric in `rounds`."""
    name, kind, unit = metric.column, pa.float64(), metric.unit
    least = "lowest" if metric.higher_is_better else "highest"
    where = "null where not evaluated" + (f", and for tasks other than {metric.tasks[0]}" if len(metric.tasks) == 1 else "")
    hashed: Hashed = "yes" if name in _FIRST else "no"
    worst = f"mean of the {least} max(1, n // 10) clients"
    if metric.ideal is not None:
        worst = f"mean distance from {metric.ideal:g} of the max(1, n // 10) clients that are farthest from it"
    ends = (LOW, HIGH) if metric.has_interval else ()
    without = f"clients whose {metric.part} rows have no {name}, which are left out of its mean"
    return [
        column(name, kind, unit, f"mean over clients with {metric.part} rows; {where}", nullable=True, hashed=hashed),
        column(f"{name}{WORST}", kind, unit, worst, nullable=True, hashed=hashed),
        column(f"{name}{POOLED}", kind, unit, f"over all {metric.part} rows of all clients; {where}", nullable=True, hashed="no"),
        *(column(f"{name}{end}", kind, unit, f"95 % interval over all rows; {where}", nullable=True, hashed="no") for end in ends),
        *([column(f"{name}{UNDEFINED}", pa.int64(), "clients", without, nullable=True, hashed="no")] if metric.partial else []),
    ]


def _of_client(metric: Metric) -> list[pa.Field]:
    """The columns of a metric in `clients`."""
    name, kind, unit, words = metric.column, pa.float64(), metric.unit, metric.description
    first = name in _FIRST
    beside = f"the same of the global model, where the client is tested with a personal one: {words}"
    also = [] if metric.detail else [column(f"{name}{GLOBAL}", kind, unit, beside, nullable=True, hashed="unless_null" if first else "no")]
    return [column(name, kind, unit, f"{words}; null where it has no value", nullable=True, hashed="yes" if first else "no"), *also]


def predictions(task: str, outputs: int) -> pa.Schema:
    """One row a test row of each client, after the last round. outputs: classes, or targets a row; 0 for the columns of any run."""
    which = [f"p_{place}" for place in range(outputs)]
    if task == "classification":
        words = [(name, f"probability of class {place}") for place, name in enumerate(which)]
        answers = [column(name, pa.float64(), "probability", said, nullable=True, hashed="no") for name, said in words]
        true = [column("y", pa.int64(), "", "the true class, from 0", hashed="no")] if outputs else []
    else:
        ends = [""] if outputs == 1 else [f"_{place}" for place in range(outputs)]
        true = [column(f"y{end}", pa.float64(), "label", "the true target", hashed="no") for end in ends]
        answers = [column(f"prediction{end}", pa.float64(), "label", "the model's answer", nullable=True, hashed="no") for end in ends]
    return _table(
        *_WHO,
        column("client_id", pa.int64(), "", "the client, from 0", hashed="no"),
        _OWN_NAME,
        column("row", pa.int64(), "rows", "place among the client's test rows, from 0", hashed="no"),
        *true,
        *answers,
    )


def insights(scalar_part: pa.Schema, payloads: pa.Schema | None = None) -> pa.Schema:
    """The schema of the insight table: strategy and seed, then the scalar part of an insight, then what else it may carry."""
    return _table(*_WHO, *scalar_part, *(payloads or ()))


def _table(*fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"schema_version": ".".join(map(str, SCHEMA_VERSION))})


def version_of(schema: pa.Schema) -> tuple[int, int]:
    """The version of a stored table. Raises ValueError where it states one that is no version."""
    stated = (schema.metadata or {}).get(b"schema_version", b"1.0")
    if not re.fullmatch(rb"\d{1,6}\.\d{1,6}", stated):
        raise ValueError(f"its schema_version is {stated[:20]!r}, not two numbers")
    major, minor = map(int, stated.split(b"."))
    return major, minor


def conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Stored rows in a schema of this version: a column that they lack is null, one that the schema does not have is left out."""
    return pa.RecordBatch.from_arrays([_column_of(rows, field) for field in schema], schema=schema)


def _column_of(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    return rows.column(field.name).cast(field.type) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)


def insight_rows(rows: pa.RecordBatch, schema: pa.Schema, strategy: str, seed: int) -> pa.RecordBatch:
    """Insights of the history as rows of the insight table; a payload that they do not have is null."""
    who = {"strategy": strategy, "seed": seed}
    arrays = [
        pa.repeat(pa.scalar(who[field.name], field.type), len(rows)) if field.name in who else _column_of(rows, field) for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def batch(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Rows of a table from arrays `[n]`, and scalars that hold for all n rows; n is 1 where all are scalars.

    A float that is not a number becomes null, and a nullable column may be left out. Raises ValueError for a column
    that the schema does not have, that is missing, of another length or type, or null where it must not be.
    """
    unknown = sorted(set(columns) - set(schema.names))
    if unknown:
        raise ValueError(f"no such column: {', '.join(unknown)}; there are {', '.join(schema.names)}")
    lengths = {len(value) for value in columns.values() if np.ndim(value)}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    length = lengths.pop() if lengths else 1
    return pa.RecordBatch.from_arrays([_array(field, columns.get(field.name), length) for field in schema], schema=schema)


def _array(field: pa.Field, value: Any, length: int) -> pa.Array:
    if isinstance(value, str) or np.ndim(value) == 0:
        value = value if isinstance(value, str) or value is None else np.asarray(value).item()
        missing = value is None or value != value
        array = pa.nulls(length, field.type) if missing else pa.repeat(_scalar(field, value), length)
    else:
        try:
            array = pa.array(np.asarray(value), from_pandas=True).cast(field.type)
        except pa.ArrowException as error:
            raise ValueError(f"column {field.name}: {error}") from error
    if array.null_count and not field.nullable:
        raise ValueError(f"column {field.name} has no value in {array.null_count} of {length} rows")
    return array


def _scalar(field: pa.Field, value: Any) -> pa.Scalar:
    try:
        return pa.scalar(value, field.type)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"column {field.name} cannot hold {value!r}: {error}") from error
