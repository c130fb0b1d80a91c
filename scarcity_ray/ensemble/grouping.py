"""Grouping: which clients share an expert, and how many experts there are, from moments alone.

A client's fit under an expert is that of a head fitted **without** it: with it, a rich head knows every client's rows by
heart, and any grouping stays as it is. In it clients may differ from their expert in ways of their own (see
ensemble.fitness), so that these tell less than what many share.

Groups are found by splitting: each expert's clients are split in two by annealed EM from random starts, clients then move
until none would, and the split that leaves the least loss over all clients stands. Splits in two need little luck: of
digits (60 clients of 14 images, 256 features, 10 seeds) one such run finds four rotations and five permutations of labels
every time, where EM with all experts at once finds them from 40 and 65 random starts in 100.

How many: an expert more stands where it foretells rows that had no say in it. Half of each client's rows choose its expert
and tell its own differences, the other half is foretold. No client sends its moments in halves for that: they give its rows
but for a rotation, and under normal noise the halves of any rotation are independent. The loss of all rows under the expert
that they chose themselves goes on falling, whatever the truth. Where there are rows enough, groups are found on half the
clients at most: a client that took part in finding them has drawn those to its expert who are like all of its rows.
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

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.fitness import Fitness, in_standard_errors, ranks_of
from scarcity_ray.ensemble.ridge import Rows

_TRIAL_ROWS = (2048, 8192)  # groups are found on half of all rows, but no fewer and no more than these, if there are as many
_STARTS = 2  # random starts of a split
_ENTROPIES = (0.97, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)  # bits left open of a client's choice between two halves, as it is annealed
_PASSES = 20  # at most, in which clients move to the expert that suits them best
_LEAST_GAIN = 1e-4  # of the loss: a pass that gains less is the last
_ROUNDS = 5  # at most, of learning how clients differ from their experts, and moving
_CONSTANT = 1e-6  # penalty of the constant for each row: an expert that no client is left to fit has a head then, near 0
_CLEAR = 2.0  # standard errors that an expert more must be better by
_PATIENCE = 2  # numbers of experts that may be no better, one after the other, before the search ends


@dataclass(frozen=True)
class Grouping:
    """K experts for M clients, the largest first (of two as large, the one with the lowest client).

    responsibilities: `[M, K]`, how likely each expert is for a client that might have come from any of them alike.
    members: int64 `[M]`, the likeliest. evidence: for each number of experts tried, the squared error per row and output
    on rows that had no say. gains: for each beyond one, by how many standard errors (over clients,
    paired) that is less than with the number that stood before it.
    """

    responsibilities: NDArray[np.float64]
    members: NDArray[np.int64]
    evidence: Mapping[int, float]
    gains: Mapping[int, float]


def group(clients: list[Rows], strength: float, *, experts: int | None = None, most: int = 8, seed: int = 0) -> Grouping:
    """The groups of M clients (as `ridge.all_rows` has them) whose experts are ridge heads of this strength.

    experts: how many; fewer where no split is left that both halves' clients would stay with. None: as many as are each
    better by more than two standard errors, at most `most`.
    """
    everyone = _Population.of(clients, strength)
    some = _trial(clients, seed)
    trial = everyone.only(some)

    def spread(found: _Partition) -> Tensor:
        return torch.zeros(everyone.size, found.experts, dtype=torch.float64).index_copy(0, some, found.weights)

    def unseen(found: _Partition) -> Tensor:
        return _errors_unseen(everyone, spread(found), found.fitness, seed)

    best = _settled(trial, trial.together())
    errors = unseen(best)
    evidence, gains, failed = {1: float(errors.sum()) / everyone.numbers}, {}, 0
    finer = islice(_ever_finer(trial, best, seed), (experts or most) - 1)
    for found in finer if experts is None else list(finer)[-1:]:
        new = unseen(found)
        evidence[found.experts], gains[found.experts] = float(new.sum()) / everyone.numbers, in_standard_errors(errors - new)
        if gains[found.experts] > _CLEAR or experts is not None:
            best, errors, failed = found, new, 0
        elif (failed := failed + 1) == _PATIENCE:
            break
    final = _settled(everyone, _chosen(everyone.losses(spread(best), best.fitness)))
    return _canonical(everyone.losses(final.weights, final.fitness), final.fitness.noise, evidence, gains)


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
    """Clients numbered from 0, and the penalty of their experts' coefficients."""

    clients: list[Rows]
    penalty: Tensor

    @classmethod
    def of(cls, clients: list[Rows], strength: float) -> _Population:
        """All clients."""
        width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
        penalty = torch.full((width,), strength, dtype=torch.float64)
        penalty[-1] = _CONSTANT * float(sum(part.numbers.sum() for part in clients)) / outputs
        return cls(clients, penalty)

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
        clients = []
        for part in self.clients:
            here = number[part.clients] >= 0
            if here.any():
                fields = {name: value[here] for name, value in vars(part).items()}
                clients.append(replace(part, **fields | {"clients": number[part.clients][here]}))
        return replace(self, clients=clients)

    def left_out(self, weights: Tensor) -> Iterator[tuple[Rows, Tensor]]:
        """Each chunk of Rows with the residuals of `left_out`."""
        return zip(self.clients, left_out(self.clients, self.penalty, weights), strict=True)

    def losses(self, weights: Tensor, fitness: Fitness) -> Tensor:
        """`[M, K]`: how unlikely a client's targets are under each expert without it, see ensemble.fitness."""
        losses = torch.empty_like(weights)
        for part, residuals in self.left_out(weights):
            losses[part.clients] = fitness.losses(part, residuals)
        hopeless = torch.finfo(losses.dtype).max
        return losses.nan_to_num(nan=hopeless)  # of a client that is all there is to determine an expert's head

    def fitness_about(self, weights: Tensor) -> Fitness:
        """How clients differ from their expert where each has one."""
        mine = []
        for part, residuals in self.left_out(weights):
            mine.append(residuals[torch.arange(len(residuals)), :, weights[part.clients].argmax(1)])
        return Fitness.of(self.clients, mine)


