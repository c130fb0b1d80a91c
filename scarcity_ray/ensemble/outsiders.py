"""Outsiders: clients whose messages had no part in what an ensemble learned, because of what screening has found (ensemble.screening)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.learning import Group, Learned
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.personal import log_likelihood
from scarcity_ray.ensemble.random_coefficients import generalised, sum_of
from scarcity_ray.ensemble.ridge import Rows, fit, penalised, rows_of


def admit(
    learned: Learned,
    packing: Packing,
    rows: NDArray[np.float32],
    samples: NDArray[np.int64],
    weights: NDArray[np.float64],
    times: int = 1,
) -> tuple[Learned, NDArray[np.int64]]:
    """An ensemble with k outsiders, from their messages `[k, size]` and numbers of rows `[k]`, and the expert of each, `[k]`.

    weights: `[k]`, from 0 to 1. An outsider's moments, times its weight, enter the head of the expert that its rows are most likely
    under, and no more: groups, strengths, covariances, temperatures and the router count clients and rows, which have no fractions.
    times: as in `ridge.rows_of`.
    """
    groups, experts = list(learned.groups), np.zeros(len(rows), dtype=np.int64)
    heads = [fit(group.fitted, group.strength) for group in groups]
    for place, weight in enumerate(weights.tolist()):
        moments = packing.unpack(rows[[place]], samples[[place]])
        own = rows_of(moments, times)
        best = int(np.argmax([_log_likelihood(own, *one) for one in zip(heads, learned.groups, strict=True)]))
        experts[place] = best
        if weight > 0:
            groups[best] = _with(groups[best], own, packing, weight)
    return replace(learned, groups=groups), experts


def _log_likelihood(own: Rows, head: Tensor, group: Group) -> float:
    scatter = torch.zeros(len(head), dtype=torch.float64) if group.scatter is None else group.scatter.covariance
    value = log_likelihood(own.features, own.targets, head, scatter, group.noise)
    outside = own.numbers - own.targets[0].numel()  # of its own rows, which may be more than those with the same moments
    value = value - (outside * math.log(2 * math.pi * group.noise) + own.rest / group.noise) / 2
    return float(value.nan_to_num(nan=-torch.inf))


def _with(group: Group, own: Rows, packing: Packing, weight: float) -> Group:
    """A group whose head an outsider's rows have a share in, as `learning` makes it: by generalised least squares for targets."""
    white = [own] if group.scatter is None or packing.task == "classification" else generalised([own], group.scatter.covariance)
    added, fitted = sum_of(white), group.fitted
    both = Moments(*(getattr(fitted, name) + weight * getattr(added, name) for name in ("gram", "cross", "square", "samples")))
    return replace(group, fitted=both, covariance=torch.linalg.inv(penalised(both, group.strength)))
