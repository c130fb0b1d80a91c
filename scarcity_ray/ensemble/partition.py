"""Partitions of clients among experts: how they are found.

A client's fit under an expert is measured with a head fitted **without** the client. A head with many features that was fitted
with it would reproduce its rows, and no client would ever leave its group. Each client may differ from its expert (see
ensemble.fitness), so that the differences of single clients count less than those that many clients share.

Groups are found by splitting. Each expert's clients are split in two by annealed EM from random starts. Clients then move to
the expert that fits them best, until none moves. The split with the highest likelihood of all clients is kept. Splits in two
depend little on the random start: on digits (60 clients of 14 images, 256 features, 10 seeds) one such run always finds four
rotations and five permutations of labels, while EM with all experts at once finds them from 40 and 65 random starts in 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.fitness import Fitness
from scarcity_ray.ensemble.halves import Half, with_rest
from scarcity_ray.ensemble.ridge import Rows

_STARTS = 2  # random starts of a split
_CANDIDATES = 2  # splits, the best by their own clients, after which all clients move
_ENTROPIES = (0.97, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)  # annealing schedule: mean entropy, in bits, of a client's choice between two halves
_PASSES = 20  # largest number of passes in which clients move to the expert that fits them best
_LEAST_GAIN = 1e-4  # relative gain of the loss; a pass that gains less is the last
_ROUNDS = 5  # largest number of rounds of first fitting how clients differ from their experts, then moving clients
_CONSTANT = 1e-6  # penalty of the constant for each row: an expert without remaining clients then still has a head, near 0


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
class Population:
    """Clients numbered from 0, and the penalty of their experts' coefficients."""

    clients: list[Rows]
    penalty: Tensor

    @classmethod
    def of(cls, clients: list[Rows], strength: float) -> Population:
        """All clients. strength: that of the ridge head of all clients together.

        An expert's head differs from 0 as that head does, and from that head as clients do: these variances add. With the strength
        alone, which is high if groups' heads cancel, experts cannot differ (eight groups of ten: found in 1 seed of 20).
        """
        width, outputs = clients[0].features.shape[2], clients[0].targets.shape[2]
        penalty = torch.full((width,), strength, dtype=torch.float64)
        penalty[-1] = _CONSTANT * float(sum(part.numbers.sum() for part in clients)) / outputs
        whole = cls([with_rest(part) for part in clients], penalty)
        penalty[:-1] = 1 / (1 / strength + whole.fitness_of(whole.one_expert()).shift[:-1])
        return whole

    def of_half(self, half: list[Half]) -> Population:
        """The same clients with one half of their rows. half: for each chunk of clients."""
        return replace(self, clients=[own.part(part) for own, part in zip(half, self.clients, strict=True)])

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

    def only(self, chosen: Tensor) -> Population:
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

    def fitness_of(self, weights: Tensor, *, any_form: bool = False) -> Fitness:
        """How clients differ from their experts. weights: `[M, K]`, one expert for each client. any_form: see `Fitness.of`."""
        own = []
        for part, residuals in self.left_out(weights):
            own.append(residuals[torch.arange(len(residuals)), :, weights[part.clients].argmax(1)])
        return Fitness.of(self.clients, own, any_form=any_form)


# -- finding groups --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """Each client with one expert: weights `[M, K]` of 0 and 1; and how clients differ from their experts."""

    weights: Tensor
    fitness: Fitness

    @property
    def experts(self) -> int:
        """Number of experts. Each has a client."""
        return self.weights.shape[1]


@dataclass(frozen=True)
class _Split:
    """An expert's clients in two.

    gain: of their log likelihood. second: for each, whether it belongs to the new expert; none does if there is no split.
    """

    gain: float
    second: Tensor


def finer_partitions(trial: Population, coarse: Partition, seed: int) -> Iterator[Partition]:
    """Partitions with one more expert each time, until no expert can be split."""
    splits: dict[bytes, _Split] = {}  # by members: those of an expert that has kept its clients are not looked for again
    while (finer := _finer(trial, coarse, splits, seed)) is not None:
        yield finer
        coarse = finer


