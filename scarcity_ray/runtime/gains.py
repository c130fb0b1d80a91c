"""Each client's gain over itself at its best alone, on the same test rows: on all of them, and on each of two halves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.metrics import Shown
from scarcity_ray.inference.paired import Paired, gain_variances, paired_auc, paired_means, paired_r2, paired_rmse
from scarcity_ray.inference.winner import halves
from scarcity_ray.metrics.tested_rows import RowNumbers

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def gain_columns(shown: Shown, alone: RowNumbers | None, strategy: RowNumbers | None, ids: Ids, seed: int) -> dict[str, Floats]:
    """Columns of the clients table for clients `[k]`: `gain`, positive where the strategy is better, in the unit of the metric that
    decides, and `gain_error`, its standard error from the rows; `gain_0`, `gain_0_error`, `gain_1`, `gain_1_error` on halves of the rows.
    NaN for a client whose rows in question do not define the metric, or without a model.

    alone, strategy: what the metric takes from each test row. seed: of the halves of each client's rows.
    """
    columns = ["gain", "gain_0", "gain_1"]
    found = {name: np.full(len(ids), np.nan) for column in columns for name in (column, f"{column}_error")}
    if alone is None or strategy is None or not (np.array_equal(alone.ids, strategy.ids) and np.array_equal(alone.counts, strategy.counts)):
        return found
    if not strategy.counts.any():
        return found
    (client, one), (_, other) = alone.by_client(), strategy.by_client()
    place = np.arange(len(client)) - np.repeat(np.cumsum(strategy.counts) - strategy.counts, strategy.counts)
    first = halves(seed, strategy.ids[client], place)
    places = np.searchsorted(ids, strategy.ids)
    for column, chosen in zip(columns, (np.ones_like(first), first, ~first), strict=True):
        rows = one[chosen], other[chosen], client[chosen], len(strategy.ids)
        with np.errstate(over="ignore", invalid="ignore"):  # of a diverged model
            paired = _paired(shown, strategy.scale, *rows)
        gain = np.where(np.isfinite(paired.gain), paired.gain, np.nan)  # a diverged model's is not
        parts = np.where(np.isnan(gain)[client[chosen]], 0.0, paired.parts)
        found[column][places] = gain
        found[f"{column}_error"][places] = np.sqrt(gain_variances(Paired(gain, parts, paired.units), client[chosen]))
    return found


def _paired(shown: Shown, scale: float, one: Floats, other: Floats, client: Ids, clients: int) -> Paired:
    """The gains in the metric that decides, from what it takes from each row, `[rows, c]`."""
    metric, rows = shown.metric, (client, clients)
    if metric.name == "auc":
        return _paired_areas(one, other, *rows)
    if metric.name == "r2":
        return paired_r2(one[:, 0], other[:, 0], one[:, 1], *rows)
    unit = scale**metric.label_power
    if shown.root:
        return paired_rmse(unit * one[:, 0], unit * other[:, 0], *rows)
    return paired_means(unit * one[:, 0], unit * other[:, 0], *rows, metric.higher_is_better)


def _paired_areas(one: Floats, other: Floats, client: Ids, clients: int) -> Paired:
    """As the AUC: of two classes the one area, of more the mean over those that occur, each against the rest."""
    broken = np.bincount(client[np.isnan(one + other).any(1)], minlength=clients) > 0  # scores of a diverged model have no order
    y, scores = one[:, -1], [np.nan_to_num(rows[:, :-1].astype(np.float32)) for rows in (one, other)]
    classes = [1] if scores[0].shape[1] == 1 else list(range(scores[0].shape[1]))
    total, parts, areas, least = np.zeros(clients), np.zeros(len(client)), np.zeros(clients), np.zeros(clients)
    for place, positive in enumerate(classes):
        found = paired_auc(scores[0][:, place], scores[1][:, place], y == positive, client, clients)
        defined = ~np.isnan(found.gain)
        total[defined] += found.gain[defined]
        parts += found.parts
        areas += defined
        assert found.units is not None
        least[defined] += 1 / found.units[defined]
    known = (areas > 0) & ~broken
    mean, units = (np.divide(one, other, out=np.zeros(clients), where=known) for one, other in ((total, areas), (areas, least)))
    return Paired(np.where(known, mean, np.nan), np.where(known[client], parts / np.maximum(areas, 1)[client], 0.0), units)
