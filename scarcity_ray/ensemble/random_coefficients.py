"""Random coefficients: the covariance of clients' heads about their expert's, learned from clients' moments.

Client m's head is `W_m ~ N(W, noise * Q)`, with the same distribution for each output and independent between outputs. So its
targets are `Y_m ~ N(F_m W, noise * V_m)` with `V_m = I + F_m Q F_m^T`: the linear mixed model (Laird and Ware, "Random-Effects
Models for Longitudinal Data", Biometrics 1982; Q is their covariance divided by the noise). First Q is fitted to the
differences between each client's targets and the predictions of the other clients' head (`choose`). Then W is fitted by
generalised least squares, which is ridge on `generalised` rows.

The fit of Q uses the residuals of every client under a ridge head fitted without it, not the joint likelihood of W and Q. If
the model is true, both give the same result: on Chem97 (2,410 schools, 5 splits) noise and variances agree within 1 %, and
errors within 1e-4. If it is not, the joint likelihood is too confident: for digits in three hidden rotations under one expert
(256 features, 5 seeds) the accuracy is 0.930 with the residuals and 0.900 with the joint likelihood.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.personal import marginal, whiten
from scarcity_ray.ensemble.ridge import Rows

Form = Literal["full", "slopes", "intercept"]
"""full: any covariance. slopes: one variance for all features' coefficients, one for the constant's. intercept: only the constant's."""

_START = 0.3  # standard deviation of a prediction in units of the noise's, at first
_BOUNDS = (10.0, 100.0, 1000.0)  # upper bounds of it: a wider one is tried where the best value is at the bound
WIDEST = 33  # largest width for which a full covariance is tried: its cost grows with the cube of the width
_NULL = 1e-6  # eigenvalues below this share of the largest one of the pooled gram count as 0


@dataclass(frozen=True)
class RandomCoefficients:
    """A fitted covariance.

    form: the form of Q.
    covariance: Q, float64, relative to the noise: `[width, width]` if full, else its diagonal `[width]`.
    noise: variance of a target about the prediction of a client's own head.
    log_likelihood: of the residuals at this covariance and noise.
    parameters: number of free parameters of Q.
    iterations: steps of the optimiser.
    """

    form: Form
    covariance: Tensor
    noise: float
    log_likelihood: float
    parameters: int
    iterations: int

    def pack(self) -> NDArray[np.floating]:
        """Q as it is sent.

        intercept: the constant's variance, float32. slopes: the features' and the constant's variance, float32. full: the upper
        triangle of U `[rank, width]` with Q = U^T U, float16. So the receiver always gets a valid covariance, exact to a thousandth.
        """
        if self.form == "full":
            values, vectors = torch.linalg.eigh(self.covariance)
            kept = values > _NULL * values[-1]
            u = torch.linalg.qr(values[kept].sqrt()[:, None] * vectors[:, kept].mT).R.numpy()
            return np.asarray(u[np.triu_indices(len(u), m=u.shape[1])], dtype=np.float16)
        q = self.covariance.float().numpy()
        return np.asarray(q[-1:] if self.form == "intercept" else q[[0, -1]])