def _finer(trial: Population, coarse: Partition, splits: dict[bytes, _Split], seed: int) -> Partition | None:
    """The most likely partition after one of the most promising splits, and after clients have moved. None if no split adds an expert."""
    ways = []
    for expert, column in enumerate(coarse.weights.T):
        members = column.nonzero()[:, 0]
        key = members.numpy().tobytes()
        if key not in splits:
            splits[key] = _split(trial.only(members), coarse.fitness, stream(seed, "split", coarse.experts, expert))
        if splits[key].second.any():
            ways.append((splits[key].gain, members[splits[key].second]))
    ways.sort(key=lambda way: -way[0])
    finer = []
    for _, second in ways[:_CANDIDATES]:
        weights = torch.cat([coarse.weights, torch.zeros(trial.size, 1, dtype=coarse.weights.dtype)], dim=1)
        weights[second] = torch.eye(coarse.experts + 1, dtype=weights.dtype)[-1]
        finer.append(converged(trial, weights))
    return most_likely([found for found in finer if found.experts > coarse.experts])


def _split(part: Population, fitness: Fitness, rng: np.random.Generator) -> _Split:
    """The most likely split of one expert's clients. fitness: of the partition so far."""
    starts = [torch.from_numpy(rng.standard_normal((part.size, 2)) / 2).softmax(1) for _ in range(_STARTS)]
    halves = most_likely([converged(part, _annealed(part, start, fitness)) for start in starts])
    if halves is None or halves.experts < 2:
        return _Split(0.0, torch.zeros(part.size, dtype=torch.bool))
    whole = part.fitness_of(part.one_expert()).log_likelihood
    return _Split(halves.fitness.log_likelihood - whole, halves.weights[:, 1] > 0)


def most_likely(found: list[Partition]) -> Partition | None:
    """The partition with the highest likelihood of all clients, each under heads fitted without it."""
    return max(found, key=lambda one: one.fitness.log_likelihood, default=None)


def _annealed(population: Population, weights: Tensor, fitness: Fitness) -> Tensor:
    """The weights of two experts by EM. The entropy of clients' choices falls from step to step; the last weights are 0 and 1.

    This is deterministic annealing with the entropy given in place of the temperature, which works for clients of any size
    and number: Rose, "Deterministic Annealing for Clustering, Compression, Classification, Regression, and Related
    Optimization Problems", Proceedings of the IEEE 1998.
    """
    for entropy in _ENTROPIES:
        losses = population.losses(weights, fitness)
        weights = _with_entropy(losses - losses.min(1, keepdim=True).values, entropy)
    return hard_weights(population.losses(weights, fitness))


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


def converged(population: Population, weights: Tensor) -> Partition:
    """The partition that starts with these weights, after clients have moved to the experts that fit them best.

    The fitness is fitted again after each round of moves, as long as the likelihood rises.
    """
    best: Partition | None = None
    for _ in range(_ROUNDS):
        found = Partition(weights, population.fitness_of(weights))
        if best is not None and not found.fitness.log_likelihood > best.fitness.log_likelihood:
            break
        best, weights = found, _moved(population, found)
        if torch.equal(weights, best.weights):
            break
    assert best is not None
    return best


def _moved(population: Population, found: Partition) -> Tensor:
    """The weights after clients have moved until the loss falls no further. Experts without clients are dropped."""
    best, least, weights = found.weights, math.inf, found.weights
    for _ in range(_PASSES):
        losses = population.losses(weights, found.fitness)
        loss = float((weights * losses).sum())
        if not loss < (1 - _LEAST_GAIN) * least:
            break
        best, least, weights = weights, loss, hard_weights(losses)
        if torch.equal(weights, best):
            break
    return best


def hard_weights(losses: Tensor) -> Tensor:
    """Weights of 0 and 1: each client with the expert of its lowest loss. Experts without clients are dropped."""
    experts, place = np.unique(losses.argmin(1).numpy(), return_inverse=True)
    return torch.eye(len(experts), dtype=losses.dtype)[torch.from_numpy(place)]
