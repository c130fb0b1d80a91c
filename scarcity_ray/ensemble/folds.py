"""Folds: on which rows groups are found, and on which others they are judged.

Few rows: groups are found on one half of every client's rows and judged on the other, and the other way round. The heads that
judge a client are fitted to all rows of other clients: which of them are in a group was decided on their first halves alone.
Many rows: groups are found on some clients and judged on the others, whose halves, in turn, select their experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.halves import Half, halves, ranks_of
from scarcity_ray.ensemble.partition import Partition, Population

_TRIAL_ROWS = (2048, 8192)
"""Groups are found on half of the clients if these have so many rows, and on clients with so many rows at most."""
_NEAR = 0.25  # on the line from an expert, 0, to another, 1: a client between 0.25 and 0.5 lies between them, about -0.25 to 0.25 with one


@dataclass(frozen=True)
class Fold:
    """finders: the rows that groups are found on. chosen: the number of each finder in the whole population.
    judges: the clients that judge. seen: the halves of all clients' rows, for each chunk, that select experts; the rest judges.
    """

    whole: Population
    finders: Population
    chosen: Tensor
    judges: Tensor
    seen: list[list[Half]]

    def for_all(self, found: Partition) -> Tensor:
        """The weights of a partition of the finders for the whole population, `[M, K]`: 0 for the others."""
        return torch.zeros(self.whole.size, found.experts, dtype=torch.float64).index_copy(0, self.chosen, found.weights)

    def surprise(self, found: Partition, *, any_form: bool = False) -> Tensor:
        """Minus the log density of the unseen rows of each judge, `[judges]`; see Fitness.surprise. any_form: clients differ from their
        experts by a covariance of the best form, fitted to the finders' rows."""
        fitness = self.finders.fitness_of(found.weights, any_form=True) if any_form else found.fitness
        surprise = torch.zeros(self.whole.size, dtype=torch.float64)
        for (part, residuals), seen in zip(self.whole.left_out(self.for_all(found)), self.seen, strict=True):
            surprise[part.clients] = sum(fitness.surprise(part, residuals, half) for half in seen) / len(seen)
        return surprise[self.judges]

    def between(self, found: Partition) -> tuple[int, int]:
        """How many judges lie between their expert and the next best, and how many of them lie there or near their expert.

        A continuum of heads has as many clients halfway between two experts as near one: a third of these three quarters, or more.
        """
        place = torch.full((self.whole.size,), torch.nan, dtype=torch.float64)
        for part, residuals in self.whole.left_out(self.for_all(found)):
            place[part.clients] = found.fitness.positions(part, residuals)
        place = place[self.judges]
        inside = (place >= -_NEAR) & (place <= 0.5)
        return int((inside & (place > _NEAR)).sum()), int(inside.sum())


def folds(whole: Population, seed: int) -> list[Fold]:
    """Two folds of the rows of all clients, or one fold of clients."""
    everyone, chosen = torch.arange(whole.size), _trial(whole, seed)
    drawn = [halves(part, stream(seed, "halves", chunk)) for chunk, part in enumerate(whole.clients)]
    if len(chosen) < whole.size:
        judges = everyone[~torch.isin(everyone, chosen)]
        return [Fold(whole, whole.only(chosen), chosen, judges, [list(both) for both in drawn])]
    return [
        Fold(whole, whole.of_half([both[first] for both in drawn]), everyone, everyone, [[both[first]] for both in drawn])
        for first in (0, 1)
    ]


def _trial(whole: Population, seed: int) -> Tensor:
    """The clients that groups are found on, in ascending order: all if they have few rows."""
    ranks = torch.cat([ranks_of(part) for part in whole.clients])[torch.cat([part.clients for part in whole.clients]).argsort()]
    fewest, most = _TRIAL_ROWS
    if int(ranks.sum()) < 2 * fewest:
        return torch.arange(whole.size)
    order = torch.from_numpy(stream(seed, "clients on trial").permutation(len(ranks)))
    before = ranks[order].cumsum(0) - ranks[order]
    return order[before < min(int(ranks.sum()) // 2, most)].sort().values
