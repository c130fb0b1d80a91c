"""Each client's value of the metric that decides after the last round, of one run or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scarcity_ray.core.metrics import Shown
from scarcity_ray.results.results import Results


def last_rounds(results: Results, strategies: Sequence[str], shown: Shown) -> Any:
    """The rows of `clients` after the last round of each strategy and seed, a data frame of strategy, seed, round, client_id, the metric's
    column and `value`, which is more where the strategy is better, and NaN of one that diverged. Raises RunError."""
    metric, entries = shown.metric.column, results.summary["strategies"]
    columns = ["strategy", "seed", "round", "client_id", metric]
    frame = results.table("clients", columns, [("strategy", "in", strategies)]).to_pandas()
    frame = frame[frame["round"] == frame.groupby(["strategy", "seed"])["round"].transform("max")]
    values = shown.shape(frame[metric]) * (1.0 if shown.metric.higher_is_better else -1.0)
    usable = np.isfinite(values) & np.array([entries[name]["status"] != "diverged" for name in frame["strategy"]], dtype=bool)
    return frame.assign(value=np.where(usable, values, np.nan))


def by_seed(frame: Any, strategy: str, column: str, seeds: ArrayLike, ids: ArrayLike) -> NDArray[np.float64]:
    """A column of a strategy's rows of `last_rounds`, `[seeds, clients]`; NaN where there is none. seeds, ids: `[seeds]`, `[clients]`."""
    mine = frame[frame["strategy"] == strategy].pivot(index="seed", columns="client_id", values=column)
    return np.asarray(mine.reindex(index=np.asarray(seeds), columns=np.asarray(ids)), dtype=np.float64)
