"""A pilot: moments of few features at several bandwidths, to find the bandwidth that predicts left-out clients best."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.randomness import hash64
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.representation import FourierFeatures
from scarcity_ray.ensemble.ridge import all_rows, choose_strength
from scarcity_ray.training.problem import Problem

MULTIPLES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Bandwidths that are tried, in units of `ensemble.representation.bandwidth`."""

FEATURES = 32


def numbers(problem: Problem) -> int:
    """Number of float32 numbers in a client's message."""
    return len(MULTIPLES) * _packing(problem).size


def message(problem: Problem, spread: float, x: Tensor, y: Tensor) -> Tensor:
    """A client's moments at each bandwidth, float32 `[numbers]`, from its rows `[n, *shape]`. They reveal as much as Moments do."""
    maps = (_features(problem, spread * multiple) for multiple in MULTIPLES)
    return torch.cat([_packing(problem).pack(Moments.of(to(x), y, problem.task, problem.outputs)) for to in maps])


def best(problem: Problem, spread: float, rows: NDArray[np.float32], samples: NDArray[np.int64]) -> float:
    """The bandwidth of the lowest leave-one-client-out loss, from messages `[k, numbers]`, rounded to float32, as it is sent."""
    packing = _packing(problem)
    losses = []
    for part in np.split(rows, len(MULTIPLES), axis=1):
        _, left_out = choose_strength(packing.total(part, samples), all_rows(packing, part, samples))
        losses.append(left_out.loss)
    return float(np.float32(spread * MULTIPLES[int(np.argmin(losses))]))


def _packing(problem: Problem) -> Packing:
    return Packing(FEATURES + 1, problem.outputs, problem.task)


def _features(problem: Problem, bandwidth: float) -> FourierFeatures:
    return FourierFeatures(math.prod(problem.shape), FEATURES, int(hash64(problem.seed, "pilot")), bandwidth)
