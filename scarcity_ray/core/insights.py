"""Insights: their schema, their packed bytes, and `validate_insights`, which decides which rows may be used for learning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.core.tables import column

SCHEMA = pa.schema(
    [
        column("run", pa.string(), "", "the scenario's name; both ends know it, so it does not travel"),
        column("round", pa.int32(), "rounds", "communication round, from 1"),
        column("client_id", pa.int32(), "", "the client, from 0"),
        column("expert_id", pa.int32(), "", "the expert the client belongs to; 0 where there is one, or none"),
        column("num_samples", pa.int32(), "rows", "training rows of the client, at least 1"),
        column("steps", pa.int32(), "steps", "local steps of this round; 0 where the round has no local training"),
        column("lr", pa.float32(), "", "step size of the local training"),
        column("epochs", pa.float32(), "epochs", "passes over the training rows: steps / minibatches of a pass"),
        column("mean_grad", pa.float32(), "", "mean over the local steps of the norm of the minibatch's gradient; 0 without steps"),
        column("std_grad", pa.float32(), "", "standard deviation of the same norms"),
        column("uncertainty", pa.float32(), "share", "from 0 to 1, see training.measures.uncertainty"),
        column(
            "loss_before",
            pa.float32(),
            "loss",
            "mean loss before the round's training, over training (or validation) rows; of standardised labels",
        ),
        column("loss_after", pa.float32(), "loss", "the same after it"),
        column("loss_improvement", pa.float32(), "loss", "loss_before - loss_after; derived, it does not travel"),
        column("train_seconds", pa.float32(), "seconds", "wall clock of the local training; it enters no computation", wall_clock=True),
    ]
)
"""The scalar part of an insight: a row of the history. Each number has 32 bits, as in the packed message."""

PAYLOADS = pa.schema(
    [
        column(name, pa.list_(pa.field("item", pa.float32(), nullable=False)), "", f"{what}; null where it did not travel", nullable=True)
        for name, what in (
            ("survey", "sum of the inputs and of their squares: ensemble.representation.survey"),
            ("pilot", "moments of few features at several bandwidths: ensemble.pilot"),
            ("moments", "moments of the features and targets, packed: ensemble.moments.Packing"),
            ("trial", "squared error of its left-out rows on each block of features: ensemble.choice"),
            ("prototypes", "mean of each class's features and its number of rows: ensemble.class_means.class_means"),
            ("gradient", "change of the model in local training, in the round's random basis: strategies.gradient_exchange.Basis"),
        )
    ]
)
"""The optional payload of an insight: at most one of these columns."""

_DERIVED = ("run", "loss_improvement")
_MAX_NAME = 200  # characters of a run's name
_HUGE = 2.0**100  # about 1.3e30: honest values are far below it, and float64 can still sum the squares of values below it
_BOUNDS = {"num_samples": (1, _HUGE), "uncertainty": (0, 1), "loss_improvement": (-_HUGE, _HUGE)}

Rejection = tuple[int | None, str]
"""The client id of a rejected row (None if it cannot be read), and the reason."""


@dataclass(frozen=True)
class Sent:
    """What one sender sent: a record batch, or something malformed. clients: ids of the clients that it sends for; None for any."""

    clients: Collection[int] | None
    insights: Any


def schema(payload: Mapping[str, int] | None = None) -> pa.Schema:
    """The history's row: the scalar part, then each payload column as that many float32 numbers. The columns have no documentation here,
    because every round would store it."""
    scalars = [pa.field(field.name, field.type, nullable=False) for field in SCHEMA]
    item = pa.field("item", pa.float32(), nullable=False)
    return pa.schema(scalars + [pa.field(name, pa.list_(item, size), nullable=False) for name, size in (payload or {}).items()])


def of_table(rows: pa.Table, payload: Mapping[str, int] | None = None) -> pa.RecordBatch:
    """The insights of a round as the history has them, from their rows of the insight table. Raises ArrowInvalid for a payload of the
    wrong size."""
    columns = [rows[field.name].combine_chunks().cast(field.type) for field in schema(payload)]
    return pa.RecordBatch.from_arrays(columns, schema=schema(payload))


def wire(payload: Mapping[str, int] | None = None) -> np.dtype[np.void]:
    """The packed little-endian record that is sent: 13 numbers of 4 bytes, then 4 bytes for each number of the payload.

    >>> wire().itemsize, wire({"prototypes": 10}).itemsize
    (52, 92)
    """
    scalars = [(field.name, "<i4" if pa.types.is_integer(field.type) else "<f4") for field in SCHEMA if field.name not in _DERIVED]
    return np.dtype([*scalars, *((name, "<f4", (size,)) for name, size in (payload or {}).items())])


def wire_bytes(payload: Mapping[str, int] | None = None) -> int:
    """Bytes of one packed insight."""
    return wire(payload).itemsize


def pack(row: Mapping[str, Any], payload: Mapping[str, int] | None = None) -> bytes:
    """One insight as packed bytes. Raises KeyError for a missing field, OverflowError or ValueError for a value that does not fit."""
    record = np.zeros((), dtype=wire(payload))
    for name in record.dtype.names or ():
        record[name] = row[name]
    return record.tobytes()


def unpack(message: bytes, run: str = "", payload: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The insight of a packed message, by the names of `schema(payload)`. Raises ValueError for a message of the wrong length."""
    kind = wire(payload)
    if len(message) != kind.itemsize:
        raise ValueError(f"an insight is {kind.itemsize} bytes long, but this message is {len(message)} bytes long")
    record = np.frombuffer(message, dtype=kind)[0]
    row = {name: record[name].tolist() for name in kind.names or ()}
    row |= {"run": run, "loss_improvement": float(record["loss_before"] - record["loss_after"])}
    return {name: row[name] for name in schema(payload).names}


