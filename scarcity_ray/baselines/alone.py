"""A client at its best alone: from its own rows, and nothing of other clients, the predictor that its left-out rows prefer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from scarcity_ray.baselines.ridge_alone import LeftOut, Values, constant, ridge

Map = Callable[[Values], Values]
"""From inputs `[n, d]` to features `[n, width]`."""

Features = Callable[[Values], Map]
"""From a client's own inputs, standardised, a map of such inputs."""

_ENOUGH = 10
"""Rows for other features than inputs. On 4 to 9 rows of AER/Fatalities, nlme/BodyWeight and nlme/Oxboys a client was 6 to 22 % worse
where it could choose 256 waves, and on digits 0.6 points."""

_TEMPERATURES = np.logspace(-3, 1, 41)


@dataclass(frozen=True)
class Alone:
    """What a client predicts alone. outputs: `[m, outputs]`, log-probabilities or targets. chosen: the predictor's name."""

    outputs: Values
    chosen: str


def alone(
    x: Values,
    y: NDArray[np.int64] | Values,
    to_predict: Values,
    task: Literal["classification", "regression"],
    outputs: int,
    maps: Mapping[str, Features],
    *,
    raw: bool = False,
) -> Alone:
    """The best of: the client's mean or class shares (`constant`), ridge on its inputs (`inputs`), ridge on each of some features.

    The predictor with the lowest squared error on the client's own rows, each left out in turn, wins; a class is a code of 0 and 1.
    Class probabilities come from scores by the temperature under which the left-out ones have the lowest log loss. Half a row is added
    to each class (Krichevsky and Trofimov, IEEE Trans. Information Theory 1981). An input to predict that lies more than a standard
    deviation outside those of the client's rows is moved to there, a single input where that is five: inputs that go together in a few
    rows say nothing of what they do apart, but a line goes on. Features other than inputs need ten rows: of fewer, left-out ones prefer
    them by chance.

    x: `[n, d]`. y: `[n]` classes, or `[n, outputs]` targets. to_predict: `[m, d]`. raw: the inputs as they are may be used too, besides
    the standardised ones: right where nobody else's rows have scaled them. Without rows all outputs are NaN.
    """
    if not len(x):
        return Alone(np.full((len(to_predict), outputs), np.nan), "nothing")
    targets = np.eye(outputs)[y] if task == "classification" else np.asarray(y, dtype=np.float64)
    mean, std = x.mean(0), x.std(0)
    beyond = std * (1 if x.shape[1] > 1 else 5)
    to_predict = np.clip(to_predict, x.min(0) - beyond, x.max(0) + beyond)
    scale = np.where(std > 0, std, np.inf)  # an input that never changes says nothing
    own, new = (x - mean) / scale, (to_predict - mean) / scale
    candidates: dict[str, LeftOut | None] = {"constant": constant(targets, len(to_predict)), "inputs": ridge(own, targets, new)}
    if raw:
        candidates["raw inputs"] = ridge(x, targets, to_predict)
    for name, make in maps.items() if len(x) >= _ENOUGH else ():
        features = make(own)
        candidates[name] = ridge(features(own), targets, features(new))
    found = {name: candidate for name, candidate in candidates.items() if candidate is not None}
    chosen = min(found, key=lambda name: found[name].loss)  # of equals the first, which is the simplest
    if task == "regression":
        return Alone(found[chosen].predictions, chosen)
    if chosen == "constant":
        return Alone(np.broadcast_to(np.log(_smoothed(targets.mean(0), len(x))), (len(to_predict), outputs)), chosen)
    scores = targets - found[chosen].residuals
    least = float(np.square(found[chosen].residuals).mean())  # the temperature of normal errors: real ones have heavier tails
    temperatures = np.maximum(_TEMPERATURES, least)
    shares_by_t = _smoothed(softmax(scores / temperatures[:, None, None], axis=2), len(x))
    losses = -np.log(shares_by_t[:, targets > 0]).mean(1)
    shares = softmax(found[chosen].predictions / temperatures[int(np.argmin(losses))], axis=1)
    return Alone(np.log(_smoothed(shares, len(x))), chosen)


def _smoothed(shares: Values, rows: int) -> Values:
    """Class probabilities from so many rows, with half a row added to each class."""
    smoothed: Values = (rows * shares + 0.5) / (rows + 0.5 * shares.shape[-1])
    return smoothed
