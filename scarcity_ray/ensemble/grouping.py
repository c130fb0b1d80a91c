"""Grouping: which clients share an expert, and how many experts there are, from moments alone.

A client's fit under an expert is that of a head fitted **without** it: with it, a rich head knows every client's rows by
heart, and any grouping stays as it is. It is a likelihood in which the client may have a head of its own about the
expert's (see ensemble.random_coefficients), so that what is a client's own, as its mixture of classes, tells less than
what many share.

Groups are found by splitting: each expert's clients are split in two by annealed EM from random starts, clients then move
until none would, and the split that leaves the least loss over all clients stands. Splits in two need little luck: of
digits (60 clients of 14 images, 256 features, 10 seeds) one such run finds four rotations and five permutations of labels
every time, where EM with all experts at once finds them from 40 and 65 random starts in 100.

How many: an expert more stands where it foretells rows that had no say in it. Half of each client's rows choose its expert
and make its own head, the other half is foretold. No client sends its moments in halves for that: they give its rows but for
a rotation, and under normal noise the halves of any rotation are independent. The loss of all rows under the expert that
they chose themselves goes on falling, whatever the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.personal import marginal, times, whiten
from scarcity_ray.ensemble.random_coefficients import fit as fit_coefficients
from scarcity_ray.ensemble.ridge import Rows
from scarcity_ray.randomness import stream

_TRIAL_ROWS = 8192  # groups are found on clients with so many rows together; then all clients join
_STARTS = 2  # random starts of a split
_ENTROPIES = (0.97, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)  # bits left open of a client's choice between two halves, as it is annealed
_PASSES = 20  # at most, in which clients move to the expert that suits them best
_LEAST_GAIN = 1e-4  # of the loss: a pass that gains less is the last
_CONSTANT = 1e-6  # penalty of the constant for each row: an expert that no client is left to fit has a head then, near 0
_TURNS = 4  # rotations whose halves are judged
_PATIENCE = 2  # numbers of experts that may be no better, one after the other, before the search ends


@dataclass(frozen=True)
class Grouping:
    """K experts for M clients, the largest first (of two as large, the one with the lowest client).

    responsibilities: `[M, K]`, how likely each expert is for a client that might have come from any of them alike.
    members: int64 `[M]`, the likeliest. evidence: for each number of experts tried, the squared error per row and output
    of clients' own heads on rows that had no say. gains: for each beyond one, by how many standard errors (over clients,
    paired) that is less than with the number that stood before.
    """

    responsibilities: NDArray[np.float64]
    members: NDArray[np.int64]
    evidence: Mapping[int, float]
    gains: Mapping[int, float]


def group(clients: list[Rows], strength: float, *, experts: int | None = None, most: int = 8, seed: int = 0) -> Grouping:
    """The groups of M clients (as `ridge.all_rows` has them) whose experts are ridge heads of this strength.

    experts: how many; fewer where no split is left that all halves' clients would stay with. None: as many as are better
    by more than one standard error each, at most `most`.
    """
    everyone = _Population.of(clients, strength)
    some = _trial(everyone, seed)
    trial = everyone.only(some)

    def spread(weights: Tensor) -> Tensor:
        return weights.new_zeros(everyone.size, weights.shape[1]).index_copy(0, some, weights)

    def unseen(found: _Partition) -> Tensor:
        return _errors_unseen(everyone, spread(found.weights), _scatter_about(trial, found.weights), seed)

    best = _settled(trial, trial.together())
    errors = unseen(best)
    evidence, gains, failed = {1: float(errors.sum()) / everyone.numbers}, {}, 0
    finer = islice(_ever_finer(trial, best, seed), (experts or most) - 1)
    for found in finer if experts is None else list(finer)[-1:]:
        new = unseen(found)
        evidence[found.experts], gains[found.experts] = float(new.sum()) / everyone.numbers, _in_standard_errors(errors - new)
        if gains[found.experts] > 1 or experts is not None:
            best, errors, failed = found, new, 0
        elif (failed := failed + 1) == _PATIENCE:
            break
    final = _settled(everyone, spread(best.weights))
    return _canonical(final, everyone.numbers, evidence, gains)


# -- fits without a client -------------------------------------------------------------------------------------------


def left_out(clients: list[Rows], penalty: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """What experts' heads, each fitted without the client, leave of a client's targets: `[k, r, K, outputs]` by chunk of Rows.

    Expert k is the ridge head of all rows times its column of weights `[M, K]`, with this penalty `[width]` of squared
    coefficients. With A = (gram + penalty)^-1 and W its head, the residuals without a client of weight u, rows F and
    targets Y are `(I - u F A F^T)^-1 (Y - F W)` (Woodbury). Float64.
    """
    width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
    inverses, heads = [], []
    for column in weights.T:
        gram, cross = torch.diag(penalty), penalty.new_zeros(width, outputs)
        for part in clients:
            counts = column[part.clients] > 0
            f = part.features[counts]
            weighted = (column[part.clients][counts][:, None, None] * f).reshape(-1, width).T
            gram += weighted @ f.reshape(-1, width)
            cross += weighted @ part.targets[counts].reshape(-1, outputs)
        inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(gram)))
        heads.append(inverses[-1] @ cross)
    for part in clients:
        k, r = part.features.shape[:2]
        residuals = part.targets[:, :, None] - (part.features @ torch.cat(heads, dim=1)).reshape(k, r, len(heads), outputs)
        for expert, inverse in enumerate(inverses):
            counts = weights[part.clients, expert] > 0
            f, u = part.features[counts], weights[part.clients, expert][counts]
            kept = torch.eye(r, dtype=f.dtype) - u[:, None, None] * (f @ inverse @ f.mT)
            residuals[counts, :, expert] = torch.linalg.solve_ex(kept, residuals[counts, :, expert]).result
        yield residuals


@dataclass(frozen=True)
class _Population:
    """Clients numbered from 0, and the factors of the covariances of their targets about an expert, by chunk of Rows."""

    clients: list[Rows]
    penalty: Tensor
    factors: list[Tensor]

    @classmethod
    def of(cls, clients: list[Rows], strength: float) -> _Population:
        """All clients, their own heads about an expert's as they scatter about one for all."""
        width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
        penalty = torch.full((width,), strength, dtype=torch.float64)
        penalty[-1] = _CONSTANT * float(sum(part.numbers.sum() for part in clients)) / outputs
        everyone = cls(clients, penalty, [])
        scatter = _scatter(clients, [residuals[:, :, 0] for residuals in left_out(clients, penalty, everyone.together())])
        return replace(everyone, factors=[marginal(part.features, scatter) for part in clients])

    @property
    def size(self) -> int:
        """How many clients."""
        return sum(len(part.clients) for part in self.clients)

    @property
    def numbers(self) -> float:
        """Rows times outputs of all clients."""
        return float(sum(part.numbers.sum() for part in self.clients))

    def together(self) -> Tensor:
        """The weights of one expert for all."""
        return torch.ones(self.size, 1, dtype=torch.float64)

    def only(self, chosen: Tensor) -> _Population:
        """These clients alone, numbered anew in rising order."""
        number = torch.full((self.size,), -1)
        number[chosen] = torch.arange(len(chosen))
        clients, factors = [], []
        for part, factor in zip(self.clients, self.factors, strict=True):
            here = number[part.clients] >= 0
            if here.any():
                fields = {name: value[here] for name, value in vars(part).items()}
                clients.append(replace(part, **fields | {"clients": number[part.clients][here]}))
                factors.append(factor[here])
        return _Population(clients, self.penalty, factors)

    def losses(self, weights: Tensor) -> Tensor:
        """`[M, K]`: twice the noise times how unlikely a client's targets are under each expert without it, but for a constant."""
        losses = torch.empty_like(weights)
        for part, factor, residuals in zip(self.clients, self.factors, left_out(self.clients, self.penalty, weights), strict=True):
            (white,) = whiten(factor, residuals.flatten(2))
            losses[part.clients] = white.reshape(residuals.shape).square().sum((1, 3)) + part.rest[:, None]
        return losses.nan_to_num(nan=torch.inf)  # a client that is all there is to determine an expert's head


