"""Fitness: how well experts fit clients who differ from them in ways of their own.

A client's head for output c is its expert's times a scale of its own, plus a shift: `(1 + b) w_c + u`, b ~ N(0, noise * scale),
u ~ N(0, noise * Q) (see ensemble.random_coefficients for Q). The scale is what a client's mixture of classes does to one-hot
targets: what it has none of is never foretold. Without it, digits of 580 clients whose mixtures are drawn from Dirichlet(0.3),
and who are alike otherwise, fall into five groups by their mixtures, which costs 0.07 of accuracy; with it they are one.

Such a scale is a nuisance to be set apart, not a part of clients' heads: it lowers their squared error where classes stay as
they are among the rows at hand, and accuracy on new rows (100 clients of 8 digits: 0.94 in place of 0.98).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.ensemble.personal import marginal, times, whiten
from scarcity_ray.ensemble.random_coefficients import fit as fit_coefficients
from scarcity_ray.ensemble.ridge import Rows

_SCALES = np.concatenate([[0.0], np.logspace(-4, 2, 25)])
"""Variances of the scale tried, as the variance they give to a prediction in units of the noise: 0, then four a decade."""
_TURNS = 4  # rotations whose halves are judged


@dataclass(frozen=True)
class Fitness:
    """How clients differ from their experts.

    shift: the diagonal of Q `[width]`. scale: variance of b, relative to the noise. noise: variance of a target about its
    client's own head. log_likelihood: of all clients, each under its expert.

    Residuals are what an expert's head, fitted without the client, leaves of its targets: `[k, r, K, outputs]` for K
    experts and each chunk of Rows.
    """

    shift: Tensor
    scale: float
    noise: float
    log_likelihood: float

    @classmethod
    def of(cls, clients: list[Rows], residuals: list[Tensor]) -> Fitness:
        """The one of maximum likelihood, the shift before the scale, from residuals `[k, r, outputs]` under each client's expert."""
        shift = torch.zeros(clients[0].features.shape[2], dtype=torch.float64)
        if not any(bool(part.any()) for part in residuals):
            return cls(shift, 0.0, 1.0, math.inf)
        shift = fit_coefficients(clients, residuals, "slopes").covariance
        numbers = float(sum(part.numbers.sum() for part in clients))
        squares, guess, both, determinant = _products(clients, residuals, shift)
        scales = torch.from_numpy(_SCALES)[:, None] / (float(guess.sum()) / numbers or 1.0)
        noise = (squares - (scales * both.square() / (1 + scales * guess)).sum(1)) / numbers
        likely = -0.5 * (numbers * (torch.log(2 * torch.pi * noise) + 1) + torch.log1p(scales * guess).sum(1) + determinant)
        best = int(likely.argmax())
        return cls(shift, float(scales[best]), float(noise[best]), float(likely[best]))

    def losses(self, part: Rows, residuals: Tensor) -> Tensor:
        """`[k, K]`: how unlikely a client's targets are under each expert, -2 noise log density but for a constant."""
        guesses = part.targets[:, :, None] - residuals
        white, guess = _white(marginal(part.features, self.shift), residuals, guesses)
        return self._unlikely(white, guess) + part.rest[:, None]

    def errors_unseen(self, part: Rows, residuals: Tensor, rng: np.random.Generator) -> Tensor:
        """Squared error `[k]` on each client's rows, each half foretold from the other half, averaged over rotations.

        The half seen chooses the expert and tells the client's differences from it.
        """
        errors = part.rest.clone()
        guesses = part.targets[:, :, None] - residuals
        for _ in range(_TURNS):
            rotation, halves = _halves(part, rng)
            rows = (rotation @ part.features, _turn(rotation, residuals), _turn(rotation, guesses))
            for seen, unseen in (halves, halves[::-1]):
                errors += (self._missed(seen, *rows).square() * unseen[..., None]).sum((1, 2)) / _TURNS
        return errors

    def _missed(self, seen: Tensor, features: Tensor, residuals: Tensor, guesses: Tensor) -> Tensor:
        """What is left of all targets `[k, r, outputs]` once the rows seen `[k, r]` have told what they can."""
        here = seen[..., None, None]
        own = features * seen[..., None]
        factor = marginal(own, self.shift)
        white, guess = _white(factor, residuals * here, guesses * here)
        client, expert = torch.arange(len(seen)), self._unlikely(white, guess).argmin(1)
        white, guess, residuals, guesses = (value[client, :, expert] for value in (white, guess, residuals, guesses))
        scale = self.scale * (white * guess).sum(1, keepdim=True) / (1 + self.scale * guess.square().sum(1, keepdim=True))
        (spread,) = whiten(factor, times(own, self.shift))
        return residuals - guesses * scale - features @ (spread.mT @ (white - guess * scale))

    def _unlikely(self, white: Tensor, guess: Tensor) -> Tensor:
        """`[k, K]`, from residuals and guesses `[k, r, K, outputs]` that the shift's covariance has been taken from (Woodbury)."""
        size = 1 + self.scale * guess.square().sum(1)
        explained = self.scale * (white * guess).sum(1).square() / size
        return (white.square().sum(1) - explained + self.noise * size.log()).sum(2)


def _white(factor: Tensor, *values: Tensor) -> Iterator[Tensor]:
    """Each of `[k, r, K, outputs]` times the inverse of a factor `[k, r, r]`."""
    return (white.reshape(values[0].shape) for white in whiten(factor, *(value.flatten(2) for value in values)))


def _products(clients: list[Rows], residuals: list[Tensor], shift: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Of residuals e and guesses g without the shift's covariance V: the sum of squares of e, with what no head explains;
    |g|^2 and g^T e by client and output; and log |V| over both."""
    squares, guesses, both, determinant = torch.zeros((), dtype=torch.float64), [], [], 0.0
    for part, e in zip(clients, residuals, strict=True):
        factor = marginal(part.features, shift)
        white, guess = whiten(factor, e, part.targets - e)
        squares += white.square().sum() + part.rest.sum()
        guesses.append(guess.square().sum(1).flatten())
        both.append((white * guess).sum(1).flatten())
        determinant += 2 * e.shape[2] * float(factor.diagonal(dim1=1, dim2=2).log().sum())
    return squares, torch.cat(guesses), torch.cat(both), determinant


def _turn(rotation: Tensor, values: Tensor) -> Tensor:
    """Rotated rows of `[k, r, K, outputs]`."""
    return (rotation @ values.flatten(2)).reshape(values.shape)


def _halves(part: Rows, rng: np.random.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A random rotation `[k, r, r]` of each client's rows among themselves, and which `[k, r]` are then either half."""
    r = part.features.shape[1]
    ranks = ranks_of(part)[:, None]
    inside = torch.arange(r) < ranks
    normal = torch.from_numpy(rng.standard_normal((len(ranks), r, r)))
    among = inside[:, :, None] & inside[:, None, :]
    rotation: Tensor = torch.linalg.qr(torch.where(among, normal, torch.eye(r, dtype=normal.dtype))).Q
    first = torch.arange(r) < ranks // 2
    return rotation, (first, inside & ~first)


def ranks_of(part: Rows) -> Tensor:
    """How many rows of each client are not zero, `[k]`."""
    return (part.features.square().sum(2) > 0).sum(1)


def in_standard_errors(differences: Tensor) -> float:
    """A sum over clients in units of its standard error; 0 where all are the same."""
    spread = float(differences.std()) * math.sqrt(len(differences))
    return float(differences.sum()) / spread if spread > 0 else 0.0
