"""Grouping: which clients share an expert, and how many experts there are, from moments alone.

A client's fit under an expert is measured with a head fitted **without** the client. A head with many features that was fitted
with it would reproduce its rows, and no client would ever leave its group. Each client may differ from its expert (see
ensemble.fitness), so that the differences of single clients count less than those that many clients share.

Groups are found by splitting. Each expert's clients are split in two by annealed EM from random starts. Clients then move to
the expert that fits them best, until none moves. The split with the highest likelihood of all clients is kept. Splits in two
depend little on the random start: on digits (60 clients of 14 images, 256 features, 10 seeds) one such run always finds four
rotations and five permutations of labels, while EM with all experts at once finds them from 40 and 65 random starts in 100.

The number of experts grows as long as one more expert predicts unseen rows better. Half of each client's rows select its expert
and determine how the client differs from it; the other half is predicted. Clients do not send moments of halves for this: their
moments determine their rows up to a rotation, and under normal noise the halves of any rotation are independent. The loss of
all rows under the expert that they selected themselves would always fall with more experts. If there are enough rows, groups
are found on about half of the clients, so that the other clients had no influence on them.
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

_TRIAL_ROWS = (2048, 8192)  # groups are found on half of all rows, but on at least and at most these numbers if there are so many rows
_STARTS = 2  # random starts of a split
_ENTROPIES = (0.97, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)  # annealing schedule: mean entropy, in bits, of a client's choice between two halves
_PASSES = 20  # largest number of passes in which clients move to the expert that fits them best
_LEAST_GAIN = 1e-4  # relative gain of the loss; a pass that gains less is the last
_ROUNDS = 5  # largest number of rounds of first fitting how clients differ from their experts, then moving clients
_CONSTANT = 1e-6  # penalty of the constant for each row: an expert without remaining clients then still has a head, near 0
_CLEAR = 2.0  # standard errors by which one more expert must be better
_MAX_FAILURES = 2  # the search ends after this many numbers of experts in a row that are not better


@dataclass(frozen=True)
class Grouping:
    """K experts for M clients, the largest group first (of equal groups, the one with the lowest client).

    responsibilities: `[M, K]`, posterior probability of each expert for a client, if all experts are equally likely a priori.
    members: int64 `[M]`, the most likely expert of each client.
    evidence: for each number of experts that was tried, the squared error per row and output on unseen rows.
    gains: for each number above one, how much lower its error is than that of the best number before it, in standard
    errors (over clients, paired).
    """

    responsibilities: NDArray[np.float64]
    members: NDArray[np.int64]
    evidence: Mapping[int, float]
    gains: Mapping[int, float]


def group(clients: list[Rows], strength: float, *, experts: int | None = None, most: int = 8, seed: int = 0) -> Grouping:
    """Groups M clients (rows as `ridge.all_rows` returns them). The experts are ridge heads of this strength.

    experts: number of experts; fewer if no expert can be split so that both halves keep clients. None: one more expert is
    added as long as it is better by more than two standard errors, up to `most`.
    """
    population = _Population.of(clients, strength)
    chosen = _trial(clients, seed)
    trial = population.only(chosen)

    def for_all(found: _Partition) -> Tensor:
        return torch.zeros(population.size, found.experts, dtype=torch.float64).index_copy(0, chosen, found.weights)

    def unseen_errors(found: _Partition) -> Tensor:
        return _errors_unseen(population, for_all(found), found.fitness, seed)

    best = _converged(trial, trial.one_expert())
    errors = unseen_errors(best)
    evidence, gains, failed = {1: float(errors.sum()) / population.numbers}, {}, 0
    finer = islice(_finer_partitions(trial, best, seed), (experts or most) - 1)
    for found in finer if experts is None else list(finer)[-1:]:
        new = unseen_errors(found)
        evidence[found.experts], gains[found.experts] = float(new.sum()) / population.numbers, in_standard_errors(errors - new)
        if gains[found.experts] > _CLEAR or experts is not None:
            best, errors, failed = found, new, 0
        elif (failed := failed + 1) == _MAX_FAILURES:
            break
    final = _converged(population, _hard_weights(population.losses(for_all(best), best.fitness)))
    return _canonical(population.losses(final.weights, final.fitness), final.fitness.noise, evidence, gains)


# -- fits without a client -------------------------------------------------------------------------------------------


def left_out(clients: list[Rows], penalty: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """The residuals of each client under experts' heads that are fitted without it: `[k, r, K, outputs]` for each chunk of Rows.

    Expert k is the ridge head of all rows, weighted by column k of the weights `[M, K]`, with this penalty `[width]` of
    squared coefficients. Let A = (gram + penalty)^-1 and W its head. For a client with weight u, rows F and targets Y the
    residuals without it are `(I - u F A F^T)^-1 (Y - F W)` (Woodbury). Float64.
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
        """Number of clients."""
        return sum(len(part.clients) for part in self.clients)

    @property
    def numbers(self) -> float:
        """Number of rows times outputs, over all clients."""
        return float(sum(part.numbers.sum() for part in self.clients))

    def one_expert(self) -> Tensor:
        """The weights for one expert of all clients."""
        return torch.ones(self.size, 1, dtype=torch.float64)

    def only(self, chosen: Tensor) -> _Population:
        """Only these clients, with new numbers from 0 in ascending order."""
        number = torch.full((self.size,), -1)
        number[chosen] = torch.arange(len(chosen))
        clients = []
        for part in self.clients:
            kept = number[part.clients] >= 0
            if kept.any():
                fields = {name: value[kept] for name, value in vars(part).items()}
                clients.append(replace(part, **fields | {"clients": number[part.clients][kept]}))
        return replace(self, clients=clients)

    def left_out(self, weights: Tensor) -> Iterator[tuple[Rows, Tensor]]:
        """Each chunk of Rows with the residuals of `left_out`."""
        return zip(self.clients, left_out(self.clients, self.penalty, weights), strict=True)

    def losses(self, weights: Tensor, fitness: Fitness) -> Tensor:
        """The loss of each client's targets under each expert without the client, `[M, K]`; see ensemble.fitness."""
        losses = torch.empty_like(weights)
        for part, residuals in self.left_out(weights):
            losses[part.clients] = fitness.losses(part, residuals)
        largest = torch.finfo(losses.dtype).max
        return losses.nan_to_num(nan=largest)  # without its only client an expert has no head, and the loss is NaN

    def fitness_of(self, weights: Tensor) -> Fitness:
        """How clients differ from their experts. weights: `[M, K]`, one expert for each client."""
        own = []
        for part, residuals in self.left_out(weights):
            own.append(residuals[torch.arange(len(residuals)), :, weights[part.clients].argmax(1)])
        return Fitness.of(self.clients, own)


