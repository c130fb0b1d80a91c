"""Metrics of clients' rows. A client's numbers have the same bits whichever other clients are evaluated with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.metrics import ACCURACY, LOSS, Block, MeanMetric, Metric, Stat
from scarcity_ray.training.batches import gather, padded_rows
from scarcity_ray.training.problem import Problem

_BYTES = 2 << 20  # rows and parameters of one block
_PIECE = 1 << 20  # a client's rows are cut into pieces of at most this

_S = TypeVar("_S", bound=Stat)

Stats = dict[str, Stat]
"""Statistics of the same clients, by `Metric.key`: the name of the metric, or of what several of them share."""


def _pieces(problem: Problem, shards: Shards, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Each piece's client (its place in ids), first row, rows and padded rows; longest first, a client's pieces in order."""
    row_bytes = 4 * max(int(np.prod(problem.shape, dtype=np.int64)), problem.outputs)
    most = int(2 ** np.floor(np.log2(min(max(_PIECE // row_bytes, 16), 512))))
    counts = shards.starts[ids + 1] - shards.starts[ids]
    parts = -(-counts // most)
    who = np.repeat(np.arange(len(ids)), parts)
    nth = np.arange(len(who)) - np.repeat(np.cumsum(parts) - parts, parts)
    rows = np.minimum(counts[who] - nth * most, most)
    padded = padded_rows(rows, most)
    order = np.argsort(-padded, kind="stable")
    return who[order], (shards.starts[ids][who] + nth * most)[order], rows[order], padded[order]


def blocks(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> Iterator[Block]:
    """The model's answers to the clients' rows; `Block.client` is the place in ids. theta: `[1, P]`, the same for all, or `[k, P]`."""
    who, first, rows, padded = _pieces(problem, shards, np.asarray(ids, dtype=np.int64))
    row_bytes = 4 * int(np.prod(problem.shape, dtype=np.int64))
    own = 0 if len(theta) == 1 else 4 * problem.layout.width
    start = 0
    while start < len(who):
        width = int(padded[start])
        end = start + max(_BYTES // (width * row_bytes + own), 1)
        end = min(end, int(np.searchsorted(-padded, -width, side="right")))
        group = slice(start, end)
        place = np.arange(width)
        real = place < rows[group, None]
        index = (first[group, None] + np.where(real, place, 0)).ravel()
        x, y = (gather(a, index, problem.layout.dtype).view(end - start, width, *a.shape[1:]) for a in (shards.x, shards.y))
        clients = who[group]
        parameters = theta.expand(end - start, -1) if len(theta) == 1 else theta.index_select(0, torch.from_numpy(clients))
        outputs = problem.learner.objective.outputs(problem.learner.scores(parameters, x), y).flatten(0, 1)
        y = y.flatten(0, 1)
        yield Block(np.repeat(clients, width), real.ravel(), outputs, y, problem.learner.objective.losses(outputs, y))
        start = end


def mean_over_rows(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over rows to means; NaN for a client without rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, values / counts, np.nan)


def start_metrics(metrics: Sequence[Metric], ids: NDArray[np.int64], label_scale: float = 1.0) -> Stats:
    """Empty statistics for metrics: every value is NaN, as for a client that has no model yet."""
    stats: Stats = {}
    for metric in metrics:
        if metric.key in stats:
            stats[metric.key].metrics.append(metric)
        else:
            stats[metric.key] = metric.start(ids, label_scale)
    return stats


def applying(stats: Iterable[Stat], problem: Problem) -> list[Stat]:
    """Those of a metric that applies to the problem."""
    return [stat for stat in stats if any(one.applies(problem.task, problem.outputs) for one in stat.metrics or [stat.metric])]


def evaluate_metrics(
    problem: Problem,
    theta: Tensor,
    shards: Shards,
    ids: NDArray[np.int64],
    label_scale: float = 1.0,
    metrics: Sequence[Metric] | None = None,
) -> Stats:
    """The statistics of metrics (the problem's if None) over each client's rows of `shards`, in the order of `ids [k]`.

    theta: `[1, P]`, the same for all, or `[k, P]`. label_scale: what one standard deviation of the label is in the unit of the
    values. A metric that does not apply to the problem has no rows, so its values are NaN. A row of parameters that is not finite
    gives values that are not finite.
    """
    stats = start_metrics(problem.metrics if metrics is None else metrics, ids, label_scale)
    measured = applying(stats.values(), problem)
    for block in blocks(problem, theta, shards, ids) if measured else ():
        for stat in measured:
            stat.update(block)
    return stats


def gathered(stats: Stats, kind: type[_S]) -> _S | None:
    """The statistics of this kind; None where there are none, as before the last round for those of single rows."""
    return next((stat for stat in stats.values() if isinstance(stat, kind)), None)


def merge_metrics(parts: Sequence[Stats]) -> Stats:
    """One set of statistics of all parts' clients, by ascending id."""
    return {name: Stat.merge([part[name] for part in parts]) for name in parts[0]}


def evaluate(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean loss and accuracy (float64 `[k]` each) over each client's rows of `shards`, of standardised labels.

    theta: `[1, P]`, the same for all, or `[k, P]`. NaN for a client without rows; accuracy NaN for regression. A row
    of parameters that is not finite gives losses that are not finite.
    """
    stats = evaluate_metrics(problem, theta, shards, ids, metrics=(LOSS, ACCURACY))
    return stats[LOSS.name].values(), stats[ACCURACY.name].values()


class _Entropy(MeanMetric):
    name, unit, description = "entropy", "nats", "mean entropy of the predicted class distribution"
    higher_is_better = False
    tasks = ("classification",)

    def per_row(self, block: Block) -> Tensor:
        # A probability of 0 has a log-probability of minus infinity, and adds nothing.
        return torch.where(block.outputs.isneginf(), 0.0, -block.outputs.exp() * block.outputs).sum(-1)


_ENTROPY = _Entropy()


def predictive_entropy(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean entropy of the predicted class distribution over each client's rows, nats, float64 `[k]`; NaN for regression."""
    return evaluate_metrics(problem, theta, shards, ids, metrics=(_ENTROPY,))[_ENTROPY.name].values()