def _scatter(clients: list[Rows], residuals: list[Tensor]) -> Tensor:
    """The covariance of clients' heads about their expert's, its diagonal `[width]`; 0 where residuals are."""
    if not any(bool(part.any()) for part in residuals):
        return torch.zeros(clients[0].features.shape[2], dtype=torch.float64)
    return fit_coefficients(clients, residuals, "slopes").covariance


def _scatter_about(population: _Population, weights: Tensor) -> Tensor:
    """The same where each client has one expert, `[M, K]`."""
    residuals = left_out(population.clients, population.penalty, weights)
    labels = (weights[part.clients].argmax(1) for part in population.clients)
    mine = [left[torch.arange(len(left)), :, label] for left, label in zip(residuals, labels, strict=True)]
    return _scatter(population.clients, mine)


# -- finding groups --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partition:
    """Each client with one expert: weights `[M, K]` of 0 and 1, the losses `[M, K]` with these experts, and their sum."""

    weights: Tensor
    losses: Tensor
    loss: float

    @property
    def experts(self) -> int:
        """How many experts, each with a client."""
        return self.weights.shape[1]


def _trial(everyone: _Population, seed: int) -> Tensor:
    """The clients that groups are found on, rising."""
    ranks = torch.empty(everyone.size, dtype=torch.int64)
    for part in everyone.clients:
        ranks[part.clients] = _ranks(part)
    order = torch.from_numpy(stream(seed, "clients on trial").permutation(everyone.size))
    enough = ranks[order].cumsum(0) <= max(_TRIAL_ROWS, int(ranks[order[0]]))
    return order[enough].sort().values