# -- finding groups --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partition:
    """Each client with one expert: weights `[M, K]` of 0 and 1; and how clients differ from their experts."""

    weights: Tensor
    fitness: Fitness

    @property
    def experts(self) -> int:
        """Number of experts. Each has a client."""
        return self.weights.shape[1]


def _trial(clients: list[Rows], seed: int) -> Tensor:
    """The clients that groups are found on, in ascending order."""
    ranks = torch.cat([ranks_of(part) for part in clients])[torch.cat([part.clients for part in clients]).argsort()]
    order = torch.from_numpy(stream(seed, "clients on trial").permutation(len(ranks)))
    fewest, most = _TRIAL_ROWS
    wanted = min(max(fewest, int(ranks.sum()) // 2), most)
    before = ranks[order].cumsum(0) - ranks[order]
    return order[before < wanted].sort().values


def _finer_partitions(trial: _Population, coarse: _Partition, seed: int) -> Iterator[_Partition]:
    """Partitions with one more expert each time, until no expert can be split."""
    while (finer := _split(trial, coarse, seed)) is not None:
        yield finer
        coarse = finer


def _split(trial: _Population, coarse: _Partition, seed: int) -> _Partition | None:
    """The most likely partition after one expert is split in two and clients have moved. None if no split adds an expert."""
    finer = []
    for expert, column in enumerate(coarse.weights.T):
        members = column.nonzero()[:, 0]
        part = trial.only(members)
        rng = stream(seed, "split", coarse.experts, expert)
        starts = [torch.from_numpy(rng.standard_normal((len(members), 2)) / 2).softmax(1) for _ in range(_STARTS)]
        halves = _most_likely([_converged(part, _annealed(part, start, coarse.fitness)) for start in starts])
        if halves is not None and halves.experts == 2:
            weights = torch.cat([coarse.weights, torch.zeros_like(column)[:, None]], dim=1)
            weights[members[halves.weights[:, 1] > 0]] = torch.eye(coarse.experts + 1, dtype=weights.dtype)[-1]
            finer.append(_converged(trial, weights))
    return _most_likely([found for found in finer if found.experts > coarse.experts])


def _most_likely(found: list[_Partition]) -> _Partition | None:
    """The partition with the highest likelihood of all clients, each under heads fitted without it."""
    return max(found, key=lambda one: one.fitness.log_likelihood, default=None)


def _annealed(population: _Population, weights: Tensor, fitness: Fitness) -> Tensor:
    """The weights of two experts by EM. The entropy of clients' choices falls from step to step; the last weights are 0 and 1.

    This is deterministic annealing with the entropy given in place of the temperature, which works for clients of any size
    and number: Rose, "Deterministic Annealing for Clustering, Compression, Classification, Regression, and Related
    Optimization Problems", Proceedings of the IEEE 1998.
    """
    for entropy in _ENTROPIES:
        losses = population.losses(weights, fitness)
        weights = _with_entropy(losses - losses.min(1, keepdim=True).values, entropy)
    return _hard_weights(population.losses(weights, fitness))


def _with_entropy(losses: Tensor, entropy: float) -> Tensor:
    """The weights proportional to exp(-losses / temperature) with this mean entropy in bits. The temperature is found by bisection."""
    scale = float(losses.mean()) or 1.0
    low, high = -20.0, 20.0  # log of the temperature in units of the mean loss
    weights = losses
    for _ in range(40):
        middle = (low + high) / 2
        weights = (-losses / (scale * math.exp(middle))).softmax(1)
        too_cold = float(torch.special.entr(weights).sum(1).mean()) < entropy * math.log(2)
        low, high = (middle, high) if too_cold else (low, middle)
    return weights


def _converged(population: _Population, weights: Tensor) -> _Partition:
    """The partition that starts with these weights, after clients have moved to the experts that fit them best.

    The fitness is fitted again after each round of moves, as long as the likelihood rises.
    """
    best: _Partition | None = None
    for _ in range(_ROUNDS):
        found = _Partition(weights, population.fitness_of(weights))
        if best is not None and not found.fitness.log_likelihood > best.fitness.log_likelihood:
            break
        best, weights = found, _moved(population, found)
        if torch.equal(weights, best.weights):
            break
    assert best is not None
    return best


def _moved(population: _Population, found: _Partition) -> Tensor:
    """The weights after clients have moved until the loss falls no further. Experts without clients are dropped."""
    best, least, weights = found.weights, math.inf, found.weights
    for _ in range(_PASSES):
        losses = population.losses(weights, found.fitness)
        loss = float((weights * losses).sum())
        if not loss < (1 - _LEAST_GAIN) * least:
            break
        best, least, weights = weights, loss, _hard_weights(losses)
        if torch.equal(weights, best):
            break
    return best


def _hard_weights(losses: Tensor) -> Tensor:
    """Weights of 0 and 1: each client with the expert of its lowest loss. Experts without clients are dropped."""
    experts, place = np.unique(losses.argmin(1).numpy(), return_inverse=True)
    return torch.eye(len(experts), dtype=losses.dtype)[torch.from_numpy(place)]


def _canonical(losses: Tensor, noise: float, evidence: Mapping[int, float], gains: Mapping[int, float]) -> Grouping:
    """The grouping by final losses `[M, K]`, its experts in the order of Grouping."""
    least = losses.argmin(1).numpy()
    ids, lowest, place, sizes = np.unique(least, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((lowest, -sizes))
    relative = (losses.min(1, keepdim=True).values - losses[:, ids[order]]) / (2 * noise)
    return Grouping(relative.softmax(1).numpy(), np.argsort(order)[place], evidence, gains)


def _errors_unseen(population: _Population, weights: Tensor, fitness: Fitness, seed: int) -> Tensor:
    """Squared error `[M]` of each client on its unseen rows, with these experts; see Fitness.errors_unseen."""
    errors = torch.empty(population.size, dtype=torch.float64)
    for chunk, (part, residuals) in enumerate(population.left_out(weights)):
        errors[part.clients] = fitness.errors_unseen(part, residuals, stream(seed, "halves", chunk))
    return errors
