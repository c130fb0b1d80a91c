"""Each client's gain over itself at its best alone, on the same test rows: on all of them, and on each of two halves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.metrics import headline
from scarcity_ray.inference.paired import Paired, gain_variances, paired_means, paired_rmse
from scarcity_ray.inference.winner import halves
from scarcity_ray.training.evaluate import RowValues
from scarcity_ray.training.objective import TaskKind

Floats = NDArray[np.float64]


def gain_columns(
    task: TaskKind, label_scale: float, alone: RowValues, strategy: RowValues, ids: NDArray[np.int64], seed: int
) -> dict[str, Floats]:
    """Columns of the clients table for clients `[k]`: `gain`, positive where the strategy is better, in the unit of the metric that
    decides, and `gain_error`, its standard error from the rows; `gain_0`, `gain_0_error`, `gain_1`, `gain_1_error` on halves of the rows.
    NaN for a client without test rows in question, or without a model.

    alone, strategy: what the metric says of each test row (for a regression squared errors, of standardised labels). seed: of the
    halves of each client's rows.
    """
    columns = ["gain", "gain_0", "gain_1"]
    nothing = {name: np.full(len(ids), np.nan) for column in columns for name in (column, f"{column}_error")}
    if not (np.array_equal(alone.ids, strategy.ids) and np.array_equal(alone.counts, strategy.counts)):
        return nothing
    shown, client = headline(task), strategy.places
    place = np.arange(len(client)) - np.repeat(np.cumsum(strategy.counts) - strategy.counts, strategy.counts)
    first = halves(seed, strategy.ids[client], place)
    one, other = (rows.values * label_scale**shown.metric.label_power for rows in (alone, strategy))

    def paired(chosen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        rows = one[chosen], other[chosen], client[chosen], len(strategy.ids)
        found = paired_rmse(*rows) if shown.root else paired_means(*rows, shown.metric.higher_is_better)
        gain = np.where(np.isfinite(found.gain), found.gain, np.nan)  # a diverged model's is not
        parts = np.where(np.isnan(gain)[client[chosen]], 0.0, found.parts)
        return gain, np.sqrt(gain_variances(Paired(gain, parts), client[chosen]))

    found, places = nothing, np.searchsorted(ids, strategy.ids)
    for column, chosen in zip(columns, (np.ones_like(first), first, ~first), strict=True):
        found[column][places], found[f"{column}_error"][places] = paired(chosen)
    return found
