"""Generalised linear models with their canonical links: what one client's rows say at given coefficients, and the Newton step.

d is the number of inputs and the constant, which comes first; c is the number of linear predictors of a row: 1, or classes - 1.
Coefficients are `[d, c]`. Where they are one vector, of length p = d c, the predictors come one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Family = Literal["gaussian", "binomial", "multinomial", "poisson"]

LARGEST = 40.0
"""The most that the logarithm of an expected count may be. exp(40) is 2e17, and its square is still a float32."""

_ALIASED = 1e-9  # a column whose variance, given those before it, is a smaller share of its own square mean adds nothing
_FLAT = 1e-11  # a direction in which the equilibrated information is a smaller share of its largest is not known
_LEAST = 1e-200  # a smaller diagonal entry counts as 0: the inverse of a larger one is finite
_TOUCHED = 1e-8  # a coefficient that has a larger share in such directions is not known either


@dataclass(frozen=True)
class Message:
    """Means over rows, float64. score: `[p]`, the gradient of the log-likelihood. information: `[p (p + 1) / 2]`, the upper triangle
    of X'WX by rows. deviance: `[1]`."""

    score: Tensor
    information: Tensor
    deviance: Tensor


def message(family: Family, x: Tensor, y: Tensor, beta: Tensor) -> Message:
    """What rows say at coefficients beta `[d, c]`; zeros where there are none.

    x: float64 `[n, d]`, the constant first. y: int64 `[n]`, classes from 0 to c, or float64 `[n]`, targets.

    With the mean m and the variance V of y given the predictors `eta = x beta`: the score is `x (y - m)`, and the information
    `x V x'`, as links are canonical. Classes have one predictor each, that of class 0 being 0, and y is their one-hot code.
    """
    width, n = beta.numel(), max(len(x), 1)
    eta = x @ beta
    if family == "gaussian":
        rest, variance, deviance = y[:, None] - eta, torch.ones_like(eta)[:, :, None], (y[:, None] - eta).square()
    elif family == "poisson":
        eta = eta.clamp(max=LARGEST)
        mean = eta.exp()
        rest, variance = y[:, None] - mean, mean[:, :, None]
        deviance = 2 * (torch.xlogy(y, y)[:, None] - y[:, None] * eta - rest)
    else:
        log_p = torch.log_softmax(torch.cat([torch.zeros_like(eta[:, :1]), eta], 1), 1)
        p = log_p.exp()
        others = p @ (1 - torch.eye(p.shape[1], dtype=p.dtype))  # 1 - p, without its rounding
        rest = torch.nn.functional.one_hot(y, p.shape[1])[:, 1:] - p[:, 1:]
        variance = torch.diag_embed((p * others)[:, 1:]) - _off_diagonal(p[:, 1:])
        deviance = -2 * log_p.gather(1, y[:, None])
    information = torch.empty(width, width, dtype=torch.float64)
    d, c = beta.shape
    for a in range(c):
        for b in range(a, c):
            information[a * d : (a + 1) * d, b * d : (b + 1) * d] = (x * variance[:, a, b, None]).T @ x / n
    upper = torch.triu_indices(width, width)
    return Message((x.T @ rest / n).T.reshape(-1), information[upper[0], upper[1]], (deviance.sum() / n).reshape(1))


def _off_diagonal(p: Tensor) -> Tensor:
    products = p[:, :, None] * p[:, None]
    return products - torch.diag_embed(p.square())


def unpacked(information: Tensor, width: int) -> Tensor:
    """The symmetric matrix `[p, p]` of a message's upper triangle."""
    whole = torch.zeros(width, width, dtype=torch.float64)
    upper = torch.triu_indices(width, width)
    whole[upper[0], upper[1]] = information
    return torch.triu(whole) + torch.triu(whole, 1).T


def independent(products: Tensor, order: Sequence[int]) -> Tensor:
    """Which columns `[d]` are no linear combination of those that come before them in an order. products: `[d, d]`, X'X or a multiple.

    It is Gaussian elimination without exchanges, on columns of length 1.
    """
    unit = _units(products)
    left, kept = products * unit[:, None] * unit, torch.zeros(len(products), dtype=torch.bool)
    for place in order:
        pivot = left[place, place].clone()
        if pivot > _ALIASED:
            kept[place] = True
            left -= torch.outer(left[:, place], left[place]) / pivot
    return kept


@dataclass(frozen=True)
class Inverse:
    """The inverse of an information matrix where it has one. matrix: `[p, p]`, 0 in the other directions. known: bool `[p]`, the
    coefficients that these do not touch."""

    matrix: Tensor
    known: Tensor

    @classmethod
    def of(cls, information: Tensor, kept: Tensor) -> Inverse:
        """kept: bool `[p]`, the coefficients that are estimated: the others are left out, and not known."""
        unit = _units(information) * kept
        values, vectors = torch.linalg.eigh(information * unit[:, None] * unit)
        steep = values > _FLAT * values[-1].clamp(min=_LEAST)
        chosen = vectors[:, steep] * unit[:, None]
        untouched = vectors[:, ~steep].square().sum(1) < _TOUCHED
        return cls((chosen / values[steep]) @ chosen.T, untouched & (unit > 0))


def _units(matrix: Tensor) -> Tensor:
    """One over the root of each diagonal entry; 0 where there is nothing in it."""
    diagonal = matrix.diagonal()
    return torch.where(diagonal > _LEAST, diagonal.clamp(min=_LEAST).rsqrt(), 0.0)
