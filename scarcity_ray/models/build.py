"""Builds a torch module from a model's settings. The initial weights depend on the seed alone."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from scarcity_ray.core.importing import load_object
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError
from scarcity_ray.models.specs import CNN, MLP, Import, Linear


def build(spec: Linear | MLP | CNN | Import, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The module for inputs of `shape` and this number of outputs. Raises SpecError at ("model", ...) if the model does not fit them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hash64(seed, "model")) % 2**63)
        if isinstance(spec, Import):
            module = _imported(spec)
        elif isinstance(spec, CNN):
            module = _cnn(spec, shape, outputs)
        else:
            hidden = spec.hidden if isinstance(spec, MLP) else []
            bias = spec.bias if isinstance(spec, Linear) else True
            activation = nn.Tanh if isinstance(spec, MLP) and spec.activation == "tanh" else nn.ReLU
            module = _mlp([math.prod(shape), *hidden, outputs], activation, bias, flatten=len(shape) != 1)
    with torch.random.fork_rng(devices=[]):  # a module may draw random numbers in its forward pass; the caller's generator must not change
        _fits(module, spec, shape, outputs)
    return module


def _mlp(sizes: list[int], activation: type[nn.Module], bias: bool, flatten: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [activation()] if i else []
        layers.append(nn.Linear(inputs, outputs, bias=bias))
    return nn.Sequential(*layers)


def _cnn(spec: CNN, shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    if len(shape) == 3:
        channels, height, width = shape
    else:
        channels, (height, width) = 1, shape if len(shape) == 2 else (math.isqrt(math.prod(shape)),) * 2
        if len(shape) not in (1, 2) or height * width != math.prod(shape):
            raise SpecError(
                ("model", "kind"),
                "cnn",
                f"inputs of shape {list(shape)} are not images: [channels, height, width], [height, width] or flat and square",
            )
        layers.append(nn.Unflatten(1, (1, height, width)) if len(shape) == 1 else nn.Unflatten(1, (1, height)))
    if min(height, width) < 2 ** len(spec.channels):
        raise SpecError(
            ("model", "channels"),
            spec.channels,
            f"images of {height} x {width} cannot be halved {len(spec.channels)} times: use fewer convolutions",
        )
    for out in spec.channels:
        layers += [nn.Conv2d(channels, out, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, width = out, height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * width, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, outputs)]
    return nn.Sequential(*layers)


def _imported(spec: Import) -> nn.Module:
    where = ("model", "path")
    factory = load_object(spec.path, where)
    if not callable(factory):
        name = spec.path.partition(":")[2]
        raise SpecError(where, spec.path, f"{name} is a {type(factory).__name__}, not a function or class to call")
    try:
        module = factory(**spec.args)
    except Exception as error:  # the user's code runs here, which may raise anything
        raise SpecError(("model", "args"), spec.args, f"{spec.path} raises {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise SpecError(where, spec.path, f"it returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def _fits(module: nn.Module, spec: Linear | MLP | CNN | Import, shape: tuple[int, ...], outputs: int) -> None:
    where = ("model", "path") if isinstance(spec, Import) else ("model", "kind")
    value = spec.path if isinstance(spec, Import) else spec.kind
    example = next(module.parameters(), torch.zeros(0))
    if nn.parameter.is_lazy(example):
        raise SpecError(where, value, "it has lazy parameters, whose shapes are not known yet: give its layers their input sizes")
    kept = {name: b.clone() for name, b in module.named_buffers()}
    try:
        with torch.no_grad():
            result = module(torch.zeros(2, *shape, dtype=example.dtype if example.is_floating_point() else torch.float32))
    except Exception as error:  # as above
        raise SpecError(where, value, f"it fails on a batch of inputs of shape {list(shape)}: {type(error).__name__}: {error}") from error
    with torch.no_grad():
        for name, b in module.named_buffers():
            b.copy_(kept[name])
    if not isinstance(result, torch.Tensor) or tuple(result.shape) != (2, outputs):
        found = f"shape {list(result.shape)}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
        raise SpecError(where, value, f"for 2 inputs of shape {list(shape)} it returns {found}, not shape [2, {outputs}]")
