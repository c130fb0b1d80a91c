"""Ridge regression on one client's rows, its strength chosen by leaving out one row at a time, in closed form.

With the centred features `X = U S V^T` and a constant that is not penalised, the fitted values are `H Y` with
`H = 1 1^T / n + U diag(s^2 / (s^2 + strength)) U^T`, and the prediction of a row that was left out misses it by
`(Y - H Y)_i / (1 - H_ii)` (Allen's PRESS; Golub, Heath and Wahba, Technometrics 1979, equation 1.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

STRENGTHS = np.logspace(-4, 2, 13)
"""Strengths that are tried, in units of the mean of the non-zero s^2; two per decade."""

_RANK = 1e-10  # an s^2 below this share of the largest is 0
_OWN = 1e-6  # a row that determines its own fitted value by more than 1 less this has no left-out prediction
_TIE = 1e-6  # losses closer than this share are equal, and the greatest strength is taken

Values = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """The best of the strengths. loss: mean squared error of left-out rows, over rows and outputs. residuals: `[n, outputs]`, targets
    minus their left-out predictions. predictions: `[m, outputs]` of the rows to predict."""

    loss: float
    residuals: Values
    predictions: Values


def constant(y: Values, rows: int) -> LeftOut:
    """The mean of the targets `[n, outputs]`, n at least 1, for so many rows to predict: a ridge of infinite strength.

    A single row has no left-out prediction: its loss is infinite.
    """
    n, mean = len(y), y.mean(0)
    residuals = (y - mean) * (n / (n - 1)) if n > 1 else np.full_like(y, np.inf)
    return LeftOut(float(np.square(residuals).mean()), residuals, np.broadcast_to(mean, (rows, y.shape[1])))


def ridge(x: Values, y: Values, to_predict: Values) -> LeftOut | None:
    """The ridge of the strength with the lowest left-out loss; None where the features say nothing (one row, or all rows alike).

    x: `[n, features]`. y: `[n, outputs]`. to_predict: `[m, features]`.
    """
    n = len(x)
    if n < 2:
        return None
    # By torch, whose products take one thread in a run: small ones are faster so, and have the same bits on any number of cores.
    rows, targets, new = (torch.from_numpy(np.ascontiguousarray(part)) for part in (x, y, to_predict))
    centre, mean = rows.mean(0), targets.mean(0)
    centred, new = rows - centre, new - centre
    # The smaller of both products has the same eigenvalues as the other, and costs a fraction.
    wide = x.shape[1] > n
    squares, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = squares > max(_RANK * float(squares[-1]), float(np.finfo(np.float64).tiny))
    if not kept.any():
        return None
    squares, vectors = squares[kept], vectors[:, kept]
    scores = vectors * squares.sqrt() if wide else centred @ vectors  # U S, `[n, r]`
    new = new @ (centred.T @ (vectors / squares.sqrt()) if wide else vectors)  # the same of the rows to predict
    projected = scores.T @ (targets - mean)
    strengths = torch.from_numpy(STRENGTHS) * squares.mean()
    inverse = 1 / (squares + strengths[:, None])  # `[strengths, r]`
    fitted = (scores * inverse[:, None]) @ projected + mean
    own = (1 / n + inverse @ scores.square().T).clamp(max=1 - _OWN)
    residuals = (targets - fitted) / (1 - own)[..., None]
    losses = residuals.square().mean((1, 2))
    best = int(torch.nonzero(losses <= losses.min() * (1 + _TIE))[-1])
    predictions = new @ (projected * inverse[best][:, None]) + mean
    return LeftOut(float(losses[best]), residuals[best].numpy(), predictions.numpy())
