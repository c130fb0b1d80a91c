"""The common head of clients whose own heads differ from it, and how far they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.random_coefficients import Form, RandomCoefficients, choose, generalised, spread, sum_of, ungeneralised
from scarcity_ray.ensemble.random_coefficients import fit as fit_coefficients
from scarcity_ray.ensemble.ridge import LeftOut, Rows, choose_strength
from scarcity_ray.training.objective import TaskKind

Personal = Literal["auto", "none"] | Form

_FAR, _AGAIN, _SETTLED = 9.0, 5, 0.01
"""Where predictions of clients' heads vary by more than three deviations of the noise, the covariance is fitted again under the heads
of generalised least squares: so many times, or until the noise changes by a smaller share."""


@dataclass(frozen=True)
class Differing:
    """The common head and the differences.

    fitted, strength: the moments and the ridge strength from which the common head is computed: for targets by generalised least
    squares, where clients' heads differ.
    noise: variance of an output about the prediction of its client's head.
    scatter: the covariance of clients' heads about the common one; None if all use that.
    residuals: `[k, r, outputs]` for each chunk of Rows, a client's targets minus the predictions of the common head fitted without it.
    """

    fitted: Moments
    strength: float
    noise: float
    scatter: RandomCoefficients | None
    residuals: list[Tensor]


def differing(task: TaskKind, total: Moments, clients: list[Rows], strength: float, left_out: LeftOut, personal: Personal) -> Differing:
    """total, clients: of the clients together, and of each. strength, left_out: of ridge on them (`ridge.choose_strength`).

    personal: the form of the differences; "auto": chosen by likelihood; "none": there are none.
    """
    if personal == "none":
        return Differing(total, strength, left_out.loss, None, left_out.residuals)
    scatter = _scatter(clients, left_out.residuals, personal)
    if task == "classification":
        return Differing(total, strength, scatter.noise, scatter, left_out.residuals)
    white = generalised(clients, scatter.covariance)
    fitted = sum_of(white)
    if sum(len(part.rest) for part in clients) < 2:
        return Differing(fitted, strength, scatter.noise, scatter, left_out.residuals)
    strength, left_out = choose_strength(fitted, white)
    residuals = ungeneralised(clients, scatter.covariance, left_out.residuals)
    # Least squares on rows of clients that lie far apart leaves errors in the common head, which then count as noise.
    for _ in range(_AGAIN):
        if spread(clients, scatter.covariance) < _FAR:
            break
        before = scatter.noise
        scatter = _scatter(clients, residuals, personal)
        white = generalised(clients, scatter.covariance)
        fitted = sum_of(white)
        strength, left_out = choose_strength(fitted, white)
        residuals = ungeneralised(clients, scatter.covariance, left_out.residuals)
        if abs(scatter.noise - before) < _SETTLED * before:
            break
    return Differing(fitted, strength, scatter.noise, scatter, residuals)


def _scatter(clients: list[Rows], residuals: list[Tensor], form: Literal["auto"] | Form) -> RandomCoefficients:
    return choose(clients, residuals) if form == "auto" else fit_coefficients(clients, residuals, form)
