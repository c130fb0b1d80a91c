"""Explicit forward and backward passes for stacks of known layers, k clients at once. The gradient is added to its target directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scarcity_ray.training.batches import Batch
from scarcity_ray.training.layers import (
    ConvLayer,
    FlattenLayer,
    ImageLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    ReLULayer,
    TanhLayer,
    Target,
    padding_of,
)  # fmt: skip
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.objective import GradInputs, Objective


class Part(NamedTuple):
    """A layer that is not bound to parameters yet: `make(theta, target)` binds it. trains: whether it has parameters."""

    make: Callable[[dict[str, Tensor], Target | None], Layer]
    trains: bool = False


class Explicit:
    """A learner (see training.learner) for stacks of Linear, Conv2d, ReLU, Tanh, MaxPool2d and Flatten."""

    def __init__(self, parts: Sequence[Part], layout: Layout, objective: Objective) -> None:
        self.parts, self.layout, self.objective = tuple(parts), layout, objective
        self.first = next(i for i, part in enumerate(parts) if part.trains)

    def step(self, theta: Tensor, into: Tensor, beta: float) -> Callable[[Batch, GradInputs, Tensor], None]:
        """`into = beta * into + gradient at theta`, both `[k, P]`, for the clients of a batch: the first of the k rows.

        theta and into may be the same: a layer's weights change only after their last use.
        """
        views, objective = self.layout.views(theta), self.objective
        targets = views if into is theta else self.layout.views(into)
        stack = [part.make(views, Target(targets, beta, first=i == self.first)) for i, part in enumerate(self.parts)]
        backward = stack[self.first :][::-1]
        scratch = torch.empty(0, dtype=theta.dtype)
        bound = len(theta)

        def step(batch: Batch, grad_inputs: GradInputs, outputs: Tensor) -> None:
            nonlocal bound
            z = batch.x
            if len(z) != bound:
                bound = len(z)
                for layer in stack:
                    layer.narrow(bound)
            for layer in stack:
                z = layer.forward(z)
            delta = objective.gradient(z, batch.y, grad_inputs, outputs, out=scratch.resize_(z.shape))
            for layer in backward:
                delta = layer.backward(delta)

        return step

    def scores(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs `[k, rows, outputs]`."""
        views = self.layout.views(theta)
        for part in self.parts:
            x = part.make(views, None).forward(x)
        return x


def _flat(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        return [(prefix, module)]
    return [part for name, child in module.named_children() for part in _flat(child, f"{prefix}{name}.")]


def parts_of(module: nn.Module, dims: int = 1) -> list[Part] | None:
    """The layers of a stack whose inputs have `dims` dimensions; None if a layer is unknown, shared or frozen, or has hooks."""
    modules = _flat(module)
    shared = len({id(m) for _, m in modules}) < len(modules) or len(list(module.parameters())) < len(
        list(module.named_parameters(remove_duplicate=False))
    )
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in module.modules())
    if shared or hooked or not all(p.requires_grad for p in module.parameters()):
        return None
    # ReLU after MaxPool gives the same values and gradients as before it, with less work.
    for i in range(len(modules) - 1):
        if type(modules[i][1]) is nn.ReLU and type(modules[i + 1][1]) is nn.MaxPool2d:
            modules[i], modules[i + 1] = modules[i + 1], modules[i]
    parts: list[Part] = []
    images = False  # whether activations are images with their channels last
    fresh = False  # whether an activation function may overwrite its input, because nothing else reads it
    for name, m in modules:
        padding = padding_of(m) if type(m) is nn.Conv2d else None
        if padding is not None or (type(m) is nn.MaxPool2d and not m.return_indices):
            if dims != 3:
                return None
            if not images:
                parts.append(Part(partial(ImageLayer, None)))
                images = True
            if isinstance(m, nn.Conv2d) and padding is not None:
                parts.append(Part(partial(ConvLayer, name, m, padding), trains=True))
            elif isinstance(m, nn.MaxPool2d):
                parts.append(Part(partial(MaxPoolLayer, m)))
            fresh = True
        elif type(m) is nn.Linear and dims == 1:
            parts.append(Part(partial(LinearLayer, name), trains=True))
            fresh = True
        elif type(m) is nn.ReLU or type(m) is nn.Tanh:
            parts.append(Part(partial(ReLULayer if type(m) is nn.ReLU else TanhLayer, fresh)))
            fresh = False
        elif type(m) is nn.Flatten and m.start_dim == 1 and m.end_dim == -1:
            parts.append(Part(partial(FlattenLayer, images)))
            images, dims, fresh = False, 1, False
        elif type(m) is nn.Unflatten and m.dim == 1 and len(m.unflattened_size) + dims == 4 and not images:
            parts.append(Part(partial(ImageLayer, tuple(m.unflattened_size))))
            images, dims, fresh = True, 3, False
        else:
            return None
    return parts if dims == 1 and any(part.trains for part in parts) else None
