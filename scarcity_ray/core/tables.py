"""The tables a run leaves: each schema declared once, with the unit and meaning of every column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


def column(name: str, kind: Any, unit: str, description: str, *, nullable: bool = False) -> pa.Field:
    """A column with its documentation; `unit` is "" where a value has none."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "description": description})


_WHO = [
    column("strategy", pa.string(), "", "the strategy's name in the scenario"),
    column("seed", pa.int64(), "", "the seed of this repeat"),
]

ROUNDS = pa.schema(
    [
        *_WHO,
        column("round", pa.int64(), "rounds", "communication round, from 1"),
        column("clients", pa.int64(), "clients", "clients that took part in this round"),
        column("rejected", pa.int64(), "messages", "updates and insights of this round that were rejected"),
        column(
            "train_loss",
            pa.float64(),
            "loss",
            "mean of the losses met in local training, weighted by samples; null in a round without local training",
            nullable=True,
        ),
        column("test_loss", pa.float64(), "loss", "mean over clients with test rows; null where not evaluated", nullable=True),
        column("test_accuracy", pa.float64(), "share", "mean over clients with test rows; null for regression", nullable=True),
        column("test_accuracy_worst_decile", pa.float64(), "share", "mean of the lowest max(1, n // 10) clients", nullable=True),
        column("test_loss_worst_decile", pa.float64(), "loss", "mean of the highest max(1, n // 10) clients", nullable=True),
        column("uplink_bytes", pa.int64(), "bytes", "sent up in this round by all clients together"),
        column("downlink_bytes", pa.int64(), "bytes", "sent down in this round to all clients together"),
        column("seconds", pa.float64(), "seconds", "wall clock from the end of the last round to the end of this one"),
    ]
)
"""One row a round. Loss is cross-entropy (nats), or squared error in the square of the label's unit."""

CLIENTS = pa.schema(
    [
        *_WHO,
        column("round", pa.int64(), "rounds", "the evaluated round, from 1"),
        column("client_id", pa.int64(), "", "the client, from 0"),
        column("group", pa.int64(), "", "the hidden group its data belong to; 0 where there are none"),
        column("num_train", pa.int64(), "rows", "training rows of the client"),
        column("num_test", pa.int64(), "rows", "test rows of the client"),
        column("test_loss", pa.float64(), "loss", "mean over the client's test rows; null without any", nullable=True),
        column("test_accuracy", pa.float64(), "share", "of its test rows; null without any, and for regression", nullable=True),
        column("uplink_bytes", pa.int64(), "bytes", "sent up by this client in this run so far"),
        column("downlink_bytes", pa.int64(), "bytes", "sent down to this client in this run so far"),
        column("expert_id", pa.int64(), "", "the expert it belongs to, from 0; null where there are none", nullable=True),
        column("confidence", pa.float64(), "share", "how sure its expert is: the responsibility, from 1 / experts to 1", nullable=True),
        column("contribution", pa.float64(), "loss", "what it spares the others of its expert: ensemble.contribution", nullable=True),
        column("contribution_whole", pa.float64(), "loss", "what it spares all others where one head serves all", nullable=True),
    ]
)
"""One row a client for each evaluated round."""


def insights(scalar_part: pa.Schema, payloads: pa.Schema | None = None) -> pa.Schema:
    """The schema of the insight table: strategy and seed, then the scalar part of an insight, then what else it may carry."""
    return pa.schema([*_WHO, *scalar_part, *(payloads or ())])


def insight_rows(rows: pa.RecordBatch, schema: pa.Schema, strategy: str, seed: int) -> pa.RecordBatch:
    """Insights of the history as rows of the insight table; a payload that they do not have is null."""
    who = {"strategy": strategy, "seed": seed}
    arrays = [
        pa.repeat(pa.scalar(who[field.name], field.type), len(rows))
        if field.name in who
        else rows.column(field.name).cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def wall_clock(name: str) -> bool:
    """Whether a column holds wall-clock time: the only columns that differ between two runs of one scenario."""
    return "second" in name or name.endswith("_at")


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
