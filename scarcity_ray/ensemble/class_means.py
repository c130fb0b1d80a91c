"""Classes by their mean features: the message of a client, the combination of all messages, and the linear head.

The head scores each class by the distance to its mean, and is linear (Snell, Swersky and Zemel, "Prototypical networks for
few-shot learning", NeurIPS 2017): all classes share one part of `-|f - mu_c|^2 / (2 T)`; without it the weights are
`w_c = mu_c / T`, the bias is `b_c = -|mu_c|^2 / (2 T)`.

If clients differ, their means differ by more than their numbers of rows explain. As in one-way analysis of variance, the
mean of a client's n rows of class c is modelled as `N(mu_c, sigma^2 (differ + 1 / n))` in each feature.
Float64. A client sends `[classes, width + 1]`: the mean of each class, and its number of rows last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scarcity_ray.ensemble.tempering import tempered

NEVER = -100.0
"""Prior log-probability of a class without rows at any client: finite, and far below any other."""

_RATIOS = torch.cat([torch.zeros(1), 2.0 ** torch.arange(-10, 7, 0.25)]).double()
_LOYALTIES = (2.0 ** torch.arange(-4, 12, 0.25)).double()
_TIE = 1e-6  # nats per number: log likelihoods closer than this count as equal


@dataclass(frozen=True)
class ClassMeans:
    """The classes, from the messages of all clients.

    means: `[classes, width]`; for a class without rows, the mean of all rows.
    shares: `[classes]`, each class's share of the rows.
    temperature: T above.
    differ: variance of clients' own means, divided by the variance of their rows.
    loyalty: number of own rows at which a client's own class shares count as much as the shares of all clients.
    """

    means: Tensor
    shares: Tensor
    temperature: float
    differ: float
    loyalty: float


def class_means(f: Tensor, y: Tensor, classes: int) -> Tensor:
    """The message of a client with features `[n, width]` and classes `[n]`: `[classes, width + 1]`, zeros for a class without rows."""
    codes = torch.nn.functional.one_hot(y, classes).double()
    counts = codes.sum(0)[:, None]
    return torch.cat([codes.mT @ f.double() / counts.clamp(min=1), counts], dim=1)


def credible(sent: Tensor, samples: Tensor) -> Tensor:
    """Whether the numbers of rows in each message are possible: whole, not negative, with the sum `samples [k]`. Bool `[k]`."""
    counts = sent[..., -1].double()
    return (counts >= 0).all(1) & (counts == counts.round()).all(1) & (counts.sum(1) == samples)


def together(sent: Tensor, personal: bool) -> ClassMeans:
    """Combines clients' messages `[k, classes, width + 1]`. At least one client must have a row.

    The means are weighted by rows, as in FedProto (Tan et al., AAAI 2022). personal: whether the temperature is for
    clients' own heads.
    """
    sent = sent.double()
    counts = sent[..., -1]
    total = counts.sum(0)
    sums = (counts[..., None] * sent[..., :-1]).sum(0)
    means = torch.where(total[:, None] > 0, sums / total.clamp(min=1)[:, None], sums.sum(0) / total.sum())
    differ, variance = variance_components(sent, means)
    temperature = _temperature(sent, sums, differ, variance)
    if personal:
        # The variance of a row about the estimate of its client's own mean, divided by its variance about the mean of all.
        about_own = 1 + differ / (1 + counts * differ)
        temperature *= float((counts * about_own).sum() / total.sum()) / (1 + differ)
    return ClassMeans(means, total / total.sum(), temperature, differ, loyalty(counts))


def linear_head(known: ClassMeans, own: Tensor | None = None) -> Tensor:
    """The head `[width + 1, classes]`, the constant's row last. It gives log-probabilities of the classes up to a constant.

    own: a client's message. The head then uses the posterior means, between the client's own means and those of all clients,
    and prior class probabilities from its own rows and the shares of all clients. Without `own` all classes with rows are
    equally likely.
    """
    means, log_prior = known.means, torch.where(known.shares > 0, 0.0, NEVER).double()
    if own is not None:
        counts = own[:, -1:].double()
        trust = counts * known.differ / (1 + counts * known.differ)
        means = trust * own[:, :-1].double() + (1 - trust) * means
        prior = (counts[:, 0] + known.loyalty * known.shares) / (counts.sum() + known.loyalty)
        log_prior = prior.log().clamp(min=NEVER)
    bias = log_prior - means.square().sum(1) / (2 * known.temperature)
    return torch.cat([means.mT / known.temperature, bias[None]])


def variance_components(sent: Tensor, means: Tensor) -> tuple[float, float]:
    """`differ` and `sigma^2` above, from messages `[k, classes, width + 1]` and the approximate means of the classes `[classes, width]`.

    differ maximises the restricted likelihood (Patterson and Thompson, Biometrika 1971) of the clients' means, with one value
    for all features, which are independent; sigma^2 then has a closed form. The two can be separated only if clients have
    different numbers of rows; otherwise differ is 0. Both are 0 if no class has two clients.
    """
    cells, free = 0, 0
    log_spread, squares = torch.zeros_like(_RATIOS), torch.zeros_like(_RATIOS)
    for own, mean in zip(sent.transpose(0, 1), means, strict=True):
        own = own[own[:, -1] > 0]
        if len(own) < 2:
            continue
        centred = own[:, :-1] - mean  # so that the differences below lose no digits
        variance = _RATIOS[:, None] + 1 / own[:, -1]
        weights = 1 / variance
        total = weights.sum(1)
        log_spread += variance.log().sum(1) + total.log()
        squares += weights @ centred.square().sum(1) - (weights @ centred).square().sum(1) / total
        cells, free = cells + len(own), free + len(own) - 1
    width = means.shape[1]
    if not free or not (squares > 0).all():
        return 0.0, 0.0
    log_likelihood = -0.5 * width * (log_spread + free * squares.log())
    best = int(torch.nonzero(log_likelihood >= log_likelihood.max() - _TIE * width * cells)[0])
    return float(_RATIOS[best]), float(squares[best]) / (free * width)


def loyalty(counts: Tensor) -> float:
    """The concentration a of the Dirichlet distribution `a * shares` of clients' class probabilities, by maximum likelihood.

    counts: `[k, classes]`, clients' numbers of rows (Minka, "Estimating a Dirichlet distribution", 2000). Of equally likely
    values, the largest.
    """
    counts = counts[:, counts.sum(0) > 0]
    rows = counts.sum(1)
    shares = counts.sum(0) / counts.sum()
    log_likelihood = torch.stack([
        (torch.lgamma(a) - torch.lgamma(rows + a)).sum() + (torch.lgamma(counts + a * shares) - torch.lgamma(a * shares)).sum()
        for a in _LOYALTIES
    ])  # fmt: skip
    return float(_LOYALTIES[torch.nonzero(log_likelihood >= log_likelihood.max() - _TIE * counts.numel())[-1]])


def _temperature(sent: Tensor, sums: Tensor, differ: float, variance: float) -> float:
    """The T that predicts the classes of left-out clients best; 1 if the variance of rows is unknown (0).

    Only the means of a client's rows are known, so one representative row replaces its rows of a class. It lies in the
    direction of the client's mean, as far from the mean of the other clients as a row is expected to be (a single row is
    its own mean and represents itself). The search goes from the variance of rows for independent features to their
    variance for features that are all equal.
    """
    if not variance:
        return 1.0
    total = sent[..., -1].sum(0)
    known = total > 0
    sent, sums, total = sent[:, known], sums[known], total[known]
    squares = sent[..., -1].square().sum(0)
    scores, classes, weights = [], [], []
    for own in sent:
        counts = own[:, -1]
        rest = total - counts
        left = (sums - counts[:, None] * own[:, :-1]) / rest[:, None]
        left = torch.where(rest[:, None] > 0, left, sums / total[:, None])  # a class of this client alone cannot be left out
        kept = torch.nonzero((counts > 0) & (rest > 0))[:, 0]
        counts, rest = counts[kept], rest[kept]
        others = 1 / rest + differ * (squares[kept] - counts.square()) / rest.square()  # variance of their mean, in sigma^2
        stretch = ((differ + 1 + others) / (differ + 1 / counts + others)).sqrt()[:, None]
        row = left[kept] + stretch * (own[kept, :-1] - left[kept])
        scores.append(row @ left.mT - left.square().sum(1) / 2)
        classes.append(kept)
        weights.append(counts)
    width = sent.shape[2] - 1
    return tempered(torch.cat(scores), torch.cat(classes), torch.cat(weights), variance, width * (1 + differ) * variance)
