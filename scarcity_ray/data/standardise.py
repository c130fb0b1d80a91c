"""The clients standardise columns together: with summed moments for numbers and the union of categories for text.

The messages are sent once. Up, from each client: a packed little-endian record (count u32; mean f32 and M2 f32, the sum of
squared deviations, of each numeric column over its training rows) and its own categories, each as a length byte and UTF-8, with a
byte 255 between text columns. Down, to each client: mean f32 and standard deviation f32 of each numeric column, and the union of
the categories. Where rows without a value are kept, the record has the number of values of each numeric column too (u32), and the
answer a byte for each that says whether any client lacks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import AnyInput, Array, Date, Missing, Number, Scaled, Words, WordsOrNone, YesNo
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.pool import Categorical, Column, Pool

LONGEST_WORD = 254  # bytes; the length is one byte, in which 255 is the mark between two columns


def upload(columns: Sequence[NDArray[np.float64]], starts: NDArray[np.int64], gaps: bool = False) -> NDArray[Any]:
    """The clients' records: a structured array `[clients]` of count, mean `[columns]` and m2 `[columns]`; with gaps, also of the number
    of values `[columns]`, as NaN is none.

    columns: training rows, client after client. Client m has the rows `starts[m]:starts[m + 1]`, at least one.
    """
    counts, shape = np.diff(starts), (len(columns),)
    kinds: list[Any] = [("count", "<u4"), ("mean", "<f4", shape), ("m2", "<f4", shape)]
    records = np.empty(len(counts), dtype=[*kinds, ("values", "<u4", shape)] if gaps else kinds)
    records["count"] = counts
    for place, column in enumerate(columns):
        there, values = counts, column
        if gaps:
            known = np.isfinite(column)
            records["values"][:, place] = np.add.reduceat(known, starts[:-1], dtype=np.int64)
            there, values = np.maximum(records["values"][:, place], 1), np.where(known, column, 0.0)
        mean = np.add.reduceat(values, starts[:-1]) / there
        off = values - np.repeat(mean, counts)
        records["mean"][:, place] = mean
        records["m2"][:, place] = np.add.reduceat((np.where(known, off, 0.0) if gaps else off) ** 2, starts[:-1])
    return records


def merge(records: NDArray[Any]) -> NDArray[Any]:
    """The server's answer: a structured array `[1]` of mean and std `[columns]` over all clients' rows.

    The formula of Chan, Golub and LeVeque (1979) for many parts: M2 = sum M2_i + sum n_i (mean_i - mean)^2. If a column varies by
    less than the precision of float32, its std is 1: it is only centred. A column without any value has mean 0.
    """
    gaps = "values" in (records.dtype.names or ())
    counts = records["values"].astype(np.float64) if gaps else records["count"].astype(np.float64)[:, None]
    means, total = records["mean"].astype(np.float64), np.maximum(counts.sum(axis=0), 1.0)
    mean = (counts * means).sum(axis=0) / total
    m2 = records["m2"].astype(np.float64).sum(axis=0) + (counts * (means - mean) ** 2).sum(axis=0)
    std = np.sqrt(m2 / total)
    scale = np.empty(1, dtype=[("mean", "<f4", mean.shape), ("std", "<f4", mean.shape)])
    scale["mean"], scale["std"] = mean, np.where(std <= np.finfo(np.float32).eps * np.abs(mean), 1.0, std)
    return scale


def spread(columns: Sequence[Column], inputs: Sequence[AnyInput]) -> NDArray[np.float32]:
    """Inputs `[rows, width]` from columns in the same order: numbers standardised (a missing one: 0), text one-hot (an unknown word: all
    zeros).

    The codes of a text column are places in the words of its input.
    """
    rows = len(columns[0].codes if isinstance(columns[0], Categorical) else columns[0])
    width = sum(len(column.words) if isinstance(column, Words) else 1 for column in inputs)
    x = np.zeros((rows, width), dtype=np.float32)
    at = 0
    for column, how in zip(columns, inputs, strict=True):
        if isinstance(how, Words):
            assert isinstance(column, Categorical)
            known = np.flatnonzero(column.codes >= 0)
            x[known, at + column.codes[known]] = 1.0
            at += len(how.words)
        else:
            assert not isinstance(column, Categorical)
            if isinstance(how, Scaled):
                scaled = (column - how.mean) / how.std
                x[:, at] = np.where(np.isnan(scaled), 0.0, scaled)
            else:
                x[:, at] = np.isnan(column)
            at += 1
    return x


@dataclass(frozen=True)
class Standardised:
    """Standardised rows.

    x: float32 inputs `[rows, width]`.
    y: float32 targets `[rows, outputs]`, or int64 classes `[rows]`.
    inputs: how each column became inputs.
    label_mean, label_scale: a target of 0, and one unit of a target, in the user's unit.
    uplink_bytes, downlink_bytes: int64 `[clients]`, bytes that each client sent and received.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    inputs: tuple[AnyInput, ...] | Array
    label_mean: float
    label_scale: float
    uplink_bytes: NDArray[np.int64]
    downlink_bytes: NDArray[np.int64]


