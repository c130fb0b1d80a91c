"""How sf_hfe chooses a block of features where its representation is `auto`: an exchange after the moments, see ensemble.choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray.core.exchange import ServerState, State
from scarcity_ray.core.history import History
from scarcity_ray.ensemble.choice import Choice, choose, left_out_error, trial
from scarcity_ray.ensemble.differing import Personal
from scarcity_ray.ensemble.moments import Packing, targets, with_constant
from scarcity_ray.ensemble.random_coefficients import unpack
from scarcity_ray.ensemble.representation import Automatic
from scarcity_ray.strategies.represented import messages
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

TRIAL = "trial"
"""The payload column of a client's answer, a number a block; and what it gets, by this name and `trial.BLOCK`."""


def moments_round(spec: Automatic) -> int:
    """The round in which clients first send moments; the trial is in the next."""
    return len(spec.asked) + 1


def blocks_of(spec: Automatic, problem: Problem) -> tuple[dict[str, NDArray[np.int64]], str]:
    """Blocks and the usual one, see Automatic.blocks. problem: the strategy's."""
    assert problem.base is not None
    return spec.blocks(problem.base)


def offered(
    spec: Automatic,
    problem: Problem,
    packing: Packing,
    state: ServerState,
    sent: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    personal: Personal,
) -> ServerState:
    """The state with each client's trial: the heads of its blocks one after the other, float32 `[width of all, outputs]`, and for each
    block the covariance of clients' heads. sent: who sent moments, their rows, and the moments."""
    ids, samples, rows = sent
    heads, scatters = [], {}
    for name, columns in blocks_of(spec, problem)[0].items():
        others, scatter = trial(*packing.only(rows, columns), samples, personal)
        heads.append(others.float())
        if scatter is not None:
            scatters[f"{TRIAL}.{name}"] = torch.from_numpy(scatter.pack())
    own = torch.cat(heads, dim=1)
    each = own.new_zeros(problem.population, *own.shape[1:])
    each[torch.from_numpy(ids)] = own
    down = own[0].numel() * own.element_size() + sum(value.nbytes for value in scatters.values())
    return replace(state, broadcast={**state.broadcast, **scatters}, each={**state.each, TRIAL: each}, new_bytes=down)


def answers(spec: Automatic, task: Task, broadcast: State, to_features: nn.Module) -> Tensor:
    """Sums of squared errors of clients' left-out rows, float32 `[k, blocks]`; zeros where no trial came."""
    problem, blocks = task.problem, blocks_of(spec, task.problem)[0]
    found = torch.zeros(task.k, len(blocks))
    if TRIAL not in broadcast:
        return found
    places = [torch.from_numpy(np.append(columns, spec.features)) for columns in blocks.values()]  # the constant is the last
    for i in range(task.k):
        x, y = task.rows(i)
        f, z = with_constant(to_features(x).double()), targets(y, problem.task, problem.outputs)
        heads = torch.split(broadcast[TRIAL][i].double(), [len(place) for place in places])
        for b, (name, place, head) in enumerate(zip(blocks, places, heads, strict=True)):
            packed = broadcast.get(f"{TRIAL}.{name}")
            covariance = None if packed is None else unpack(packed.numpy(), len(place))
            found[i, b] = left_out_error(f[:, place], z, head, covariance)
    return found


def operations(spec: Automatic, problem: Problem, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Floating-point operations of the answers of clients with so many rows, from features on: for each block of w coefficients an own head
    and its covariance, 2 r^2 w + r^3 / 3 each with r = min(rows, w), then 2 r w^2, and 2 w^2 a row for its leverage."""
    found = np.zeros_like(samples)
    for columns in blocks_of(spec, problem)[0].values():
        width = len(columns) + 1
        rank = np.minimum(samples, width)
        found += 2 * rank**2 * (2 * width + rank / 3) + 2 * width**2 * (rank + samples)
    return found


def heard(spec: Automatic, problem: Problem, history: History, column: str) -> Choice:
    """What the answers of all clients with a trial choose; the usual block if there are none. column: of the moments."""
    blocks, usual = blocks_of(spec, problem)
    first = moments_round(spec)
    tried, (ids, samples, squares) = messages(history, first, column)[0], messages(history, first + 1, TRIAL)
    known = np.isin(ids, tried)
    if not known.any():
        return Choice(usual, usual, {}, {})
    return choose(list(blocks), usual, squares[known], float(samples[known].sum()) * problem.outputs)
