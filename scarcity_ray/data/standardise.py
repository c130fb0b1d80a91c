"""Columns made comparable by the clients together: summed moments for numbers, the union of categories for text.

What travels, once. Up, from each client: a packed little-endian record (count u32; mean f32 and M2 f32, the sum of squared
deviations, of each numeric column over its training rows) and its own categories, each as a length byte and UTF-8, text columns
parted by a byte 255. Down, to each: mean f32 and standard deviation f32 of each numeric column, and the union of the categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.data.pool import Categorical, Column

LONGEST_WORD = 254  # bytes: what fits the length byte beside the mark between two columns


def upload(columns: Sequence[NDArray[np.float64]], starts: NDArray[np.int64]) -> NDArray[Any]:
    """The clients' records: a structured array `[clients]` of count, mean `[columns]` and m2 `[columns]`.

    columns: training rows, client after client; client m's are `starts[m]:starts[m + 1]`, at least one.
    """
    counts = np.diff(starts)
    records = np.empty(len(counts), dtype=[("count", "<u4"), ("mean", "<f4", (len(columns),)), ("m2", "<f4", (len(columns),))])
    records["count"] = counts
    for place, column in enumerate(columns):
        mean = np.add.reduceat(column, starts[:-1]) / counts
        records["mean"][:, place] = mean
        records["m2"][:, place] = np.add.reduceat((column - np.repeat(mean, counts)) ** 2, starts[:-1])
    return records


def merge(records: NDArray[Any]) -> NDArray[Any]:
    """What goes down: a structured array `[1]` of mean and std `[columns]` over all clients' rows.

    The many-way form of Chan, Golub and LeVeque (1979): M2 = sum M2_i + sum n_i (mean_i - mean)^2. A column that varies by less
    than float32 can see has std 1: it is only centred.
    """
    counts, means = records["count"].astype(np.float64)[:, None], records["mean"].astype(np.float64)
    total = counts.sum()
    mean = (counts * means).sum(axis=0) / total
    m2 = records["m2"].astype(np.float64).sum(axis=0) + (counts * (means - mean) ** 2).sum(axis=0)
    std = np.sqrt(m2 / total)
    scale = np.empty(1, dtype=[("mean", "<f4", mean.shape), ("std", "<f4", mean.shape)])
    scale["mean"], scale["std"] = mean, np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1.0)
    return scale


@dataclass(frozen=True)
class Standardised:
    """float32 inputs `[rows, width]` and targets `[rows, outputs]` or classes `[rows]`; what one unit of a target is in the user's
    unit; bytes `[clients]` sent and received."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    label_scale: float
    uplink_bytes: NDArray[np.int64]
    downlink_bytes: NDArray[np.int64]


def standardise(columns: Sequence[Column], y: NDArray[Any], client: NDArray[np.int64], training: NDArray[np.bool_]) -> Standardised:
    """Standardises numeric columns and float targets, and spreads text columns one-hot, in the order of the columns.

    client: the client of each row, rising; training: the rows whose moments count. Words are taken from all of a client's rows,
    so that the width of the inputs does not depend on the split.
    """
    clients = int(client[-1]) + 1
    targets = [y[:, 0]] if y.dtype.kind == "f" else []
    numeric = [column for column in columns if not isinstance(column, Categorical)] + targets
    texts = [column for column in columns if isinstance(column, Categorical)]
    up, down = np.zeros(clients, dtype=np.int64), np.zeros(clients, dtype=np.int64)
    mean = std = np.empty(0, dtype=np.float32)
    if numeric:
        starts = np.concatenate([[0], np.cumsum(np.bincount(client[training], minlength=clients))])
        records = upload([column[training] for column in numeric], starts)
        scale = merge(records)
        mean, std = scale["mean"][0], scale["std"][0]
        up += records.dtype.itemsize
        down += scale.dtype.itemsize
    for place, text in enumerate(texts):
        sizes = np.array([1 + len(word.encode()) for word in text.words])
        owner, word = np.divmod(np.unique(client * len(text.words) + text.codes), len(text.words))
        mark = int(place > 0)
        up += np.bincount(owner, weights=sizes[word], minlength=clients).astype(np.int64) + mark
        down += int(sizes.sum()) + mark

    width = sum(len(column.words) if isinstance(column, Categorical) else 1 for column in columns)
    x = np.zeros((len(client), width), dtype=np.float32)
    at = number = 0
    for column in columns:
        if isinstance(column, Categorical):
            x[np.arange(len(x)), at + column.codes] = 1.0
            at += len(column.words)
        else:
            x[:, at] = (column - mean[number]) / std[number]
            at, number = at + 1, number + 1
    if not targets:
        return Standardised(x, y, 1.0, up, down)
    return Standardised(x, ((y - mean[-1]) / std[-1]).astype(np.float32), float(std[-1]), up, down)
