"""The learning problem of a run: a module, its learner, its initial row, and the settings of local training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray.core.federation import Encoding
from scarcity_ray.core.metrics import Metric, suited
from scarcity_ray.core.spec import SpecError
from scarcity_ray.metrics import METRICS
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.learner import Learner, make_learner
from scarcity_ray.training.local import Local
from scarcity_ray.training.objective import TaskKind


@dataclass(frozen=True)
class Problem:
    """All that a strategy may know of the problem.

    module: the torch module with its initial weights.
    learner: the same module, for rows of parameters.
    row: the initial weights as a row `[P]`.
    local: the settings of local training.
    task: "classification" or "regression".
    outputs: number of classes, or targets of a row.
    shape: shape of one input.
    samples: int64 `[clients]`, training rows of each client.
    seed: the run's seed.
    groups: int64 `[clients]`, the group of each client, from 0.
    base: the scenario's problem, if a strategy with its own model made this one from it; else None.
    metrics: what clients are evaluated by: other processes get the list with it.
    encoding: how a table became inputs and targets, without clients' names; None for rows that came as arrays.
    """

    module: nn.Module
    learner: Learner
    row: Tensor
    local: Local
    task: TaskKind
    outputs: int
    shape: tuple[int, ...]
    samples: NDArray[np.int64]
    seed: int
    groups: NDArray[np.int64]
    base: Problem | None = None
    metrics: tuple[Metric, ...] = ()
    encoding: Encoding | None = None

    @property
    def layout(self) -> Layout:
        """The place of each parameter in a row."""
        return self.learner.layout

    @property
    def population(self) -> int:
        """Number of clients."""
        return len(self.samples)

    @property
    def label_mean(self) -> float:
        """A regression target of 0, in the user's unit."""
        return 0.0 if self.encoding is None else self.encoding.label_mean

    @property
    def label_scale(self) -> float:
        """One unit of a regression target, in the user's unit."""
        return 1.0 if self.encoding is None else self.encoding.label_scale

    @property
    def bytes(self) -> int:
        """Bytes of the packed weights when they are sent: 4 for each parameter, none for padding."""
        return self.layout.num_parameters * 4


def make_problem(
    module: nn.Module,
    *,
    local: Local,
    task: TaskKind,
    outputs: int,
    shape: tuple[int, ...],
    samples: NDArray[np.int64],
    seed: int,
    groups: NDArray[np.int64] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """The problem of training a module, evaluated by all registered metrics that suit it. Without `groups` all clients are in one group.

    Raises SpecError at ("model",) if the module cannot be trained on inputs of `shape`.
    """
    learner = make_learner(module, task, dtype, dims=len(shape))
    name = type(module).__name__
    try:
        with torch.no_grad():
            result = module(torch.zeros(2, *shape, dtype=next(module.parameters()).dtype))
    except Exception as error:  # the user's own module may raise anything
        raise SpecError(("model",), name, f"it fails on a batch of inputs of shape {list(shape)}: {error}") from error
    if not isinstance(result, Tensor) or tuple(result.shape) != (2, outputs):
        found = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise SpecError(("model",), name, f"on 2 inputs of shape {list(shape)} it returns {found}, not [2, {outputs}]")
    row, samples = learner.layout.row(module.state_dict()), np.asarray(samples, dtype=np.int64)
    groups = np.zeros_like(samples) if groups is None else np.asarray(groups, dtype=np.int64)
    metrics = suited(METRICS, task, outputs)
    return Problem(module, learner, row, local, task, outputs, tuple(shape), samples, seed, groups, metrics=metrics)