def unpack(numbers: NDArray[np.floating], width: int) -> Tensor:
    """The covariance, `[width]` or `[width, width]`, from the numbers that `pack` returned."""
    values = torch.from_numpy(np.asarray(numbers, dtype=np.float64))
    if numbers.dtype != np.float16:
        slope = values[0] if len(values) == 2 else values.new_zeros(())
        return torch.cat([slope.expand(width - 1), values[-1:]])
    rank = next(rank for rank in range(width + 1) if rank * width - rank * (rank - 1) // 2 == len(values))
    u = values.new_zeros(rank, width)
    upper = torch.triu_indices(rank, width)
    u[upper[0], upper[1]] = values
    return u.T @ u


def choose(clients: list[Rows], residuals: list[Tensor]) -> RandomCoefficients:
    """The covariance of the best form: the highest log likelihood minus parameters (Akaike's criterion).

    A full covariance is tried only for few features, and if there are more clients' heads than parameters; otherwise it could
    explain every row with a noise of 0. There is no form with one variance per feature: 257 variances in place of two give
    accuracy 0.958 against 0.961 with 20 clients per expert (digits in three rotations, 5 seeds), and 0.982 against 0.981 with
    100 (not rotated).
    """
    width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
    forms: list[Form] = ["intercept", "slopes"]
    if width <= WIDEST and width * (width + 1) // 2 < outputs * sum(len(part.rest) for part in clients):
        forms.append("full")
    return max((fit(clients, residuals, form) for form in forms), key=lambda found: found.log_likelihood - found.parameters)


def fit(clients: list[Rows], residuals: list[Tensor], form: Form) -> RandomCoefficients:
    """The covariance of maximum likelihood: argmax over Q and noise of sum log N(E_m; 0, noise * V_m).

    residuals: E_m = Y_m - F_m W_{-m} under the head of the other clients, for each chunk of clients `[k, r, outputs]` (as in
    `ridge.LeftOut`). The parameter is the root R of Q = R R^T, so that a variance of 0 is not at a boundary, in coordinates in
    which the pooled rows are uncorrelated. The noise has a closed form. The optimiser is L-BFGS with exact gradients; it takes
    about ten steps, twenty for a full covariance.
    """
    basis, start = _coordinates(clients, form)
    numbers = float(sum(part.numbers.sum() for part in clients))

    def root(flat: NDArray[np.float64]) -> Tensor:
        return basis @ torch.from_numpy(flat).reshape(start.shape)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        r = root(flat)
        value, _, slope = _likelihood(clients, residuals, _square(r))
        gradient = basis.T @ (2 * (slope * r if r.ndim == 1 else slope @ r))
        return -value / numbers, -gradient.numpy().ravel() / numbers

    at, iterations = start.numpy().ravel(), 0
    for most in _BOUNDS:
        found = minimize(loss, at, jac=True, method="L-BFGS-B", bounds=[(-most, most)] * len(at), options={"ftol": 1e-12, "gtol": 1e-8})
        at, iterations = found.x, iterations + int(found.nit)
        if np.abs(at).max() < most:
            break
    covariance = _square(root(at))
    value, noise, _ = _likelihood(clients, residuals, covariance)
    size = len(start)
    return RandomCoefficients(form, covariance, noise, value, size * (size + 1) // 2 if form == "full" else size, iterations)


def generalised(clients: list[Rows], covariance: Tensor) -> list[Rows]:
    """The clients' rows times V_m^(-1/2). Ridge on these rows is generalised least squares, with the same choice of strength.

    The gram of a client is then `F^T V^-1 F`, so similar rows of one client count less. At strength 0 the head is the best
    linear unbiased estimate.
    """
    white = (whiten(marginal(part.features, covariance), part.features, part.targets) for part in clients)
    return [replace(part, features=features, targets=targets) for part, (features, targets) in zip(clients, white, strict=True)]


def spread(clients: list[Rows], covariance: Tensor) -> float:
    """The variance of a prediction over clients' heads in units of the noise's, the mean over all rows."""
    gram = sum_of(clients)
    energy = gram.gram.diagonal() @ covariance if covariance.ndim == 1 else (gram.gram * covariance).sum()
    return float(energy / gram.samples)


def ungeneralised(clients: list[Rows], covariance: Tensor, residuals: list[Tensor]) -> list[Tensor]:
    """Residuals of generalised rows as residuals of the clients' own rows, times V_m^(1/2)."""
    return [marginal(part.features, covariance) @ left for part, left in zip(clients, residuals, strict=True)]


def sum_of(clients: list[Rows]) -> Moments:
    """The moments of all clients' rows together."""
    width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
    both = torch.zeros(width + outputs, width + outputs, dtype=torch.float64)
    for part in clients:
        rows = torch.cat([part.features, part.targets], dim=2).flatten(0, 1)
        both += rows.T @ rows
    square = both.diagonal()[width:].sum() + sum(float(part.rest.sum()) for part in clients)
    samples = torch.tensor(sum(float(part.numbers.sum()) for part in clients) / outputs, dtype=torch.float64)
    return Moments(both[:width, :width], both[:width, width:], square, samples)


def _coordinates(clients: list[Rows], form: Form) -> tuple[Tensor, Tensor]:
    """A basis `[width, p]` and the first x: Q's root is `basis @ x`, x `[p, p]`, or `[p]` for the diagonal of a diagonal root.

    At x = 1 the variance of a prediction equals the noise, on average over the pooled rows.
    """
    total = sum_of(clients)
    gram = total.gram / total.samples
    if form == "full":
        values, vectors = torch.linalg.eigh(gram)
        kept = values > _NULL * values[-1]
        basis = vectors[:, kept] / values[kept].sqrt()
        return basis, torch.eye(basis.shape[1], dtype=gram.dtype) * (_START / math.sqrt(basis.shape[1]))
    constant = torch.eye(len(gram), dtype=gram.dtype)[:, -1:]
    energy = float(gram.diagonal()[:-1].sum())
    if form == "intercept" or energy == 0:
        return constant, gram.new_full((1,), _START)
    return torch.cat([(1 - constant) / math.sqrt(energy), constant], dim=1), gram.new_full((2,), _START)


def _square(root: Tensor) -> Tensor:
    """Q from its root, or the diagonal of Q from the diagonal of its root."""
    return root.square() if root.ndim == 1 else root @ root.T


def _likelihood(clients: list[Rows], residuals: list[Tensor], covariance: Tensor) -> tuple[float, float, Tensor]:
    """The log likelihood at Q and the best noise, that noise, and the derivative of the log likelihood by Q (shape of Q)."""
    width, outputs = len(covariance), residuals[0].shape[2]
    gram, scatter = torch.zeros_like(covariance), torch.zeros_like(covariance)
    squares = determinant = numbers = 0.0
    for part, e in zip(clients, residuals, strict=True):
        factor = marginal(part.features, covariance)
        features, own = whiten(factor, part.features, e)
        for sums, rows in ((gram, features), (scatter, own.mT @ features)):  # F^T V^-1 F and F^T V^-1 E E^T V^-1 F
            flat = rows.reshape(-1, width)
            sums += flat.square().sum(0) if covariance.ndim == 1 else flat.T @ flat
        squares += float(own.square().sum() + part.rest.sum())
        determinant += 2 * outputs * float(factor.diagonal(dim1=1, dim2=2).log().sum())
        numbers += float(part.numbers.sum())
    noise = max(squares / numbers, sys.float_info.min)  # 0 if the other clients' head predicts every row exactly
    value = -0.5 * (numbers * (math.log(2 * math.pi * noise) + 1) + determinant)
    return value, noise, -0.5 * (outputs * gram - scatter / noise)
