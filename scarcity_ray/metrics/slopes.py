"""Logistic regressions on one number, for many clients at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.stat import Ids, Values

_STEPS = 100
_CLOSE = 1e-10  # of a step, in standard deviations of the scores


def slopes(client: Ids, scores: NDArray[np.float32], positive: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Values:
    """The slope of a logistic regression, with intercept and without penalty, of each chosen client; NaN for the others, `[k]`.

    client, scores, positive `[n]`: of each row, by client. chosen `[k]`: clients whose likelihood has a maximum. NaN where a score is
    not finite, or the maximum is not found. Newton's method, its steps halved where they do not raise the likelihood.
    """
    k = len(chosen)
    used = chosen & (np.bincount(client[~np.isfinite(scores)], minlength=k) == 0)
    rows = used[client]
    place, x, y = (np.cumsum(used) - 1)[client[rows]], scores[rows].astype(np.float64), positive[rows].astype(np.float64)
    found = np.full(k, np.nan)
    if not len(x):
        return found
    m = int(used.sum())

    def total(values: Values) -> Values:
        return np.asarray(np.bincount(place, values, minlength=m), dtype=np.float64)

    # Standardised scores: the two parameters are then of the same size for any model.
    count = total(np.ones_like(x))
    x -= (total(x) / count)[place]
    size = np.sqrt(total(x**2) / count)
    x /= size[place]
    b = np.zeros((2, m))
    reached = _likelihood(b, x, y, place, m)
    step_size, close = np.ones(m), np.zeros(m, dtype=np.bool_)
    for _ in range(_STEPS):
        with np.errstate(over="ignore"):  # of a probability that is 0
            p = 1.0 / (1.0 + np.exp(-(b[0][place] + b[1][place] * x)))
        weight, left = p * (1 - p), y - p
        g0, g1, h00, h01, h11 = total(left), total(left * x), total(weight), total(weight * x), total(weight * x**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / (h00 * h11 - h01**2)
        tried = b + step_size * np.nan_to_num(step)
        now = _likelihood(tried, x, y, place, m)
        better = now >= reached - 1e-12 * np.abs(reached)
        close |= better & (step_size == 1) & (np.abs(step).max(axis=0) < _CLOSE * (1 + np.abs(b).max(axis=0)))
        b, reached = np.where(better, tried, b), np.where(better, now, reached)
        step_size = np.where(better, np.minimum(2 * step_size, 1.0), step_size / 2)
        if close.all():
            break
        left_over = ~close[place]
        if left_over.mean() < 0.5:  # most clients need a few steps, and some many: those who have their slope move no more
            place, x, y = place[left_over], x[left_over], y[left_over]
    found[used] = np.where(close, b[1] / size, np.nan)
    return found


def _likelihood(b: Values, x: Values, y: Values, place: Ids, m: int) -> Values:
    """The log-likelihood of each client's rows, `[m]`."""
    odds = b[0][place] + b[1][place] * x
    return np.asarray(np.bincount(place, y * odds - np.logaddexp(0.0, odds), minlength=m), dtype=np.float64)
