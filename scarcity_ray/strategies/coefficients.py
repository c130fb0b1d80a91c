"""The coefficients of a fitted linear model as a table: in the user's units, by the names of the user's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from torch import Tensor

from scarcity_ray.core.federation import Array, Missing, Scaled
from scarcity_ray.training.glm import Family, Inverse
from scarcity_ray.training.problem import Problem

_LEVEL = 0.95
_NAMED = 5  # columns that a note names


@dataclass(frozen=True)
class Fit:
    """A model fitted to standardised inputs and targets.

    beta: `[d, c]`, the constant first. inverse: of a row's information, see `training.glm`. kept: bool `[d]`, what is estimated.
    iterations: rounds of messages. moving: whether coefficients have no finite best value. share: of the rows that were heard of in
    the last round.
    """

    family: Family
    beta: Tensor
    inverse: Inverse
    kept: Tensor
    rows: int
    deviance: float
    null_deviance: float
    iterations: int
    converged: bool
    moving: bool
    share: float
    strength: float


def table(fit: Fit, problem: Problem) -> dict[str, Any]:
    """What summary.json says of a fit: `coefficients`, a row each, and the numbers of the whole model; None: not known.

    estimate, std_error, lower and upper (95 %) are in units of the predictor a unit of the column; deviances in the user's unit.
    """
    names, shift, scale = columns(problem, len(fit.beta))
    d, c = fit.beta.shape
    unit = problem.label_scale if fit.family == "gaussian" else 1.0
    left = fit.rows - c * int(fit.kept.sum())
    dispersion: float | None = 1.0
    if fit.family == "gaussian":
        dispersion = fit.deviance / left if left > 0 else None
    classes = None if problem.task == "regression" else class_names(problem)
    found = []
    for k in range(c):
        own = slice(k * d, (k + 1) * d)
        variance = fit.inverse.matrix[own, own] * ((dispersion or 0.0) / fit.rows)
        estimates, errors = fit.beta[:, k] / scale, variance.diagonal().clamp(min=0.0).sqrt() / scale
        onto_zero = torch.cat([torch.ones(1, dtype=torch.float64), -shift[1:] / scale[1:]])
        estimates[0], errors[0] = onto_zero @ fit.beta[:, k], (onto_zero @ variance @ onto_zero).clamp(min=0.0).sqrt()
        estimates, errors, known = estimates * unit, errors * unit, fit.inverse.known[own].clone()
        if fit.family == "gaussian":
            estimates[0] += problem.label_mean
        known[0] = bool(known[fit.kept].all())  # at inputs of 0 in the user's units all coefficients have a part in it
        for j, name in enumerate(names):
            row = {"name": name, **({} if classes is None else {"class": classes[k + 1]})}
            estimate, error = float(estimates[j]), float(errors[j]) if known[j] and dispersion is not None else None
            found.append({**row, **_row(estimate if fit.kept[j] else None, error, left if fit.family == "gaussian" else None)})
    return {
        "family": fit.family,
        "coefficients": found,
        "test": "t" if fit.family == "gaussian" else "z",
        "deviance": fit.deviance * unit**2,
        "null_deviance": fit.null_deviance * unit**2,
        "dispersion": None if dispersion is None else dispersion * unit**2,
        "df_resid": left,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "notes": _notes(fit, names),
    }


def columns(problem: Problem, width: int) -> tuple[list[str], Tensor, Tensor]:
    """Names of the constant and the inputs, and what makes inputs of the user's columns, `(column - shift) / scale`: `[width]` each."""
    names, shift, scale = ["intercept"], torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
    if problem.encoding is None:
        return names + [f"x{place}" for place in range(width - 1)], shift, scale
    if isinstance(problem.encoding.inputs, Array):
        return names + list(problem.encoding.inputs.names), shift, scale
    for column in problem.encoding.inputs:
        if isinstance(column, Scaled):
            shift[len(names)], scale[len(names)] = column.mean, column.std
            names.append(column.name if column.power == 1 else f"{column.name}^{column.power}")
        elif isinstance(column, Missing):
            names.append(f"{column.name} is missing")
        else:
            names += [f"{column.name}={word}" for word in column.words]
    return names, shift, scale


def class_names(problem: Problem) -> list[str]:
    """What the user's table calls each class."""
    known = None if problem.encoding is None else problem.encoding.classes
    return [str(one) for one in known or range(problem.outputs)]


def _row(estimate: float | None, error: float | None, df: int | None) -> dict[str, float | None]:
    """df: degrees of freedom of a t statistic; None: z."""
    if estimate is None or error is None or not error > 0:
        return {"estimate": estimate, "std_error": error, "statistic": None, "p_value": None, "lower": None, "upper": None}
    statistic = estimate / error
    tail = ndtr(-abs(statistic)) if df is None else stdtr(df, -abs(statistic))
    wide = error * float(ndtri((1 + _LEVEL) / 2) if df is None else stdtrit(df, (1 + _LEVEL) / 2))
    return {
        "estimate": estimate,
        "std_error": error,
        "statistic": statistic,
        "p_value": 2 * float(tail),
        "lower": estimate - wide,
        "upper": estimate + wide,
    }


def _notes(fit: Fit, names: list[str]) -> list[str]:
    """What a reader of the table has to know, a sentence each."""
    notes = []
    if not fit.converged:
        notes.append(f"not converged after {fit.iterations} rounds: the estimates are not final")
    if fit.share < 1:
        notes.append(f"the last round is of {fit.share:.0%} of the training rows: clients dropped out, or were rejected")
    left_out = [name for name, kept in zip(names, fit.kept.tolist(), strict=True) if not kept]
    if left_out:
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        notes.append(f"no coefficient of its own, as the other columns determine it: {', '.join(left_out[:_NAMED])}{more}")
    if fit.moving or not bool(fit.inverse.known.reshape(-1, len(fit.kept))[:, fit.kept].all()):
        notes.append(
            "the columns separate labels perfectly, or nearly: some estimates have no finite best value; a strength above 0 gives one"
        )
    if fit.strength:
        notes.append(f"strength {fit.strength:g} shrinks estimates towards 0: intervals and p-values do not hold for the true coefficients")
    return notes
