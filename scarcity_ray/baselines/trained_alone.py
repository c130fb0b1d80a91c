"""A client's model trained on its own rows alone, as it was when its validation rows liked it best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.baselines.ridge_alone import Values
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import blocks, evaluate
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@dataclass(frozen=True)
class LocalTraining:
    """How clients train alone: `strategy` is a local_only, `problem` its own, evaluated every so many of its rounds."""

    strategy: Strategy
    problem: Problem
    rounds: int
    every: int


def best_validated(training: LocalTraining, federation: Federation, ids: NDArray[np.int64]) -> tuple[Tensor, Values]:
    """Parameters `[k, P]` of clients `[k]` in the round, of those that are evaluated, with their lowest mean loss on validation rows; and
    that loss `[k]`, infinite for a client without validation rows or with a model that diverged at once.

    The same local work as the strategy's own rounds do, by the same hashes (early stopping; Prechelt, Neural Networks 11, 1998).
    """
    problem = training.problem
    rows = problem.row.expand(len(ids), -1).clone()
    best, lowest = rows.clone(), np.full(len(ids), np.inf)
    steps = problem.local.steps_for(federation.train.counts)
    for round in range(1, training.rounds + 1):
        for chunk in chunks(problem, federation.train, ids, steps[ids]):
            places = torch.from_numpy(np.searchsorted(ids, chunk))
            task = Task(problem, federation.train, chunk, round, steps[chunk])
            rows[places] = training.strategy.client_update(task, {}, {"v": rows[places]}).state["v"]
        if round % training.every == 0 or round == training.rounds:
            losses, _ = evaluate(problem, rows, federation.validation, ids)
            better = losses < lowest
            best[torch.from_numpy(better)], lowest[better] = rows[torch.from_numpy(better)], losses[better]
    return best, lowest


def answers(problem: Problem, theta: Tensor, shards: Shards, ids: NDArray[np.int64]) -> Iterator[Values]:
    """What models `[k, P]` answer to the rows of clients `[k]`: of each, log-probabilities or targets `[rows, outputs]`."""
    found = [np.zeros((count, problem.outputs)) for count in shards.counts[ids].tolist()]
    filled = np.zeros(len(ids), dtype=np.int64)
    for block in blocks(problem, theta, shards, ids):
        said = block.outputs if problem.task == "classification" else block.outputs + block.y
        said = said.double()[torch.from_numpy(block.real)]
        client = block.client[block.real]
        for place in np.unique(client).tolist():
            mine = said[torch.from_numpy(client == place)].numpy()
            found[place][filled[place] : filled[place] + len(mine)] = mine
            filled[place] += len(mine)
    return iter(found)
