"""Several experts' answers as one, and what is uncertain in it: what they all do not know, and what they disagree on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mixture(NamedTuple):
    """A mixed prediction for n inputs, and its uncertainty in two parts, both at least 0.

    mean: `[n, o]`, probabilities of the classes, or predicted targets. shared: what remains uncertain to each expert itself,
    on average. disagreement: what telling the right expert would resolve. For classes `[n]`, in nats; for targets `[n, o]`,
    variances.
    """

    mean: Tensor
    shared: Tensor
    disagreement: Tensor

    @property
    def total(self) -> Tensor:
        """The mixture's own entropy or variance."""
        return self.shared + self.disagreement


def mix_classes(probabilities: Tensor, weights: Tensor) -> Mixture:
    """Experts' class probabilities `[n, K, o]` by weights `[n, K]` that sum to 1 in each row.

    Entropy of the mixture = mean entropy of the experts + mutual information of class and expert (Houlsby, Huszár,
    Ghahramani and Lengyel, "Bayesian Active Learning for Classification and Preference Learning", 2011; Depeweg et al.,
    "Decomposition of Uncertainty in Bayesian Deep Learning", ICML 2018). The second is the experts' mean divergence from
    the mixture, which is how it is computed: a difference of entropies would be all rounding where experts agree.
    """
    by = weights[..., None]
    mean = (by * probabilities).sum(1)
    shared = -(by * torch.xlogy(probabilities, probabilities)).sum((1, 2))
    divergence = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean[:, None])
    # What the mixture holds impossible only an expert of weight 0 can hold possible, and its infinite divergence does not count.
    disagreement = torch.where(mean[:, None] > 0, by * divergence, torch.zeros_like(divergence)).sum((1, 2))
    return Mixture(mean, shared, disagreement.clamp(min=0))


def mix_targets(means: Tensor, variances: Tensor, weights: Tensor) -> Mixture:
    """Experts' predicted targets `[n, K, o]` and their variances by weights `[n, K]` that sum to 1 in each row.

    The law of total variance: variance of the mixture = mean variance of the experts (of the noise, and of their own
    heads) + variance between their means.
    """
    by = weights[..., None]
    mean = (by * means).sum(1)
    return Mixture(mean, (by * variances).sum(1), (by * (means - mean[:, None]).square()).sum(1))
