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
from scarcity_ray.baselines.trained_alone import LocalTraining, answers, best_validated
from scarcity_ray.core.federation import Array, Federation, Shards
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


def baselines(
    problem: Problem,
    federation: Federation,
    strategies: Sequence[Strategy],
    ids: NDArray[np.int64],
    training: LocalTraining | None = None,
) -> dict[str, Baseline]:
    """`guess` and `alone` of clients `[k]`, by name.

    problem: the scenario's. strategies: whose representations a client may use. training: by which a client may train a model alone;
    where it has validation rows they choose between that model in its best round and the best of the ridges, by their mean loss.
    """
    own = list(alone_predictions(problem, federation, own_features(strategies, problem.seed), ids))
    if training is not None and federation.validation.counts[ids].any():
        theta, losses = best_validated(training, federation, ids)
        trained = [answers(training.problem, theta, part, ids) for part in _parts(federation).values()]
        for place, (client, said) in enumerate(zip(ids.tolist(), zip(*trained, strict=True), strict=True)):
            y = federation.validation.y[federation.validation.rows(client)]
            _, validation = np.split(own[place], [len(own[place]) - len(y)])
            if len(y) and losses[place] < float(_block(problem, np.zeros(len(y), dtype=np.int64), validation, y).losses.mean()):
                own[place] = np.concatenate(said)
    guess = measured(problem, federation, ids, guesses(problem, federation, ids))
    return {GUESS: Baseline(guess, _NUMBER * problem.outputs), ALONE: Baseline(measured(problem, federation, ids, own), 0)}


def alone_predictions(problem: Problem, federation: Federation, maps: Mapping[str, Features], ids: NDArray[np.int64]) -> Iterable[Values]:
    """What each client predicts for its test rows, and then for its validation rows, by the best of its ridges, see `alone`."""
    raw = federation.encoding is None or isinstance(federation.encoding.inputs, Array)
    train = federation.train
    for client in ids.tolist():
        asked = [part.x[part.rows(client)] for part in (train, *_parts(federation).values())]
        x, *new = (rows.reshape(len(rows), -1 if len(rows) else 1).astype(np.float64) for rows in asked)
        to_predict = np.concatenate([rows for rows in new if len(rows)] or [np.zeros((0, x.shape[1]))])
        if len(x) and len(to_predict):
            yield alone(x, train.y[train.rows(client)], to_predict, problem.task, problem.outputs, maps, raw=raw).outputs
        else:
            yield np.full((len(to_predict), problem.outputs), np.nan)


def guesses(problem: Problem, federation: Federation, ids: NDArray[np.int64]) -> Iterable[Values]:
    """The summed class shares, or the mean, of all clients' training rows, for each test and validation row: no model is needed for it."""
    y = federation.train.y
    if problem.task == "classification":
        counts = np.bincount(y, minlength=problem.outputs) + 0.5
        guess: Values = np.log(counts / counts.sum())
    else:
        guess = y.mean(0, dtype=np.float64)
    for rows in _asked(federation, ids).tolist():
        yield np.broadcast_to(guess, (rows, problem.outputs))


def measured(problem: Problem, federation: Federation, ids: NDArray[np.int64], predictions: Iterable[Values]) -> Stats:
    """The statistics of predictions. predictions: of each client, log-probabilities or targets of its test and then its validation rows."""
    parts, ready = _parts(federation), iter(predictions)
    stats = start_metrics(problem.metrics, ids, federation.label_scale)
    applied = {name: [stat for stat in applying(stats.values(), problem) if stat.metric.part == name] for name in parts}
    of_block = np.cumsum(_asked(federation, ids)) // _ROWS
    for here in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(of_block)) + 1):
        clients = ids[here].tolist()
        predicted = [np.split(next(ready), [parts["test"].counts[client]]) for client in clients]
        for (name, part), of_part in zip(parts.items(), zip(*predicted, strict=True), strict=True):
            if not applied[name]:
                continue
            y = np.concatenate([part.y[part.rows(client)] for client in clients])
            block = _block(problem, np.repeat(here, part.counts[ids[here]]), np.concatenate(of_part), y)
            for stat in applied[name]:
                stat.update(block)
    return stats


def _parts(federation: Federation) -> dict[str, Shards]:
    return {"test": federation.test, "validation": federation.validation}


def _asked(federation: Federation, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows of each client are to be predicted."""
    return federation.test.counts[ids] + federation.validation.counts[ids]


def _block(problem: Problem, client: NDArray[np.int64], predicted: Values, y: NDArray[Any]) -> Block:
    outputs = torch.from_numpy(np.array(predicted if problem.task == "classification" else predicted - y, dtype=np.float64))
    labels = torch.from_numpy(np.asarray(y))
    losses = problem.learner.objective.losses(outputs, labels)
    return Block(client, np.ones(len(y), dtype=np.bool_), outputs, labels, losses)
