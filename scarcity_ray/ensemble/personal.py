"""Personal heads: each client's own rows pull its head away from the expert's, as far as clients differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.ridge import LeftOut, Rows

SIGNALS = np.concatenate([[0.0], np.logspace(-4, 2, 25)])
"""Prior variances tried, as the variance they give to a prediction in units of the noise: 0, then four a decade."""


@dataclass(frozen=True)
class Prior:
    """How clients' heads differ from their expert's: W_m ~ N(W, noise * diag(slope, ..., slope, intercept)).

    slope is the variance of each feature's coefficient, intercept that of the constant's, both relative to the noise;
    0 is no difference. The constant has its own because clients differ in level first (a random-intercept model is
    intercept alone), and the unit of a feature's coefficient says nothing about that. 1 / slope is a ridge strength.
    """

    slope: float
    intercept: float

    def variances(self, width: int) -> Tensor:
        """The diagonal, `[width]`, float64."""
        diagonal = torch.full((width,), self.slope, dtype=torch.float64)
        diagonal[-1] = self.intercept
        return diagonal


def log_evidence(clients: list[Rows], left_out: LeftOut, slopes: Tensor, intercepts: Tensor) -> Tensor:
    """How well each pair of prior variances foretells every client from the others, `[slopes, intercepts]`.

    Sum over clients of log N(y_m; f_m W_{-m}, s^2 (I + f_m Q f_m^T)), Q = diag(slope, .., intercept), with W_{-m} the head
    of the others and s^2 the same for all, at its best. In the eigenvectors of f f^T without the constant the covariance
    is diagonal but for the constant's rank of one, so one decomposition a client serves all pairs.
    """
    determinant = torch.zeros(len(slopes), len(intercepts), dtype=torch.float64)
    squares = torch.zeros_like(determinant)
    numbers = float(sum(part.numbers.sum() for part in clients))
    for part, residuals in zip(clients, left_out.residuals, strict=True):
        f, constant = part.features[..., :-1], part.features[..., -1:]
        values, vectors = torch.linalg.eigh(f @ f.transpose(1, 2))
        values = values.clamp(min=0)
        constant, e = vectors.transpose(1, 2) @ constant, vectors.transpose(1, 2) @ residuals
        outputs = e.shape[2]
        for i, slope in enumerate(slopes):
            inverse = 1 / (1 + slope * values)[..., None]
            own = (constant.square() * inverse).sum((1, 2))  # c^T D^-1 c
            with_residuals = (constant * e * inverse).sum(1).square().sum(1)  # |c^T D^-1 e|^2
            plain = (e.square() * inverse).sum() + part.rest.sum()
            rank_one = 1 + intercepts[:, None] * own
            squares[i] += plain - (intercepts[:, None] / rank_one * with_residuals).sum(1)
            determinant[i] += outputs * (rank_one.log().sum(1) - inverse.log().sum())
    noise = squares / numbers
    return -0.5 * (numbers * (torch.log(2 * torch.pi * noise) + 1) + determinant)


def choose_prior(total: Moments, clients: list[Rows], left_out: LeftOut) -> Prior:
    """The prior of the greatest evidence among SIGNALS: a slope and an intercept."""
    per_row = float(total.gram.diagonal()[:-1].sum() / total.samples)
    signals = torch.from_numpy(SIGNALS)
    slopes = signals / per_row if per_row > 0 else signals[:1]
    found = log_evidence(clients, left_out, slopes, signals)
    i, j = divmod(int(found.argmax()), len(signals))
    return Prior(float(slopes[i]), float(signals[j]))


def personal_head(features: Tensor, targets: Tensor, head: Tensor, prior: Prior) -> Tensor:
    """A client's own head `[width, outputs]`: the posterior mean, given its rows `[n, width]` and targets `[n, outputs]`.

    `W + Q F^T (I + F Q F^T)^-1 (Y - F W)`, the same as W + (G + Q^-1)^-1 (B - G W) from its moments, in the form whose
    size is the smaller. Float64.
    """
    n, width = features.shape
    q, residuals = prior.variances(width), targets - features @ head
    if n <= width:
        inside = torch.eye(n, dtype=features.dtype) + (features * q) @ features.T
        shift: Tensor = q[:, None] * (features.T @ torch.linalg.solve(inside, residuals))
        return head + shift
    root = q.sqrt()[:, None]
    scaled = features * root.T
    inside = torch.eye(width, dtype=features.dtype) + scaled.T @ scaled
    shift = root * torch.linalg.solve(inside, scaled.T @ residuals)
    return head + shift
