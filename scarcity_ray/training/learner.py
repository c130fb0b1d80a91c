"""The two ways to train a module on rows of parameters: explicit if every layer is known, else looped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scarcity_ray.core.spec import SpecError
from scarcity_ray.training.batches import Batch
from scarcity_ray.training.explicit import Explicit, parts_of
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.looped import Looped
from scarcity_ray.training.objective import GradInputs, Objective, TaskKind, objective_for

Step = Callable[[Batch, GradInputs, Tensor], None]
"""`step(batch, grad_inputs, outputs)` adds the gradient of one minibatch and writes the outputs into `outputs [a, width, outputs]`."""


class Learner(Protocol):
    """Forward and backward for k clients at once."""

    layout: Layout
    objective: Objective

    def step(self, theta: Tensor, into: Tensor, beta: float) -> Step:
        """A step that computes `into = beta * into + gradient at theta` for the clients of its batch: the first of the k rows.

        theta, into: `[k, P]`; they may be the same rows. From one call to the next the number of clients in a batch may
        fall, but not rise.
        """

    def scores(self, theta: Tensor, x: Tensor) -> Tensor:
        """The module's outputs `[k, rows, outputs]` for `theta [k, P]` (it may be one expanded row) and `x [k, rows, *shape]`."""


def make_learner(module: nn.Module, task: TaskKind, dtype: torch.dtype = torch.float32, dims: int = 1) -> Learner:
    """The learner for a module whose inputs have `dims` dimensions. Only these two decide between explicit and looped.

    Raises SpecError for a module that cannot be trained with one row of parameters per client.
    """
    check(module)
    layout, objective = Layout(module, dtype), objective_for(task)
    parts = parts_of(module, dims)
    return Looped(module, layout, objective) if parts is None else Explicit(parts, layout, objective)


def check(module: nn.Module) -> None:
    """Raises SpecError at ("model",) for a module that cannot be trained client by client. The message names the remedy."""
    name = type(module).__name__
    parameters = list(module.named_parameters())
    if any(nn.parameter.is_lazy(p) for _, p in parameters):
        raise SpecError(("model",), name, "it has lazy parameters, whose shapes are not known yet: give its layers their input sizes")
    if not any(p.requires_grad for _, p in parameters):
        raise SpecError(("model",), name, "it has no parameters to train")
    for path, p in parameters:
        if not p.is_floating_point():
            raise SpecError(("model",), name, f"its parameter {path} is {p.dtype}: parameters must be floating point")
    for path, part in module.named_modules():
        kind = type(part).__name__
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            raise SpecError(("model",), name, f"{path or kind} is {kind}, whose running statistics mix clients: use GroupNorm")
        rate = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            raise SpecError(("model",), name, f"{path or kind} drops out at random ({rate:g}): set it to 0, or use weight_decay")
