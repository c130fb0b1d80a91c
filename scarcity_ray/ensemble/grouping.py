"""Grouping: which clients share an expert, and how many experts there are, from moments alone.

One more expert at a time is added (see ensemble.partition), on some rows, and judged by others (see ensemble.folds): half of a
client's rows select its expert and determine how the client differs from it, and the log density of the other half is what counts.
The loss of all rows under the expert that they selected themselves would always fall with more experts. Squared errors in place
of densities tell less: with eight groups even a wrong expert predicts well once a client has some rows of its own.

Several numbers may be no better than one before the right one is: eight groups in two parts are two wide clouds. So the search
goes on while one more of the next two numbers is better at all, and Student's quantile allows for all numbers that are tried.

More experts predict better, too, if clients' heads differ on a line, on a curve, or with the place of their inputs under a
non-linear truth. These are no groups: clients lie as often halfway between two experts as near one (an exact binomial test
against equal densities). A full covariance of clients' heads about one expert predicts them better than several experts do
(heads on a line, 5 features, 40 to 100 clients: error 1.01 to 1.09, with two experts 1.04 to 1.22). So experts count only if
clients avoid the middle, and if they predict better even where heads differ by a covariance of the best form: half of the
lines that were split are not then, and groups of 3 to 5 clients are found as often. Where features have more dimensions than
a full covariance can be fitted to, all that predict better count, and `separate` says whether they are groups: heads on a
line of 40 features have error 1.49 for 1.72, and clients of FedEM, who mix three components, accuracy .79 for .71.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from scipy.stats import t as student
from torch import Tensor

from scarcity_ray.ensemble.folds import Fold, folds
from scarcity_ray.ensemble.partition import Partition, Population, converged, finer_partitions, hard_weights, most_likely
from scarcity_ray.ensemble.random_coefficients import WIDEST, sum_of
from scarcity_ray.ensemble.ridge import Rows

_LEVEL = 0.05  # level of each test
_MIDDLE = 0.015
"""Level of the test that clients avoid the middle, except where none lies there: ten clients cannot say more than .017. With .05 for all,
10 of 720 worlds without groups were split, nine of them among 120 whose heads lie on a line; 3 of these nine are now, and groups of 3 to
10 clients are found as often."""
_ENERGY = 0.95  # nearly all of the variance of features
_ALIKE = 1e-6  # a feature with so little of the largest standard deviation is a constant
_MAX_FAILURES = 2  # the search ends after this many numbers of experts in a row that are worse than the best before


@dataclass(frozen=True)
class Grouping:
    """K experts for M clients, the largest group first (of equal groups, the one with the lowest client).

    responsibilities: `[M, K]`, posterior probability of each expert for a client, if all experts are equally likely a priori.
    members: int64 `[M]`, the most likely expert of each client.
    evidence: for each number of experts that was tried and judged, minus the log density per row and output of unseen rows.
    gains: for each number above one, how much higher its density is than that of the best number before it, in standard
    errors (over clients, paired).
    separate: whether clients avoid the middle between experts. If not, experts are parts that clients mix, and no groups. None for one
    expert, and where their number was given.
    """

    responsibilities: NDArray[np.float64]
    members: NDArray[np.int64]
    evidence: Mapping[int, float]
    gains: Mapping[int, float]
    separate: bool | None


def group(clients: list[Rows], strength: float, *, experts: int | None = None, most: int = 8, seed: int = 0) -> Grouping:
    """Groups M clients (rows as `ridge.all_rows` returns them). strength: of the ridge head of all clients together.

    experts: number of experts, found on all rows and not judged; fewer if no expert can be split so that both halves keep clients. None:
    the search described above, up to `most`.
    """
    whole = Population.of(clients, strength)
    if experts is not None:
        first = converged(whole, whole.one_expert())
        final = [first, *islice(finer_partitions(whole, first, seed), experts - 1)][-1]
        return _canonical(whole.losses(final.weights, final.fitness), final.fitness.noise, {}, {}, None)
    trials = folds(whole, seed)
    best = [converged(fold.finders, fold.finders.one_expert()) for fold in trials]
    wide = _dimensions(whole) > WIDEST
    surprise = _surprise(trials, best)
    number = whole.numbers * len(surprise) / whole.size  # of the targets that judge, if clients have the same number of rows
    evidence, gains, failed = {1: float(surprise.sum()) / number}, {}, 0
    separate: bool | None = None
    paths = zip(*(finer_partitions(fold.finders, one, seed) for fold, one in zip(trials, best, strict=True)), strict=False)
    for found in islice(paths, most - 1):
        new, k = _surprise(trials, found), found[0].experts
        evidence[k], gains[k] = float(new.sum()) / number, in_standard_errors(surprise - new)
        looks = max(min(most, len(new) // 2) - 1, 1) if best[0].experts == 1 else 1  # a group has two clients at least
        better = gains[k] > _quantile(looks, len(new))
        apart = better and _apart(trials, found)
        if better and (wide or (apart and _gain(trials, best, found) > _quantile(1, len(new)))):
            best, surprise, failed, separate = list(found), new, 0, apart
        elif gains[k] > 0:
            failed = 0
        elif (failed := failed + 1) == _MAX_FAILURES:
            break
    chosen = most_likely([_for_all(fold, one) for fold, one in zip(trials, best, strict=True)])
    assert chosen is not None
    return _canonical(whole.losses(chosen.weights, chosen.fitness), chosen.fitness.noise, evidence, gains, separate)


def _surprise(trials: list[Fold], found: Sequence[Partition], *, any_form: bool = False) -> Tensor:
    """Minus the log density of each judge's unseen rows, `[judges]`, over all folds."""
    return torch.stack([fold.surprise(one, any_form=any_form) for fold, one in zip(trials, found, strict=True)]).sum(0)


