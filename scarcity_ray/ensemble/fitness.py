"""Fitness: how well experts fit clients, if each client may differ from its expert.

A client's head for output c is its expert's times its own scale, plus a shift: `(1 + b) w_c + u`, b ~ N(0, noise * scale),
u ~ N(0, noise * Q) (see ensemble.random_coefficients for Q). The scale models the effect of a client's mixture of classes on
one-hot targets: a class that the client does not have is never its prediction. Without the scale, digits of 580 clients that
differ only in their mixtures, from Dirichlet(0.3), are split into five groups by mixture, which costs 0.07 of accuracy; with it
they form one group.

The scale is a nuisance parameter and not a part of clients' heads. In a head it would lower the squared error as long as the
classes stay as frequent as in the client's rows, but also the accuracy on new rows (100 clients of 8 digits: 0.94, not 0.98).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.ensemble.halves import Half
from scarcity_ray.ensemble.personal import marginal, whiten
from scarcity_ray.ensemble.random_coefficients import choose
from scarcity_ray.ensemble.random_coefficients import fit as fit_coefficients
from scarcity_ray.ensemble.ridge import Rows

_SCALES = np.concatenate([[0.0], np.logspace(-4, 2, 25)])
"""Variances of the scale that are tried, as the variance of a prediction in units of the noise: 0, then four per decade."""


@dataclass(frozen=True)
class Fitness:
    """How clients differ from their experts.

    shift: Q `[width, width]`, or its diagonal `[width]`.
    scale: variance of b, relative to the noise.
    noise: variance of a target about the prediction of its client's own head.
    log_likelihood: of all clients, each under its expert.

    In the methods, residuals are a client's targets minus the predictions of experts' heads that were fitted without the
    client: `[k, r, K, outputs]` for K experts and each chunk of Rows.
    """

    shift: Tensor
    scale: float
    noise: float
    log_likelihood: float

    @classmethod
    def of(cls, clients: list[Rows], residuals: list[Tensor], *, any_form: bool = False) -> Fitness:
        """The Fitness of maximum likelihood from residuals `[k, r, outputs]` under each client's expert. The shift is fitted first.

        any_form: its covariance has the best form, as that of clients' own heads will have, and may be full; else one variance for all
        features and one for the constant.
        """
        shift = torch.zeros(clients[0].features.shape[2], dtype=torch.float64)
        if not any(bool(part.any()) for part in residuals):
            return cls(shift, 0.0, 1.0, math.inf)
        shift = (choose(clients, residuals) if any_form else fit_coefficients(clients, residuals, "slopes")).covariance
        numbers = float(sum(part.numbers.sum() for part in clients))
        squares, predicted, both, determinant = _products(clients, residuals, shift)
        scales = torch.from_numpy(_SCALES)[:, None] / (float(predicted.sum()) / numbers or 1.0)
        noise = (squares - (scales * both.square() / (1 + scales * predicted)).sum(1)) / numbers
        likelihood = -0.5 * (numbers * (torch.log(2 * torch.pi * noise) + 1) + torch.log1p(scales * predicted).sum(1) + determinant)
        best = int(likelihood.argmax())
        return cls(shift, float(scales[best]), float(noise[best]), float(likelihood[best]))

    def losses(self, part: Rows, residuals: Tensor) -> Tensor:
        """The loss of a client's targets under each expert, `[k, K]`: -2 noise log density, up to a constant."""
        predictions = part.targets[:, :, None] - residuals
        white, predicted = _white(marginal(part.features, self.shift), residuals, predictions)
        return self._losses(white, predicted) + part.rest[:, None]

    def surprise(self, part: Rows, residuals: Tensor, seen: Half) -> Tensor:
        """Minus the log density `[k]` of each client's rows outside the seen half, given that half.

        A client has each expert with the same probability; the seen half updates it, and says how the client differs.
        """
        predictions = part.targets[:, :, None] - residuals
        whole = self._log_density(part.features, residuals, predictions, part.numbers)
        half = self._log_density(seen.of(part.features), seen.of(residuals), seen.of(predictions), seen.rows * residuals.shape[3])
        return half.logsumexp(1) - whole.logsumexp(1)

    def positions(self, part: Rows, residuals: Tensor) -> Tensor:
        """Where each client lies on the line from its best expert, 0, to the one that fits it next best, 1: `[k]`, by generalised
        least squares. Predictions of equal experts give NaN."""
        own, other = self.losses(part, residuals).argsort(1)[:, :2].T
        client = torch.arange(len(own))
        from_own = residuals[client, :, own]
        line, at = whiten(marginal(part.features, self.shift), from_own - residuals[client, :, other], from_own)
        return (line * at).sum((1, 2)) / line.square().sum((1, 2))

    def _log_density(self, features: Tensor, residuals: Tensor, predictions: Tensor, numbers: Tensor) -> Tensor:
        """`[k, K]`, of so many targets `[k]` of each client under each expert."""
        factor = marginal(features, self.shift)
        determinant = 2 * residuals.shape[3] * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        losses = self._losses(*_white(factor, residuals, predictions))
        return -0.5 * (losses / self.noise + (numbers * math.log(2 * math.pi * self.noise) + determinant)[:, None])

    def _losses(self, white: Tensor, predicted: Tensor) -> Tensor:
        """`[k, K]`, from residuals and predictions `[k, r, K, outputs]`, both whitened by the shift's covariance (Woodbury)."""
        size = 1 + self.scale * predicted.square().sum(1)
        explained = self.scale * (white * predicted).sum(1).square() / size
        return (white.square().sum(1) - explained + self.noise * size.log()).sum(2)


def _white(factor: Tensor, *values: Tensor) -> Iterator[Tensor]:
    """Each of the values `[k, r, K, outputs]` times the inverse of a factor `[k, r, r]`."""
    return (white.reshape(values[0].shape) for white in whiten(factor, *(value.flatten(2) for value in values)))


def _products(clients: list[Rows], residuals: list[Tensor], shift: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """For residuals e and predictions g, whitened by the shift's covariance V: the sum of squares of e, with the part that no
    head explains; |g|^2 and g^T e for each client and output; and the sum of log |V| over both."""
    squares, predictions, both, determinant = torch.zeros((), dtype=torch.float64), [], [], 0.0
    for part, e in zip(clients, residuals, strict=True):
        factor = marginal(part.features, shift)
        white, predicted = whiten(factor, e, part.targets - e)
        squares += white.square().sum() + part.rest.sum()
        predictions.append(predicted.square().sum(1).flatten())
        both.append((white * predicted).sum(1).flatten())
        determinant += 2 * e.shape[2] * float(factor.diagonal(dim1=1, dim2=2).log().sum())
    return squares, torch.cat(predictions), torch.cat(both), determinant
