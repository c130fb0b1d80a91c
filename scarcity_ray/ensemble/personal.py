"""Personal heads: each client's own rows move its head away from its expert's, as far as clients' heads are known to differ.

A client's head is `W_m ~ N(W, noise * Q)` for each output, where W is its expert's head. Its targets are its rows times its
head, plus noise. So `Y ~ N(F W, noise * V)` with `V = I + F Q F^T` (see ensemble.random_coefficients, where Q is learned).

In all functions features are the rows `[n, width]` and targets `[n, outputs]` of a client, or rows with the same moments
(`ridge.rows_of`); clients may be leading dimensions. A covariance Q is relative to the noise: `[width, width]`, or `[width]`
for the diagonal of a diagonal one. It may be singular. Float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def personal_head(features: Tensor, targets: Tensor, head: Tensor, covariance: Tensor) -> Tensor:
    """A client's own head `[width, outputs]`, the posterior mean `W + Q F^T V^-1 (Y - F W)`.

    It equals `W + (G + Q^-1)^-1 (B - G W)` from its moments G and B, but does not need the inverse of Q.
    """
    features, targets, _ = _short(features, targets)
    spread, residuals = whiten(marginal(features, covariance), times(features, covariance), targets - features @ head)
    return head + spread.mT @ residuals


def posterior_covariance(features: Tensor, covariance: Tensor) -> Tensor:
    """The posterior covariance of that head, relative to the noise: C = Q - Q F^T V^-1 F Q, `[width, width]`.

    A target at features f has the variance `noise * (1 + f^T C f)` about the head's prediction: f^T C f comes from the
    error of the head, 1 from the noise of the target.
    """
    features, _, _ = _short(features, features[..., :0])
    spread, _ = whiten(marginal(features, covariance), times(features, covariance), features[..., :0])
    return (torch.diag(covariance) if covariance.ndim == 1 else covariance) - spread.mT @ spread


def log_likelihood(features: Tensor, targets: Tensor, head: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """The log likelihood of a client's targets under an expert: log N(Y; F W, noise * V), summed over outputs. One number per client."""
    n, outputs = targets.shape[-2:]
    features, targets, rest = _short(features, targets)
    factor = marginal(features, covariance)
    (white,) = whiten(factor, targets - features @ head)
    determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    squares = white.square().sum((-2, -1)) + rest
    return -0.5 * (n * outputs * math.log(2 * math.pi * noise) + outputs * determinant + squares / noise)


def times(features: Tensor, covariance: Tensor) -> Tensor:
    """F Q."""
    return features * covariance if covariance.ndim == 1 else features @ covariance


def marginal(features: Tensor, covariance: Tensor) -> Tensor:
    """The Cholesky factor of V = I + F Q F^T, `[..., n, n]`."""
    eye = torch.eye(features.shape[-2], dtype=features.dtype)
    factor: Tensor = torch.linalg.cholesky(eye + times(features, covariance) @ features.mT)
    return factor


def whiten(factor: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """Each of the rows `[..., n, any]` times the inverse of V's factor."""
    white = torch.linalg.solve_triangular(factor, torch.cat(rows, dim=-1), upper=False)
    return tuple(white.split([part.shape[-1] for part in rows], dim=-1))


def _short(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with the same moments, but not more rows than features, and the part of sum |y|^2 outside their span."""
    if features.shape[-2] <= features.shape[-1]:
        return features, targets, targets.new_zeros(targets.shape[:-2])
    rotation, short = torch.linalg.qr(features)
    rotated = rotation.mT @ targets
    return short, rotated, targets.square().sum((-2, -1)) - rotated.square().sum((-2, -1))