def _gain(trials: list[Fold], coarse: Sequence[Partition], fine: Sequence[Partition]) -> float:
    """How much higher the density is with more experts where clients' heads differ by a covariance of the best form (see
    random_coefficients.choose: a full one is tried for few features), in standard errors."""
    return in_standard_errors(_surprise(trials, coarse, any_form=True) - _surprise(trials, fine, any_form=True))


def _dimensions(whole: Population) -> int:
    """How many principal directions hold nearly all of the variance of standardised features: hundreds of waves of few inputs have few."""
    total = sum_of(whole.clients)
    mean = total.gram[-1, :-1] / total.samples
    covariance = total.gram[:-1, :-1] / total.samples - torch.outer(mean, mean)
    spread = covariance.diagonal().clamp(min=0).sqrt()
    varies = spread > _ALIKE * spread.max()
    found = covariance[varies][:, varies] / torch.outer(spread[varies], spread[varies])
    energy = torch.linalg.eigvalsh(found).flip(0).cumsum(0)
    return int((energy < _ENERGY * energy[-1]).sum()) + 1 if len(energy) else 0


def _apart(trials: list[Fold], found: Sequence[Partition]) -> bool:
    """Whether in each fold clients avoid the middle between experts."""
    counts = [fold.between(one) for fold, one in zip(trials, found, strict=True)]
    return all(inside > 0 and binom.cdf(between, inside, 1 / 3) < (_MIDDLE if between else _LEVEL) for between, inside in counts)


def _for_all(fold: Fold, found: Partition) -> Partition:
    """The partition of all clients by all their rows."""
    whole = fold.whole
    return converged(whole, hard_weights(whole.losses(fold.for_all(found), found.fitness)))


def _quantile(looks: int, clients: int) -> float:
    """Student's, one-sided, for the best of so many looks."""
    return float(student.ppf(1 - _LEVEL / looks, max(clients - 1, 1)))


def in_standard_errors(differences: Tensor) -> float:
    """A sum over clients in units of its standard error; 0 if all differences are equal."""
    spread = float(differences.std()) * len(differences) ** 0.5
    return float(differences.sum()) / spread if spread > 0 else 0.0


def _canonical(losses: Tensor, noise: float, evidence: Mapping[int, float], gains: Mapping[int, float], separate: bool | None) -> Grouping:
    """The grouping by final losses `[M, K]`, its experts in the order of Grouping."""
    least = losses.argmin(1).numpy()
    ids, lowest, place, sizes = np.unique(least, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((lowest, -sizes))
    relative = (losses.min(1, keepdim=True).values - losses[:, ids[order]]) / (2 * noise)
    return Grouping(relative.softmax(1).numpy(), np.argsort(order)[place], evidence, gains, separate)
