"""Forward and backward passes of any module, one client after the other, through `functional_call`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scarcity_ray.training.batches import Batch
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.objective import GradInputs, Objective


class Looped:
    """A learner (see training.learner) for modules with unknown layers. It computes each client alone, on its own rows."""

    def __init__(self, module: nn.Module, layout: Layout, objective: Objective) -> None:
        self.module, self.layout, self.objective = module, layout, objective
        dtype = layout.dtype
        self.constants = {name: v.to(dtype) if v.is_floating_point() else v for name, v in layout.constants.items()}

    def call(self, row: Tensor, x: Tensor) -> Tensor:
        """The module's outputs for one client's row `[P]`."""
        parameters: dict[str, Tensor] = {part.name: part.torch_view(row[None])[0] for part in self.layout.slices}
        result: Tensor = functional_call(self.module, {**parameters, **self.constants}, (x,))
        return result

    def step(self, theta: Tensor, into: Tensor, beta: float) -> Any:
        """`into = beta * into + gradient at theta`, both `[k, P]`, for the clients of a batch: the first of the k rows."""
        objective = self.objective

        def step(batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
            for i, size in enumerate(batch.sizes.tolist()):
                row = theta[i].detach().clone().requires_grad_()
                own = objective.outputs(self.call(row, batch.x[i, :size]), batch.y[i, :size])
                (gradient,) = torch.autograd.grad(objective.total(own, tuple(part[i, :size] for part in grad_inputs)), row)
                torch.add(gradient, into[i], alpha=beta, out=into[i])
                outputs[i, :size] = own.detach()

        return step

    @torch.no_grad()
    def scores(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs `[k, rows, outputs]`."""
        return torch.stack([self.call(row, own) for row, own in zip(theta, x, strict=True)])
