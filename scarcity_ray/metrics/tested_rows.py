"""What the metric that decides needs of each test row: gathered after the last round, so that gains have an error from the rows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from scarcity_ray.core.metrics import Block, Ids, Metric, Stat
from scarcity_ray.metrics.gathered import Gathered, GatheredStat
from scarcity_ray.metrics.scores import SCORES, ScoreStat


class TestedRows(Gathered):
    """Gathers the numbers that another metric takes from each row."""

    name, description = "tested_rows", "numbers of the clients' test rows"

    def __init__(self, decides: Metric) -> None:
        self.decides = decides

    def per_row(self, block: Block) -> Tensor:
        """What the other metric takes."""
        return self.decides.per_row(block)

    def start(self, ids: Ids, scale: float = 1.0) -> Stat:
        """No rows yet."""
        return TestedRowsStat(self, ids, scale)


class TestedRowsStat(GatheredStat):
    """The numbers of every row."""

    metric: TestedRows


RowNumbers = TestedRowsStat | ScoreStat
"""What the metric that decides takes from each test row: where that is the AUC, scores, which are gathered in any case."""


def deciding(metric: Metric) -> list[Metric]:
    """What gathers the rows' numbers for the metric that decides, beside the metrics of a run."""
    return [] if metric.statistic == SCORES else [TestedRows(metric)]


def tested_rows(stats: Mapping[str, Stat]) -> RowNumbers | None:
    """The rows' numbers among the statistics of a test; None before the last round."""
    found = stats.get(TestedRows.name, stats.get(SCORES))
    return found if isinstance(found, RowNumbers) else None