def standardise(pool: Pool, client: NDArray[np.int64], training: NDArray[np.bool_], clients: int) -> Standardised:
    """Standardises numeric columns and float targets, and encodes text columns one-hot, in the order of the columns.

    client: the client of each row, ascending. Ids from `clients` on are unseen clients: their rows are converted like the
    others, but have no influence on moments and words.
    training: the rows that moments are computed from. Words come from all rows of the participants, so that the width of the
    inputs does not depend on the split.
    Raises SpecError for numbers that are too large to be summed.
    """
    assert isinstance(pool.x, tuple)
    rows = int(np.searchsorted(client, clients))  # rows of the participants, which come first
    columns = [_known(column, rows) if isinstance(column, Categorical) else column for column in pool.x]
    targets = [pool.y[:, 0]] if pool.y.dtype.kind == "f" else []
    numeric = [column for column in columns if not isinstance(column, Categorical)] + targets
    texts = [column for column in columns if isinstance(column, Categorical)]
    up, down = np.zeros(clients, dtype=np.int64), np.zeros(clients, dtype=np.int64)
    mean = std = np.empty(0, dtype=np.float32)
    if numeric:
        starts = np.concatenate([[0], np.cumsum(np.bincount(client[training], minlength=clients))])
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
            records = upload([column[training] for column in numeric], starts, pool.indicators)
            scale = merge(records)
        mean, std = scale["mean"][0], scale["std"][0]
        up += records.dtype.itemsize
        down += scale.dtype.itemsize + (len(numeric) if pool.indicators else 0)
    for place, text in enumerate(texts):
        sizes = np.array([1 + len(word.encode()) for word in text.words])
        owner, word = np.divmod(np.unique(client[:rows] * len(text.words) + text.codes[:rows]), len(text.words))
        mark = int(place > 0)
        up += np.bincount(owner, weights=sizes[word], minlength=clients).astype(np.int64) + mark
        down += int(sizes.sum()) + mark

    inputs: list[AnyInput] = []
    whole: list[Column] = []
    moments = zip(mean.tolist(), std.tolist(), strict=True)
    for column, (name, power) in zip(columns, pool.inputs, strict=True):
        whole.append(column)
        if isinstance(column, Categorical):
            inputs.append((WordsOrNone if column.lacking else Words)(name=name, words=column.words))
            continue
        inputs.append(_scaled(pool, name, power, *_finite("features", name, *next(moments))))
        if pool.indicators and np.isnan(column[:rows]).any() and Missing(name=name) not in inputs:
            whole.append(column)
            inputs.append(Missing(name=name))
    x = spread(whole, inputs)
    if not targets:
        return Standardised(x, pool.y, tuple(inputs), 0.0, 1.0, up, down)
    centre, unit = _finite("label", pool.label, *next(moments))
    return Standardised(x, ((pool.y - centre) / unit).astype(np.float32), tuple(inputs), centre, unit, up, down)


def _known(text: Categorical, rows: int) -> Categorical:
    """The same column with only the words of its first `rows` rows. A row with another word gets code -1."""
    used = np.unique(text.codes[:rows])
    place = np.full(len(text.words), -1, dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    lacking = text.lacking and len(used) > 0 and used[-1] == len(text.words) - 1
    return Categorical(place[text.codes], tuple(text.words[word] for word in used), bool(lacking))


def _scaled(pool: Pool, name: str, power: int, mean: float, std: float) -> Number | YesNo | Date:
    """How a column of numbers becomes an input."""
    if name in pool.dates:
        return Date(name=name, power=power, mean=mean, std=std, since=pool.dates[name])
    return (YesNo if name in pool.yes_no else Number)(name=name, power=power, mean=mean, std=std)


def _finite(field: str, name: str, mean: float, std: float) -> tuple[float, float]:
    """Returns mean and std. Raises SpecError if they, or the sums that they come from, are too large for float32."""
    if not (np.isfinite(mean) and np.isfinite(std)):
        message = "its numbers are too large for the summed moments, which are float32: divide them, or leave the column out"
        raise SpecError(("data", "source", field), name, message)
    return mean, std
