"""Floating-point operations and memory of a model, counted by torch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_COUNTED = 64  # models whose counts are kept
TRAINED = 3
"""Passes that a gradient takes, in forward passes: one forward, and twice as much backward."""


def forward_flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Operations of one row's pass through a module: 2 a weight of a linear layer, 2 a weight and place of a convolution.

    shape: of one input. A multiplication and an addition are two. Biases, activations and poolings are not counted, as torch does not.
    """
    return _counted(module, shape)[0]


def activations(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers that the layers of a module put out for one row, its input included: what a gradient must keep."""
    return _counted(module, shape)[1]


def counts(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """What `forward_flops` and `activations` return; nothing is remembered, as for a module that is made for one use."""
    kept, hooks = [math.prod(shape)], []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output.numel())

    for layer in module.modules():
        if not any(True for _ in layer.children()):
            hooks.append(layer.register_forward_hook(keep))
    training = module.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.eval()(torch.zeros(1, *shape))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return int(counter.get_total_flops()), sum(kept)


_counted = lru_cache(_COUNTED)(counts)
