"""Loss and accuracy of clients' rows, each client's computed in the same way in any company."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Shards
from scarcity_ray.training.batches import gather, padded_rows
from scarcity_ray.training.problem import Problem

_BYTES = 2 << 20  # rows and parameters met at once
_PIECE = 1 << 20  # a client's rows are met in pieces of at most this


def _pieces(problem: Problem, shards: Shards, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """(client's place in ids, first row, rows, padded rows) of each piece, long ones first; a client's pieces in order."""
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


def met(
    problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], Tensor, Tensor]]:
    """Runs the model over the clients' rows: (client's place in ids of each row, true where it is no padding, outputs, y)."""
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
        mine = theta.expand(end - start, -1) if len(theta) == 1 else theta.index_select(0, torch.from_numpy(clients))
        outputs = problem.learner.objective.outputs(problem.learner.scores(mine, x), y)
        yield np.repeat(clients, width), real.ravel(), outputs.flatten(0, 1), y.flatten(0, 1)
        start = end


def mean_over_rows(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over rows to means; NaN for a client without rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, values / counts, np.nan)


def evaluate(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean loss and accuracy (float64 `[k]` each) over each client's rows of `shards`.

    theta: `[1, P]`, the same for all, or `[k, P]`. NaN for a client without rows; accuracy NaN for regression. A row
    of parameters that is not finite gives losses that are not finite.
    """
    loss, hits = np.zeros(len(ids)), np.zeros(len(ids))
    objective = problem.learner.objective
    for clients, real, outputs, y in met(problem, theta, shards, ids):
        # One row after the other into its client's sum: the order is the client's own.
        np.add.at(loss, clients[real], objective.losses(outputs, y).double().numpy()[real])
        if problem.task == "classification":
            np.add.at(hits, clients[real], (outputs.argmax(-1) == y).double().numpy()[real])
    counts = shards.starts[ids + 1] - shards.starts[ids]
    accuracy = mean_over_rows(hits, counts) if problem.task == "classification" else np.full(len(ids), np.nan)
    return mean_over_rows(loss, counts), accuracy


def predictive_entropy(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean entropy of the predicted class distribution over each client's rows, nats, float64 `[k]`; NaN for regression."""
    if problem.task != "classification":
        return np.full(len(ids), np.nan)
    entropy = np.zeros(len(ids))
    for clients, real, outputs, _ in met(problem, theta, shards, ids):
        # A probability of 0 has a log-probability of minus infinity, and adds nothing.
        terms = torch.where(outputs.isneginf(), 0.0, -outputs.exp() * outputs)
        np.add.at(entropy, clients[real], terms.sum(-1).double().numpy()[real])
    return mean_over_rows(entropy, shards.starts[ids + 1] - shards.starts[ids])
