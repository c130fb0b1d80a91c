"""Each client's gain over a reference on the same test rows, and the variance that these rows give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.inference.variances import shrunk_variances
from scarcity_ray.metrics.delong import delong

Floats = NDArray[np.float64]

_LEAST = 1e-60
"""The variance of a row where nothing differs at all: its inverse can still be squared and added up."""


class Paired(NamedTuple):
    """gain: `[clients]`, positive where the strategy is better, NaN where the metric is undefined. parts: `[rows]`, each row's
    part in the error of its client's gain, scaled so that the sum of squares over a client's rows is the gain's variance.
    units: `[clients]`, what a variance falls with, the rows if None."""

    gain: Floats
    parts: Floats
    units: Floats | None = None


def paired_means(alone: ArrayLike, strategy: ArrayLike, client: ArrayLike, clients: int, higher_is_better: bool) -> Paired:
    """The gain in a mean over rows: accuracy, log loss, Brier, absolute and squared errors.

    alone, strategy: `[rows]`, what each row adds to the mean, in the metric's unit. client: `[rows]`, from 0 to clients - 1.
    Raises ValueError where shapes differ, as all functions here.
    """
    who, (one, other) = _rows(client, clients, alone, strategy)
    return _linear(other - one if higher_is_better else one - other, who, clients)


def paired_rmse(alone: ArrayLike, strategy: ArrayLike, client: ArrayLike, clients: int) -> Paired:
    """The gain in root mean squared error, in the label's unit. alone, strategy: squared errors `[rows]`.

    Delta method (van der Vaart, Asymptotic Statistics, 1998, theorem 3.1): a row moves the root of a mean m by its own
    distance from m over 2 sqrt(m). A client without any error keeps the root's value and adds no variance.
    """
    who, (one, other) = _rows(client, clients, alone, strategy)
    roots = np.sqrt(_means(one, who, clients)), np.sqrt(_means(other, who, clients))
    slopes = [np.divide(0.5, root, out=np.zeros_like(root), where=root > 0) for root in roots]
    return Paired(roots[0] - roots[1], _linear(one * slopes[0][who] - other * slopes[1][who], who, clients).parts)


def paired_r2(alone: ArrayLike, strategy: ArrayLike, labels: ArrayLike, client: ArrayLike, clients: int) -> Paired:
    """The gain in R2. alone, strategy: squared errors `[rows]`; labels: `[rows]`. NaN where all of a client's labels are equal.

    Delta method on the ratio of the difference of mean squared errors to the labels' variance with divisor n; the
    labels' mean adds nothing of first order.
    """
    who, (one, other, y) = _rows(client, clients, alone, strategy, labels)
    squares = (y - _means(y, who, clients)[who]) ** 2
    spread = _means(squares, who, clients)
    defined = spread > 0
    gain = np.full(clients, np.nan)
    gain[defined] = (_means(one - other, who, clients) / np.where(defined, spread, 1))[defined]
    per_row = (one - other - np.where(defined, gain, 0)[who] * squares) / np.where(defined, spread, 1)[who]
    return Paired(gain, np.where(defined[who], _linear(per_row, who, clients).parts, 0.0))


def paired_auc(alone: ArrayLike, strategy: ArrayLike, positive: ArrayLike, client: ArrayLike, clients: int) -> Paired:
    """The gain in the area under the ROC curve, by paired DeLong (see `delong`). alone, strategy: scores `[rows]`;
    positive: `[rows]`, true or false. NaN for a client with rows of one class only.

    units: the harmonic mean of the two classes' rows. The variance of an area falls with it (Hanley and McNeil 1982), and of a class with
    one row nobody sees how its scores vary.
    """
    who, (one, other, yes) = _rows(client, clients, alone, strategy, positive)
    gain, parts = np.full(clients, np.nan), np.zeros(len(who))
    order = np.argsort(who, kind="stable")
    for number, rows in enumerate(np.split(order, np.cumsum(np.bincount(who, minlength=clients))[:-1])):
        truth = yes[rows] > 0
        if truth.any() and not truth.all():
            found = delong(np.stack([one[rows], other[rows]]), truth)
            gain[number] = found.areas[1] - found.areas[0]
            parts[rows] = found.parts[1] - found.parts[0]
    ones, rows_of = np.bincount(who[yes > 0], minlength=clients), np.bincount(who, minlength=clients)
    return Paired(gain, parts, 2 * ones * (rows_of - ones) / np.maximum(rows_of, 1))


def over_seeds(seeds: Sequence[Paired], client: Sequence[ArrayLike]) -> Paired:
    """The mean of clients' gains over seeds in which they keep their rows. client: each seed's `[rows]`.

    A client's mean is over the seeds in which its metric is defined. The parts are those of all seeds' rows, one seed
    after the other: `gain_variances` adds up those of the same row.
    """
    gains = np.stack([seed.gain for seed in seeds])
    known = (~np.isnan(gains)).sum(0)
    gain = np.divide(np.nansum(gains, axis=0), known, out=np.full(gains.shape[1], np.nan), where=known > 0)
    parts = [seed.parts / np.maximum(known, 1)[np.asarray(who)] for seed, who in zip(seeds, client, strict=True)]
    return Paired(gain, np.concatenate(parts))


def gain_variances(paired: Paired, client: ArrayLike, row: ArrayLike | None = None) -> Floats:
    """The variance of each client's gain `[clients]`, in the gain's squared unit, above 0; NaN where the gain is.

    client: `[rows]`, of the parts. row: `[rows]`, which row of its client each is, from 0, where some occur more than once
    (several seeds): their parts are added before they are squared, as they are one draw from the client's population.
    Variances are shrunk towards the pooled one by `shrunk_variances`. That of a row is at least the largest squared gain over the
    degrees of freedom of all rows: where no row differs from another, the gains themselves say how far one may be off.
    """
    clients = len(paired.gain)
    who, (parts,) = _rows(client, clients, paired.parts)
    if row is not None:
        number = np.asarray(row, dtype=np.int64)
        each = int(number.max(initial=0)) + 1
        distinct, places = np.unique(who * each + number, return_inverse=True)
        parts, who = np.bincount(places, parts, minlength=len(distinct)).astype(np.float64), distinct // each
    rows = np.bincount(who, minlength=clients) if paired.units is None else paired.units
    counts = np.where(np.isnan(paired.gain), 0.0, rows)
    found = shrunk_variances(np.bincount(who, parts**2, minlength=clients) * counts, counts)
    # Rows that all agree are no proof: as if two more rows had been as far off as the largest gain (as in Laplace's rule of succession).
    largest, degrees = np.square(np.nan_to_num(paired.gain)).max(initial=0.0), np.maximum(counts - 1, 0).sum()
    return np.asarray(np.maximum(found, max(float(largest / (degrees + 2)), _LEAST)) / np.maximum(counts, 1))


def _linear(per_row: Floats, who: NDArray[np.int64], clients: int) -> Paired:
    """The mean of what each row adds, and its parts: distances from the mean over sqrt(n (n - 1)), 0 for one row."""
    gain = _means(per_row, who, clients)
    counts = np.bincount(who, minlength=clients)
    scale = np.divide(1.0, np.sqrt(counts * (counts - 1.0)), out=np.zeros(clients), where=counts > 1)
    return Paired(gain, (per_row - gain[who]) * scale[who])


def _means(per_row: Floats, who: NDArray[np.int64], clients: int) -> Floats:
    counts = np.bincount(who, minlength=clients)
    sums = np.bincount(who, per_row, minlength=clients).astype(np.float64)
    means: Floats = np.divide(sums, counts, out=np.full(clients, np.nan), where=counts > 0)
    return means


def _rows(client: ArrayLike, clients: int, *columns: ArrayLike) -> tuple[NDArray[np.int64], list[Floats]]:
    who = np.asarray(client, dtype=np.int64)
    checked = [np.asarray(column, dtype=np.float64) for column in columns]
    if who.ndim != 1 or any(column.shape != who.shape for column in checked):
        raise ValueError(f"client {who.shape} and what goes with it {[column.shape for column in checked]} must all be [rows]")
    if len(who) and not 0 <= who.min() <= who.max() < clients:
        raise ValueError(f"client must be from 0 to {clients - 1}")
    return who, checked
