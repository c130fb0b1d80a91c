"""Whether it pays: the one of five answers that the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from scarcity_ray.inference.mean_gain import MeanGain

_MOST = 100
"""More than so many times as many are no advice."""


class Verdict(str, Enum):
    """The answers. Sentences are made of them elsewhere."""

    PAYS = "pays"
    HARMS_SOME = "pays on average, surely harms some"
    UNCLEAR = "no clear gain"
    NOTHING_LEARNED = "nothing was learned"
    DOES_NOT_PAY = "does not pay"


class Needed(NamedTuple):
    """What would tell, each alone and with the rest as it is, if the mean gain stays what it is: how many in all, None where
    no number would, up to a hundred times as many. repeats: seeds. test_rows: of a client. clients: as `MeanGain` counts them."""

    repeats: int | None
    test_rows: int | None
    clients: int | None


class Conclusion(NamedTuple):
    """equal: the interval of the mean gain lies within the margin. surely_better, surely_worse, cannot_tell: clients.
    weightings_disagree: the mean over clients and the mean over rows have different signs. given_models: the interval does
    not hold the luck of training. needed: where the verdict is that there is no clear gain, else None."""

    verdict: Verdict
    equal: bool
    surely_better: int
    surely_worse: int
    cannot_tell: int
    weightings_disagree: bool
    given_models: bool
    needed: Needed | None


def conclude(
    by_client: MeanGain,
    by_row: MeanGain,
    over_guess: Sequence[MeanGain],
    sure: ArrayLike,
    *,
    margin: float = 0.0,
    row_noise: float = 0.0,
    test_rows: float = 0.0,
) -> Conclusion:
    """The conclusion from a strategy's gains over each client alone.

    by_client, by_row: the mean gain, each client and each row weighing the same. over_guess: each strategy's mean gain
    over guessing. sure: `[clients]`, 1 surely better, -1 surely worse, 0 cannot tell (`shrinkage.Shrunk.sure`). margin: gains
    up to it are called equal, in the gain's unit. row_noise: the part of by_client's squared standard error that comes from
    the number of test rows. test_rows: the mean number of a client.

    It pays where the whole interval is above margin, and does not where it is below or equal to it. Nothing was learned where
    no interval over guessing is above 0; intervals that could not be made (one client) say nothing.
    Raises ValueError where margin is negative.
    """
    if not margin >= 0:
        raise ValueError(f"margin is {margin} and must be at least 0")
    marks = np.asarray(sure)
    better, worse = int((marks > 0).sum()), int((marks < 0).sum())
    known = [gain.low for gain in over_guess if not math.isnan(gain.low)]
    needed = None
    if known and max(known) <= 0:
        verdict = Verdict.NOTHING_LEARNED
    elif by_client.low > margin:
        verdict = Verdict.HARMS_SOME if worse else Verdict.PAYS
    elif by_client.high <= margin:
        verdict = Verdict.DOES_NOT_PAY
    else:
        verdict, needed = Verdict.UNCLEAR, what_would_tell(by_client, margin, row_noise, test_rows)
    return Conclusion(
        verdict=verdict,
        equal=-margin <= by_client.low and by_client.high <= margin,
        surely_better=better,
        surely_worse=worse,
        cannot_tell=len(marks) - better - worse,
        weightings_disagree=by_client.mean * by_row.mean < 0,
        given_models=not by_client.holds_luck_of_training,
        needed=needed,
    )


def what_would_tell(gain: MeanGain, margin: float = 0.0, row_noise: float = 0.0, test_rows: float = 0.0) -> Needed:
    """How many repeats, test rows of a client, or clients would take margin out of the interval. Arguments as for `conclude`.

    Each divides its own part of the squared standard error: clients that of clients, seeds that of seeds and of
    splits, test rows row_noise. The quantile is taken to stay.
    """
    half = gain.mean - gain.low if gain.mean > margin else gain.high - gain.mean
    if not half > 0 or gain.mean == margin:
        return Needed(None, None, None)
    total = gain.from_clients + gain.from_seeds
    target = total * ((gain.mean - margin) / half) ** 2
    noise, repeated = min(row_noise, gain.from_clients), gain.from_splits + gain.from_seeds
    return Needed(
        repeats=_times(gain.seeds, repeated, target - (total - repeated)),
        test_rows=_times(test_rows, noise, target - (total - noise)),
        clients=_times(gain.clients, gain.from_clients, target - gain.from_seeds),
    )


def _times(now: float, part: float, left: float) -> int | None:
    """How many instead of now make part as small as left; None where nothing does, none that anyone would wait for, or where the part is
    not known."""
    return math.ceil(now * part / left) if left > 0 and 0 < part <= _MOST * left and now > 0 else None
