"""The metrics of the baselines on every client's test rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.baselines.alone import Features, alone
from scarcity_ray.baselines.features import own_features
from scarcity_ray.baselines.ridge_alone import Values
from scarcity_ray.core.federation import Array, Federation
from scarcity_ray.core.metrics import Block
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.evaluate import Stats, applying, start_metrics
from scarcity_ray.training.problem import Problem

_ROWS = 1 << 16  # of one block
_NUMBER = 4  # bytes of a class's share, or of a target's mean


@dataclass(frozen=True)
class Baseline:
    """What every strategy is compared with. stats: of the metrics, as of a strategy after its last round. bytes: up, and as many down,
    of each client."""

    stats: Stats
    bytes: int


def baselines(problem: Problem, federation: Federation, strategies: Sequence[Strategy], ids: NDArray[np.int64]) -> dict[str, Baseline]:
    """`guess` and `alone` of clients `[k]`, by name. problem: the scenario's. strategies: whose representations a client may use."""
    guess = measured(problem, federation, ids, guesses(problem, federation, ids))
    own = measured(problem, federation, ids, alone_predictions(problem, federation, own_features(strategies, problem.seed), ids))
    return {GUESS: Baseline(guess, _NUMBER * problem.outputs), ALONE: Baseline(own, 0)}


def alone_predictions(problem: Problem, federation: Federation, maps: Mapping[str, Features], ids: NDArray[np.int64]) -> Iterable[Values]:
    """What each client predicts for its test rows at its best alone, see `alone`."""
    raw = federation.encoding is None or isinstance(federation.encoding.inputs, Array)
    train, test = federation.train, federation.test
    for client in ids.tolist():
        x, new = (part.x[part.rows(client)].reshape(part.counts[client], -1 if part.counts[client] else 1) for part in (train, test))
        if len(x) and len(new):
            own = x.astype(np.float64), train.y[train.rows(client)], new.astype(np.float64)
            yield alone(*own, problem.task, problem.outputs, maps, raw=raw).outputs
        else:
            yield np.full((len(new), problem.outputs), np.nan)


def guesses(problem: Problem, federation: Federation, ids: NDArray[np.int64]) -> Iterable[Values]:
    """The summed class shares, or the mean, of all clients' training rows: what no model is needed for."""
    y = federation.train.y
    if problem.task == "classification":
        counts = np.bincount(y, minlength=problem.outputs) + 0.5
        guess: Values = np.log(counts / counts.sum())
    else:
        guess = y.mean(0, dtype=np.float64)
    for rows in federation.test.counts[ids].tolist():
        yield np.broadcast_to(guess, (rows, problem.outputs))


def measured(problem: Problem, federation: Federation, ids: NDArray[np.int64], predictions: Iterable[Values]) -> Stats:
    """The statistics of predictions for the clients' test rows. predictions: of each client, log-probabilities or targets."""
    stats, test = start_metrics(problem.metrics, ids, federation.label_scale), federation.test
    applied, counts, ready = applying(stats.values(), problem), test.counts[ids], iter(predictions)
    of_block = np.cumsum(counts) // _ROWS
    for here in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(of_block)) + 1):
        predicted = np.concatenate([next(ready) for _ in here])
        y = np.concatenate([test.y[test.rows(client)] for client in ids[here].tolist()])
        block = _block(problem, np.repeat(here, counts[here]), predicted, y)
        for stat in applied:
            stat.update(block)
    return stats


def _block(problem: Problem, client: NDArray[np.int64], predicted: Values, y: NDArray[Any]) -> Block:
    outputs = torch.from_numpy(np.array(predicted if problem.task == "classification" else predicted - y, dtype=np.float64))
    labels = torch.from_numpy(np.asarray(y))
    losses = problem.learner.objective.losses(outputs, labels)
    return Block(client, np.ones(len(y), dtype=np.bool_), outputs, labels, losses)