# -- finding groups --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partition:
    """Each client with one expert: weights `[M, K]` of 0 and 1; and how clients differ from their experts."""

    weights: Tensor
    fitness: Fitness

    @property
    def experts(self) -> int:
        """How many experts, each with a client."""
        return self.weights.shape[1]


def _trial(clients: list[Rows], seed: int) -> Tensor:
    """The clients that groups are found on, rising."""
    ranks = torch.cat([ranks_of(part) for part in clients])[torch.cat([part.clients for part in clients]).argsort()]
    order = torch.from_numpy(stream(seed, "clients on trial").permutation(len(ranks)))
    fewest, most = _TRIAL_ROWS
    wanted = min(max(fewest, int(ranks.sum()) // 2), most)
    before = ranks[order].cumsum(0) - ranks[order]
    return order[before < wanted].sort().values


def _ever_finer(trial: _Population, coarse: _Partition, seed: int) -> Iterator[_Partition]:
    """Partitions into one expert more each time, as long as there are any."""
    while (finer := _split(trial, coarse, seed)) is not None:
        yield finer
        coarse = finer


def _split(trial: _Population, coarse: _Partition, seed: int) -> _Partition | None:
    """One of the experts split in two: the likeliest split once clients have moved. None where none has one expert more."""
    finer = []
    for expert, column in enumerate(coarse.weights.T):
        members = column.nonzero()[:, 0]
        part = trial.only(members)
        rng = stream(seed, "split", coarse.experts, expert)
        starts = [torch.from_numpy(rng.standard_normal((len(members), 2)) / 2).softmax(1) for _ in range(_STARTS)]
        halves = _likeliest([_settled(part, _annealed(part, start, coarse.fitness)) for start in starts])
        if halves is not None and halves.experts == 2:
            weights = torch.cat([coarse.weights, torch.zeros_like(column)[:, None]], dim=1)
            weights[members[halves.weights[:, 1] > 0]] = torch.eye(coarse.experts + 1, dtype=weights.dtype)[-1]
            finer.append(_settled(trial, weights))
    return _likeliest([found for found in finer if found.experts > coarse.experts])


def _likeliest(found: list[_Partition]) -> _Partition | None:
    """The partition under which all clients without themselves are likeliest."""
    return max(found, key=lambda one: one.fitness.log_likelihood, default=None)


def _annealed(population: _Population, weights: Tensor, fitness: Fitness) -> Tensor:
    """Two experts by EM, clients' choices between them ever surer, then sure. The last step is of weights 0 and 1.

    Deterministic annealing by entropy in place of heat, which suits clients of any size and number: Rose, "Deterministic
    Annealing for Clustering, Compression, Classification, Regression, and Related Optimization Problems", Proceedings of
    the IEEE 1998.
    """
    for entropy in _ENTROPIES:
        losses = population.losses(weights, fitness)
        weights = _with_entropy(losses - losses.min(1, keepdim=True).values, entropy)
    return _chosen(population.losses(weights, fitness))


def _with_entropy(losses: Tensor, entropy: float) -> Tensor:
    """The weights proportional to exp(-losses / heat) with this mean entropy in bits, by bisection over heats."""
    scale = float(losses.mean()) or 1.0
    low, high = -20.0, 20.0  # log of the heat in units of the mean
    weights = losses
    for _ in range(40):
        middle = (low + high) / 2
        weights = (-losses / (scale * math.exp(middle))).softmax(1)
        sure = float(torch.special.entr(weights).sum(1).mean()) < entropy * math.log(2)
        low, high = (middle, high) if sure else (low, middle)
    return weights


def _settled(population: _Population, weights: Tensor) -> _Partition:
    """The partition of these weights once clients have moved to the experts that suit them best, as far as that pays."""
    best: _Partition | None = None
    for _ in range(_ROUNDS):
        found = _Partition(weights, population.fitness_about(weights))
        if best is not None and not found.fitness.log_likelihood > best.fitness.log_likelihood:
            break
        best, weights = found, _moved(population, found)
        if torch.equal(weights, best.weights):
            break
    assert best is not None
    return best


def _moved(population: _Population, found: _Partition) -> Tensor:
    """The weights when clients have moved until that gains no more; experts without clients are dropped."""
    best, least, weights = found.weights, math.inf, found.weights
    for _ in range(_PASSES):
        losses = population.losses(weights, found.fitness)
        loss = float((weights * losses).sum())
        if not loss < (1 - _LEAST_GAIN) * least:
            break
        best, least, weights = weights, loss, _chosen(losses)
        if torch.equal(weights, best):
            break
    return best


def _chosen(losses: Tensor) -> Tensor:
    """Weights of 0 and 1 for the least loss of each client."""
    experts, place = np.unique(losses.argmin(1).numpy(), return_inverse=True)
    return torch.eye(len(experts), dtype=losses.dtype)[torch.from_numpy(place)]


def _canonical(losses: Tensor, noise: float, evidence: Mapping[int, float], gains: Mapping[int, float]) -> Grouping:
    """The grouping by final losses `[M, K]`, its experts in order."""
    least = losses.argmin(1).numpy()
    ids, lowest, place, sizes = np.unique(least, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((lowest, -sizes))
    relative = (losses.min(1, keepdim=True).values - losses[:, ids[order]]) / (2 * noise)
    return Grouping(relative.softmax(1).numpy(), np.argsort(order)[place], evidence, gains)


def _errors_unseen(everyone: _Population, weights: Tensor, fitness: Fitness, seed: int) -> Tensor:
    """Squared error `[M]` on rows that had no say, with these experts."""
    errors = torch.empty(everyone.size, dtype=torch.float64)
    for chunk, (part, residuals) in enumerate(everyone.left_out(weights)):
        errors[part.clients] = fitness.errors_unseen(part, residuals, stream(seed, "halves", chunk))
    return errors