def _ever_finer(trial: _Population, coarse: _Partition, seed: int) -> Iterator[_Partition]:
    """Partitions into one expert more each time, as long as there are any."""
    while (finer := _split(trial, coarse, seed)) is not None:
        yield finer
        coarse = finer


def _split(trial: _Population, coarse: _Partition, seed: int) -> _Partition | None:
    """One of the experts split in two: the split of the least loss once clients have moved. None where none has one more."""
    finer = []
    for expert, column in enumerate(coarse.weights.T):
        members = column.nonzero()[:, 0]
        part = trial.only(members)
        rng = stream(seed, "split", coarse.experts, expert)
        starts = [torch.from_numpy(rng.standard_normal((len(members), 2)) / 2).softmax(1) for _ in range(_STARTS)]
        halves = min((_settled(part, _annealed(part, start)) for start in starts), key=lambda found: found.loss)
        if halves.experts == 2:
            weights = torch.cat([coarse.weights, torch.zeros_like(column)[:, None]], dim=1)
            weights[members[halves.weights[:, 1] > 0]] = torch.eye(coarse.experts + 1, dtype=weights.dtype)[-1]
            finer.append(_settled(trial, weights))
    finer = [found for found in finer if found.experts > coarse.experts]
    return min(finer, key=lambda found: found.loss, default=None)


def _annealed(population: _Population, weights: Tensor) -> Tensor:
    """Two experts by EM, clients' choices between them ever surer: deterministic annealing, by entropy in place of heat.

    After Rose, "Deterministic Annealing for Clustering, Compression, Classification, Regression, and Related Optimization
    Problems", Proceedings of the IEEE 1998. An entropy suits clients of any size and number, where a heat would not.
    """
    for entropy in _ENTROPIES:
        losses = population.losses(weights)
        weights = _with_entropy(losses - losses.min(1, keepdim=True).values, entropy)
    return weights


def _with_entropy(losses: Tensor, entropy: float) -> Tensor:
    """The weights proportional to exp(-losses / heat) with this mean entropy in bits, by bisection over heats."""
    scale = float(losses.mean())
    if scale == 0:
        return torch.full_like(losses, 1 / losses.shape[1])
    low, high = -20.0, 20.0  # log of the heat in units of the mean
    for _ in range(40):
        middle = (low + high) / 2
        weights = (-losses / (scale * math.exp(middle))).softmax(1)
        low, high = (middle, high) if float(torch.special.entr(weights).sum(1).mean()) < entropy * math.log(2) else (low, middle)
    return weights


