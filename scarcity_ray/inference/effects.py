"""Clients as a sample of a population: how far their true gains lie apart, and what the next client may expect."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr, stdtrit

Floats = NDArray[np.float64]

_GRID = 96
"""Values of tau^2 at which its confidence distribution is tabulated."""


class RandomEffects(NamedTuple):
    """What random effects say, in the gain's unit. NaN where there are too few clients (one, for all but mean).

    mean: of the population. standard_error, low, high: its 95 % interval. tau2: variance of true gains between clients.
    next_low, next_high: 95 % prediction interval of the true gain of a client that is not among these. clients: how many
    have a value.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    tau2: float
    next_low: float
    next_high: float
    clients: int


def random_effects(gains: ArrayLike, variances: ArrayLike) -> RandomEffects:
    """gains, variances: `[clients]`, each client's gain and the squared standard error of it, NaN gain where it has none.

    tau2: Paule and Mandel (J. Research NBS 87, 1982). Interval of the mean: Hartung and Knapp (Statistics in Medicine 20,
    2001), Sidik and Jonkman (2002), Student's t with clients - 1. Prediction interval: see `next_client`.
    Raises ValueError where shapes differ or a variance that counts is not positive and finite.
    """
    y, v = _present(gains, variances)
    count, nan = len(y), float("nan")
    if count == 0:
        return RandomEffects(nan, nan, nan, nan, nan, nan, nan, 0)
    if count == 1:
        return RandomEffects(float(y[0]), nan, nan, nan, nan, nan, nan, 1)
    tau2 = paule_mandel(y, v)
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    error = float(np.sqrt(w @ (y - mean) ** 2 / w.sum() / (count - 1)))
    half = _student(count - 1) * error
    low, high = next_client(y, v)
    return RandomEffects(mean, error, mean - half, mean + half, tau2, low, high, count)


def paule_mandel(gains: ArrayLike, variances: ArrayLike) -> float:
    """The tau^2 >= 0 at which sum (y - mean)^2 / (v + tau^2) is clients - 1 (Paule and Mandel 1982, eq. 13); 0 where there is none.

    Newton's steps from 0, as DerSimonian and Kacker (Contemporary Clinical Trials 28, 2007, appendix 8): the sum is convex
    and falls in tau^2, so that no step goes too far. Arguments as for `random_effects`, two clients or more.
    """
    y, v = _present(gains, variances)
    tau2, before = 0.0, -1.0
    while tau2 > before:
        w = 1 / (v + tau2)
        squares = (y - w @ y / w.sum()) ** 2
        too_much = float(w @ squares) - (len(y) - 1)
        if too_much <= 0:
            break
        before, tau2 = tau2, tau2 + too_much / float(w**2 @ squares)
    return tau2


def next_client(gains: ArrayLike, variances: ArrayLike) -> tuple[float, float]:
    """95 % prediction interval of the true gain of a client that is not among these. Arguments as for `random_effects`.

    From a confidence distribution (Nagashima, Noma and Furukawa, Statistical Methods in Medical Research 28, 2019): Cochran's Q at
    the true tau^2 is about chi-squared with clients - 1 degrees of freedom, which gives each tau^2 a weight; the new
    gain is the mixture of N(mean, tau^2 + standard error^2) over these weights. m +- t sqrt(tau^2 + se^2) (Higgins,
    Thompson and Spiegelhalter 2009) takes tau^2 as known and is too narrow wherever it comes out as 0. NaN for one client.
    """
    y, v = _present(gains, variances)
    count = len(y)
    if count < 2:
        return float("nan"), float("nan")
    spread = max(float(y.var(ddof=1)), float(v.max()))
    # up to where Q is below the 1 % point of chi-squared even with two clients
    taus = np.concatenate([[0.0], spread * np.geomspace(1e-6, 1e4, _GRID - 1)])
    q, means, errors2 = np.empty((3, _GRID))
    for place, tau2 in enumerate(taus):
        w = 1 / (v + tau2)
        means[place] = w @ y / w.sum()
        q[place] = w @ (y - means[place]) ** 2
        errors2[place] = 1 / w.sum()
    below: Floats = np.asarray(chdtrc(count - 1, q))
    cells = np.diff(below, prepend=0.0)
    cells /= cells.sum()
    centres = np.concatenate([[0.0], np.sqrt(taus[1:] * np.concatenate([[taus[1]], taus[1:-1]]))])
    scales = np.sqrt(centres + errors2)
    return _quantile(0.025, cells, means, scales), _quantile(0.975, cells, means, scales)


def _quantile(level: float, weights: Floats, means: Floats, scales: Floats) -> float:
    """Of a mixture of normals, by bisection."""
    low, high = float((means - 40 * scales).min()), float((means + 40 * scales).max())
    for _ in range(80):
        middle = (low + high) / 2
        if float(weights @ np.asarray(ndtr((middle - means) / scales))) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student(degrees: float) -> float:
    quantile: Any = stdtrit(degrees, 0.975)
    return float(quantile)


def _present(gains: ArrayLike, variances: ArrayLike) -> tuple[Floats, Floats]:
    y, v = np.asarray(gains, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.shape != v.shape or y.ndim != 1:
        raise ValueError(f"gains {y.shape} and variances {v.shape} must be [clients]")
    present = ~np.isnan(y)
    y, v = y[present], v[present]
    if not np.isfinite(v).all() or (v <= 0).any():
        raise ValueError("variances must be positive and finite: shrunk_variances makes them so")
    return y, v
