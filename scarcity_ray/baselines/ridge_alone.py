"""Ridge regression on one client's rows, its strength chosen by leaving out one row at a time, in closed form.

With the centred features `X = U S V^T` and a constant that is not penalised, the fitted values are `H Y` with
`H = 1 1^T / n + U diag(s^2 / (s^2 + strength)) U^T`, and the prediction of a row that was left out misses it by
`(Y - H Y)_i / (1 - H_ii)` (Allen's PRESS; Golub, Heath and Wahba, Technometrics 1979, equation 1.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRENGTHS = np.logspace(-4, 3, 29)
"""Strengths that are tried, in units of the mean of the non-zero s^2; four per decade."""

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
    n, mean = len(x), y.mean(0)
    centred, rest = x - x.mean(0), to_predict - x.mean(0)
    if n < 2:
        return None
    # The smaller of both products has the same eigenvalues as the other, and costs a fraction.
    wide = x.shape[1] > n
    squares, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = squares > max(_RANK * squares[-1], np.finfo(np.float64).tiny)
    if not kept.any():
        return None
    squares, vectors = squares[kept], vectors[:, kept]
    scores = vectors * np.sqrt(squares) if wide else centred @ vectors  # U S, `[n, r]`
    new = rest @ (centred.T @ (vectors / np.sqrt(squares)) if wide else vectors)  # the same of the rows to predict
    u, projected = scores / np.sqrt(squares), scores.T @ (y - mean)
    strengths = STRENGTHS * squares.mean()
    shrunk = squares / (squares + strengths[:, None])  # `[strengths, r]`
    fitted = np.einsum("nr,lr,ro->lno", scores, 1 / (squares + strengths[:, None]), projected) + mean
    own = 1 / n + np.einsum("nr,lr->ln", np.square(u), shrunk)
    own = np.minimum(own, 1 - _OWN)
    residuals = (y - fitted) / (1 - own)[..., None]
    losses = np.square(residuals).mean((1, 2))
    best = int(np.flatnonzero(losses <= losses.min() * (1 + _TIE))[-1])
    return LeftOut(float(losses[best]), residuals[best], new @ (projected / (squares + strengths[best])[:, None]) + mean)
