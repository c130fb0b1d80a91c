"""Mixes the predictions of several experts, and splits the uncertainty in two: shared by all experts, and from their disagreement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mixture(NamedTuple):
    """A mixed prediction for n inputs, and its uncertainty in two parts, both at least 0.

    mean: `[n, o]`, probabilities of the classes, or predicted targets.
    shared: the experts' own uncertainty, on average.
    disagreement: the uncertainty that would vanish if the right expert were known.
    For classes both are `[n]`, in nats; for targets both are variances, `[n, o]`.
    """

    mean: Tensor
    shared: Tensor
    disagreement: Tensor

    @property
    def total(self) -> Tensor:
        """The entropy or variance of the mixture itself."""
        return self.shared + self.disagreement


def mix_classes(probabilities: Tensor, weights: Tensor) -> Mixture:
    """Mixes experts' class probabilities `[n, K, o]` by weights `[n, K]`, which sum to 1 in each row.

    Entropy of the mixture = mean entropy of the experts + mutual information of class and expert (Houlsby, Huszár,
    Ghahramani and Lengyel, "Bayesian Active Learning for Classification and Preference Learning", 2011; Depeweg et al.,
    "Decomposition of Uncertainty in Bayesian Deep Learning", ICML 2018). The mutual information is computed as the experts'
    mean divergence from the mixture: if experts agree, a difference of entropies would contain only rounding errors.
    """
    by = weights[..., None]
    mean = (by * probabilities).sum(1)
    shared = -(by * torch.xlogy(probabilities, probabilities)).sum((1, 2))
    divergence = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean[:, None])
    # If the mixture gives a class probability 0, only experts of weight 0 can give it more: their infinite divergence does not count.
    disagreement = torch.where(mean[:, None] > 0, by * divergence, torch.zeros_like(divergence)).sum((1, 2))
    return Mixture(mean, shared, disagreement.clamp(min=0))


def mix_targets(means: Tensor, variances: Tensor, weights: Tensor) -> Mixture:
    """Mixes experts' predicted targets `[n, K, o]` and their variances by weights `[n, K]`, which sum to 1 in each row.

    The law of total variance: variance of the mixture = mean variance of the experts (of the noise, and of their own
    heads) + variance between their means.
    """
    by = weights[..., None]
    mean = (by * means).sum(1)
    return Mixture(mean, (by * variances).sum(1), (by * (means - mean[:, None]).square()).sum(1))
