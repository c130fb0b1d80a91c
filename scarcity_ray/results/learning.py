"""Whether a strategy has learned at all, and whether it has learned all that it would."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scarcity_ray.inference.mean_gain import MeanGain

_WORSE = 3.0
"""A root mean square error this many times that of a guess is no result."""

_TAIL = 4
"""The last rounds are a quarter of all."""

_PART = 0.05
"""A loss still falls where its last rounds take this part of all that it fell by."""

_CLEAR = 3.0
"""Standard errors that its slope must be below 0."""


def not_learned(task: str, metric: str, losses: Sequence[float | None], guess: Sequence[float | None], over_guess: MeanGain | None) -> bool:
    """Whether a strategy came to no result: a seed's mean test loss is not finite, or a regression's root of it is more than three times
    that of the guess, or accuracy or AUC decide and the 95 % interval of its mean gain over the guess lies below 0.

    losses, guess: of each seed, None where there is none. metric: the name of the one that decides. False where no client has test rows.
    """
    known = [loss for loss in guess if loss is not None]
    found = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    if not known:
        return False
    if len(found) < len(losses):
        return True
    if task == "regression":
        return float(np.mean(found)) > _WORSE**2 * float(np.mean(known))
    return metric in ("accuracy", "auc") and over_guess is not None and over_guess.high < 0


def still_falling(losses: Sequence[float]) -> bool:
    """Whether a loss, one number a round, was still falling in the last quarter of its rounds: more rounds would have gained more.

    A line through these rounds must fall by a twentieth of all that the loss fell by, and with five points or more its slope must be
    three standard errors below 0: the loss of a sample of clients goes up and down.
    """
    values = np.asarray([loss for loss in losses if math.isfinite(loss)], dtype=np.float64)
    if len(values) < 2:
        return False
    tail = values[-max(len(values) // _TAIL, 1) - 1 :]
    x = np.arange(len(tail)) - (len(tail) - 1) / 2
    slope = float(x @ tail / (x @ x))
    rest = tail - tail.mean() - slope * x
    fall, total = -slope * (len(tail) - 1), float(values[0] - tail.mean() - slope * x[-1])
    if fall <= 0 or fall < _PART * total:
        return False
    error = math.sqrt(float(rest @ rest) / (len(tail) - 2) / float(x @ x)) if len(tail) > 4 else 0.0
    return -slope > _CLEAR * error