def _settled(population: _Population, weights: Tensor) -> _Partition:
    """Clients go to the expert that suits them best until that gains no more; experts without clients are dropped."""
    best: _Partition | None = None
    if weights.shape[1] > 1:
        weights = _chosen(population.losses(weights))
    for _ in range(_PASSES):
        losses = population.losses(weights)
        found = _Partition(weights, losses, float((weights * losses).sum()))
        if best is not None and not found.loss < (1 - _LEAST_GAIN) * best.loss:
            break
        best, weights = found, _chosen(losses)
        if torch.equal(weights, best.weights):
            break
    assert best is not None
    return best


def _chosen(losses: Tensor) -> Tensor:
    """Weights of 0 and 1 for the least loss of each client."""
    experts, place = np.unique(losses.argmin(1).numpy(), return_inverse=True)
    return torch.eye(len(experts), dtype=losses.dtype)[torch.from_numpy(place)]


def _canonical(found: _Partition, numbers: float, evidence: Mapping[int, float], gains: Mapping[int, float]) -> Grouping:
    """The grouping with its experts in order."""
    least = found.losses.argmin(1).numpy()
    ids, lowest, place, sizes = np.unique(least, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((lowest, -sizes))
    noise = found.loss / numbers
    relative = (found.losses.min(1, keepdim=True).values - found.losses[:, ids[order]]) / (2 * noise if noise > 0 else 1.0)
    return Grouping(relative.softmax(1).numpy(), np.argsort(order)[place], evidence, gains)


# -- rows that had no say --------------------------------------------------------------------------------------------


def _errors_unseen(population: _Population, weights: Tensor, scatter: Tensor, seed: int) -> Tensor:
    """Squared error `[M]` on each client's rows, each half foretold by the other half's own head, averaged over rotations."""
    clients = population.clients
    residuals = left_out(clients, population.penalty, weights)
    errors = torch.zeros(population.size, dtype=torch.float64)
    for chunk, (part, left) in enumerate(zip(clients, residuals, strict=True)):
        rng = stream(seed, "halves", chunk)
        for _ in range(_TURNS):
            rotation, first, second = _halves(_ranks(part), part.features.shape[1], rng)
            turned = (rotation @ left.flatten(2)).reshape(left.shape)
            features = rotation @ part.features
            for seen, unseen in ((first, second), (second, first)):
                missed = _foretold(features * seen[..., None], turned * seen[..., None, None], features, turned, scatter)
                errors[part.clients] += (missed.square() * unseen[..., None]).sum((1, 2)) / _TURNS
        errors[part.clients] += part.rest
    return errors


def _foretold(seen: Tensor, residuals: Tensor, features: Tensor, targets: Tensor, scatter: Tensor) -> Tensor:
    """What is left of all targets `[k, r, K, outputs]` (from the experts) by the own head that the rows seen give: `[k, r, outputs]`.

    The expert is the one under which the rows seen are likeliest.
    """
    k = torch.arange(len(seen))
    spread, white = whiten(marginal(seen, scatter), times(seen, scatter), residuals.flatten(2))
    white = white.reshape(residuals.shape)
    likeliest = white.square().sum((1, 3)).argmin(1)
    return targets[k, :, likeliest] - features @ (spread.mT @ white[k, :, likeliest])


def _halves(ranks: Tensor, r: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random rotation `[k, r, r]` of each client's rows among themselves, and which `[k, r]` are the first and second half."""
    inside = torch.arange(r) < ranks[:, None]
    normal = torch.from_numpy(rng.standard_normal((len(ranks), r, r)))
    both = inside[:, :, None] & inside[:, None, :]
    rotation: Tensor = torch.linalg.qr(torch.where(both, normal, torch.eye(r, dtype=normal.dtype))).Q
    first = torch.arange(r) < ranks[:, None] // 2
    return rotation, first, inside & ~first


def _ranks(part: Rows) -> Tensor:
    """How many rows of each client are not zero, `[k]`."""
    return (part.features.square().sum(2) > 0).sum(1)


def _in_standard_errors(differences: Tensor) -> float:
    """A sum over clients in units of its standard error; 0 where all are the same."""
    spread = float(differences.std()) * math.sqrt(len(differences))
    return float(differences.sum()) / spread if spread > 0 else 0.0