def make(run: str, round: int, columns: Mapping[str, ArrayLike], payload: Mapping[str, ArrayLike] | None = None) -> pa.RecordBatch:
    """The insights of k clients, sorted by client id.

    columns: an array `[k]` (or one number for all) for each field that is sent, except `round`. payload: `[k, n]` each.
    Nothing is validated here: a value that is not finite is kept, and `validate_insights` rejects its row later.
    """
    order = np.argsort(np.asarray(columns["client_id"]), kind="stable")
    values: dict[str, Any] = {name: np.broadcast_to(np.asarray(value), order.shape)[order] for name, value in columns.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        payloads = {name: np.asarray(value, dtype=np.float32)[order] for name, value in (payload or {}).items()}
        before, after = (np.asarray(values[name], dtype=np.float32) for name in ("loss_before", "loss_after"))
        values |= {"run": [run] * len(order), "round": np.full(len(order), round), "loss_improvement": before - after, **payloads}
    return _batch(schema({name: value.shape[1] for name, value in payloads.items()}), values)


def merge(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of batches of one schema, sorted by client id. The order of the batches makes no difference."""
    parts = list(batches) or [_batch(schema(), {name: [] for name in SCHEMA.names})]
    table = pa.Table.from_batches(parts)
    ids = table["client_id"].to_numpy()
    if np.any(ids[1:] < ids[:-1]):
        table = table.take(pa.array(np.argsort(ids, kind="stable")))
    rows = table.combine_chunks().to_batches()
    return rows[0] if rows else parts[0].slice(0, 0)


def validate_insights(
    insights: Any,
    *,
    payload: Mapping[str, int] | None = None,
    run: str | None = None,
    round: int | None = None,
    clients: Collection[int] | None = None,
) -> tuple[pa.RecordBatch, list[Rejection]]:
    """The valid rows, sorted by client id, and for each rejected row its client and the reason.

    insights: a record batch, or a list of dicts, each with exactly the fields of `schema(payload)`.

    A row is valid if
    - each value has its type, is finite and lies within its range,
    - the payload has its length,
    - the improvement is the difference of the two losses,
    - run and round are those given (None: any),
    - its client is one of `clients` (None: any id) and has no valid row before this one.

    Invalid rows never raise an error, whatever they contain.
    """
    wanted = schema(payload)
    rejections: list[Rejection] = []
    if isinstance(insights, pa.RecordBatch) and insights.schema.equals(wanted) and _intact(insights):
        batch = insights
    else:
        rows = []
        for row in _rows(insights):
            typed = _typed(row, wanted)
            if isinstance(typed, str):
                rejections.append((_client(row), typed))
            else:
                rows.append(typed)
        batch = _batch(wanted, {name: [row[name] for row in rows] for name in wanted.names})

    reasons = _reasons(batch, run, round, clients)
    good = np.flatnonzero(reasons == "")
    ids = batch["client_id"].take(pa.array(good)).to_numpy()
    first = good[np.unique(ids, return_index=True)[1]]
    reasons[np.setdiff1d(good, first)] = "its client already has an insight in this round"
    refused = np.flatnonzero(reasons != "")
    rejections += zip(batch["client_id"].take(pa.array(refused)).to_pylist(), reasons[refused].tolist(), strict=True)
    return merge([batch if len(first) == len(batch) else batch.take(pa.array(first))]), rejections


def _batch(wanted: pa.Schema, values: Mapping[str, Any]) -> pa.RecordBatch:
    """A batch of the schema from columns of any number types. A number too large for a float of 32 bits becomes infinite."""
    columns = []
    for field in wanted:
        if pa.types.is_string(field.type):
            columns.append(pa.array(values[field.name], field.type))
        elif pa.types.is_integer(field.type):
            columns.append(pa.array(np.asarray(values[field.name], dtype=np.int64)).cast(field.type))
        else:
            with np.errstate(over="ignore"):
                numbers = pa.array(np.asarray(values[field.name], dtype=np.float32).reshape(-1))
            listed = pa.types.is_fixed_size_list(field.type)
            columns.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type) if listed else numbers)
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _intact(batch: pa.RecordBatch) -> bool:
    """Whether the batch's bytes agree with its schema."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rows(insights: Any) -> list[Any]:
    """Rows to validate one by one."""
    if isinstance(insights, pa.RecordBatch):
        if len(set(insights.schema.names)) < len(insights.schema.names):  # a row as a dict would keep only one of equal names
            return [None] * insights.num_rows
        try:
            return list(insights.to_pylist())
        except Exception:  # columns of another schema may contain anything, also text that is not UTF-8
            return [None] * insights.num_rows
    try:
        return list(insights) if isinstance(insights, Iterable) else [insights]
    except Exception:  # a hostile iterable may raise anything when it is read
        return [None]


def _client(row: Any) -> int | None:
    """The client id of a rejected row; None if it has none."""
    try:
        value = row["client_id"]
        number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
        return number if number is not None and abs(number) < 2**63 else None
    except Exception:  # a hostile row may raise anything when it is read
        return None


def _typed(row: Any, wanted: pa.Schema) -> dict[str, Any] | str:
    """The values of a row given as a mapping, each converted to its column's type; or the reason why that is impossible."""
    try:
        if not isinstance(row, Mapping):
            return f"it is {type(row).__name__}, not a mapping of fields"
        missing = [name for name in wanted.names if name not in row]
        if missing:
            return f"these fields are missing: {', '.join(missing)}"
        if len(row) > len(wanted):
            return f"it has {len(row) - len(wanted)} unknown fields"
        return {field.name: _value(field, row[field.name]) for field in wanted}
    except _Mistyped as error:
        return str(error)
    except Exception as error:  # a hostile row may raise anything when it is read
        return f"it cannot be read ({type(error).__name__})"


class _Mistyped(TypeError):
    """A value that does not fit its column's type."""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME and value.isascii()


def _value(field: pa.Field, value: Any) -> Any:
    """A value of a mapping, converted to the column's type."""
    if pa.types.is_string(field.type):
        if not _is_name(value):
            raise _Mistyped(f"{field.name} is not a name of at most {_MAX_NAME} ASCII characters")
        return str(value)
    if pa.types.is_fixed_size_list(field.type):
        numbers = np.asarray(value) if len(value) == field.type.list_size else np.empty(0)
        if numbers.dtype.kind not in "fiu" or numbers.shape != (field.type.list_size,):
            raise _Mistyped(f"{field.name} is not {field.type.list_size} numbers")
        return numbers
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _Mistyped(f"{field.name} is {type(value).__name__}, not a number")
    if not pa.types.is_integer(field.type):
        return float(value)
    if not isinstance(value, Integral):
        raise _Mistyped(f"{field.name} is {type(value).__name__}, not a whole number")
    if not -(2**31) <= int(value) < 2**31:
        raise _Mistyped(f"{field.name} does not fit in 32 bits")
    return int(value)


def _reasons(batch: pa.RecordBatch, run: str | None, round: int | None, clients: Collection[int] | None) -> NDArray[np.object_]:
    """For each row of a batch the first rule that it breaks, as text; "" for a valid row."""
    reasons = np.full(len(batch), "", dtype=object)

    def require(holds: Any, reason: str) -> None:
        reasons[(reasons == "") & ~np.asarray(holds, dtype=np.bool_)] = reason

    values: dict[str, NDArray[Any]] = {}
    for field in batch.schema:
        array = batch[field.name]
        present = array.is_valid().to_numpy(zero_copy_only=False)
        require(present, f"{field.name} is null")
        if pa.types.is_fixed_size_list(field.type):
            finite = np.zeros(len(batch), dtype=np.bool_)
            numbers = array.flatten().to_numpy(zero_copy_only=False)  # `flatten` leaves out null lists
            finite[present] = np.all(np.abs(numbers.reshape(-1, field.type.list_size)) <= _HUGE, axis=1)
            require(finite, f"{field.name} has a value that is not finite, or larger than {_HUGE:g}")
        elif pa.types.is_string(field.type):
            names = array.to_pylist()
            require([_is_name(name) for name in names], f"{field.name} is not a name of at most {_MAX_NAME} ASCII characters")
            require(run is None or np.array(names, dtype=object) == run, f"{field.name} is not {run!r}")
        else:
            low, high = _BOUNDS.get(field.name, (0, _HUGE))
            values[field.name] = numbers = array.to_numpy(zero_copy_only=False)  # a null becomes NaN, which is outside all bounds
            require((numbers >= low) & (numbers <= high), f"{field.name} is not a number from {low:g} to {high:g}")
    before, after, improvement = (values[f"loss_{name}"].astype(np.float64) for name in ("before", "after", "improvement"))
    with np.errstate(invalid="ignore"):  # infinite losses, rejected above
        derived = np.abs(improvement - (before - after)) <= 1e-6 * (np.abs(before) + np.abs(after))  # equal up to rounding
    require(derived, "loss_improvement is not loss_before - loss_after")
    require(round is None or values["round"] == round, f"it does not belong to round {round}")
    if clients is not None:
        require(np.isin(values["client_id"], np.fromiter(clients, dtype=np.int64)), "its client is unknown to this receiver")
    return reasons
