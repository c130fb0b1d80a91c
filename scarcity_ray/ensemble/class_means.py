"""Classes known by their mean features: what clients say of them, what that says together, and the linear head it is.

Scores are those of the nearest class mean, a linear head (Snell, Swersky and Zemel, "Prototypical networks for few-shot
learning", NeurIPS 2017): from `-|f - mu_c|^2 / (2 T)` the part that all classes share falls away, and there
remains `w_c = mu_c / T`, `b_c = -|mu_c|^2 / (2 T)`.

Means of clients differ by more than the number of their rows says where the clients differ. As in one-way analysis of
variance, the mean of a client's n rows of class c is taken as `N(mu_c, sigma^2 (differ + 1 / n))` in each feature.
Float64; what is sent is `[classes, width + 1]` a client: the mean of each class, and its number of rows last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scarcity_ray.ensemble.tempering import tempered

NEVER = -100.0
"""Log-probability, before its features are seen, of a class that nobody has: finite, and far below any other."""

_RATIOS = torch.cat([torch.zeros(1), 2.0 ** torch.arange(-10, 7, 0.25)]).double()
_LOYALTIES = (2.0 ** torch.arange(-4, 12, 0.25)).double()
_ALIKE = 1e-6  # nats a number: evidence that differs by less does not choose


@dataclass(frozen=True)
class ClassMeans:
    """What clients know of the classes together.

    means: `[classes, width]`, that of all rows for a class that nobody has. shares: `[classes]`, of the rows. temperature:
    T above. differ: variance of clients' own means over that of their rows. loyalty: how many rows of its own a client
    must have for its shares of the classes to count as much as everybody's.
    """

    means: Tensor
    shares: Tensor
    temperature: float
    differ: float
    loyalty: float


def class_means(f: Tensor, y: Tensor, classes: int) -> Tensor:
    """What a client with features `[n, width]` and classes `[n]` sends: `[classes, width + 1]`, zeros for a class it lacks."""
    codes = torch.nn.functional.one_hot(y, classes).double()
    counts = codes.sum(0)[:, None]
    return torch.cat([codes.mT @ f.double() / counts.clamp(min=1), counts], dim=1)


def credible(sent: Tensor, samples: Tensor) -> Tensor:
    """Whether each client's numbers of rows `[k, classes]` can be true: whole, none negative, `samples [k]` together."""
    counts = sent[..., -1].double()
    return (counts >= 0).all(1) & (counts == counts.round()).all(1) & (counts.sum(1) == samples)


def together(sent: Tensor, personal: bool) -> ClassMeans:
    """What clients' messages `[k, classes, width + 1]` say together; somebody has to have a row.

    The means are weighted by rows, as in FedProto (Tan et al., AAAI 2022). personal: whether heads will be
    clients' own; the temperature is for those then.
    """
    sent = sent.double()
    counts = sent[..., -1]
    total = counts.sum(0)
    sums = (counts[..., None] * sent[..., :-1]).sum(0)
    means = torch.where(total[:, None] > 0, sums / total.clamp(min=1)[:, None], sums.sum(0) / total.sum())
    differ, variance = variance_components(sent, means)
    heat = _temperature(sent, sums, differ, variance)
    if personal:
        # A row's variance about its client's own mean, as far as that is known, over that about everybody's.
        about_own = 1 + differ / (1 + counts * differ)
        heat *= float((counts * about_own).sum() / total.sum()) / (1 + differ)
    return ClassMeans(means, total / total.sum(), heat, differ, loyalty(counts))


def linear_head(known: ClassMeans, own: Tensor | None = None) -> Tensor:
    """The head `[width + 1, classes]`, the constant's row last, that gives log-probabilities of the classes up to a constant.

    own: what a client would send. Its means are then the posterior ones, between its own and everybody's, and its
    classes have the probabilities that its own rows and everybody's shares tell; without it all are equal.
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
    """`differ` and `sigma^2` above of messages `[k, classes, width + 1]`, with the classes' means `[classes, width]` about.

    differ is where the restricted likelihood (Patterson and Thompson, Biometrika 1971) of the clients' means is greatest,
    all features alike and apart; sigma^2 has it in closed form. Only clients with different numbers of rows tell the two
    apart: where they do not, differ is 0. Both are 0 where every class is one client's alone.
    """
    cells, free = 0, 0
    log_spread, squares = torch.zeros_like(_RATIOS), torch.zeros_like(_RATIOS)
    for own, mean in zip(sent.transpose(0, 1), means, strict=True):
        own = own[own[:, -1] > 0]
        if len(own) < 2:
            continue
        about = own[:, :-1] - mean  # centred, so that no digits are lost below
        variance = _RATIOS[:, None] + 1 / own[:, -1]
        weights = 1 / variance
        total = weights.sum(1)
        log_spread += variance.log().sum(1) + total.log()
        squares += weights @ about.square().sum(1) - (weights @ about).square().sum(1) / total
        cells, free = cells + len(own), free + len(own) - 1
    width = means.shape[1]
    if not free or not (squares > 0).all():
        return 0.0, 0.0
    evidence = -0.5 * width * (log_spread + free * squares.log())
    best = int(torch.nonzero(evidence >= evidence.max() - _ALIKE * width * cells)[0])
    return float(_RATIOS[best]), float(squares[best]) / (free * width)


def loyalty(counts: Tensor) -> float:
    """The concentration a of the Dirichlet distribution `a * shares` from which clients' class probabilities come, given
    their numbers of rows `[k, classes]`: where these are likeliest (Minka, "Estimating a Dirichlet distribution", 2000), and
    the greatest where that is all the same."""
    counts = counts[:, counts.sum(0) > 0]
    rows = counts.sum(1)
    shares = counts.sum(0) / counts.sum()
    evidence = torch.stack([
        (torch.lgamma(a) - torch.lgamma(rows + a)).sum() + (torch.lgamma(counts + a * shares) - torch.lgamma(a * shares)).sum()
        for a in _LOYALTIES
    ])  # fmt: skip
    return float(_LOYALTIES[torch.nonzero(evidence >= evidence.max() - _ALIKE * counts.numel())[-1]])


def _temperature(sent: Tensor, sums: Tensor, differ: float, variance: float) -> float:
    """The T that foretells the classes of clients left out best; 1 where nothing tells how rows lie about their means.

    Of a client's rows only the means are known. One row stands for those of a class: as far from the others' mean as a row
    would be, in the direction of the client's mean (of a single row, which is its own mean, this is the row itself).
    Searched between the variance of rows if features were independent, and if all were one.
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
        left = torch.where(rest[:, None] > 0, left, sums / total[:, None])  # nobody else's class cannot be left out
        there = torch.nonzero((counts > 0) & (rest > 0))[:, 0]
        counts, rest = counts[there], rest[there]
        others = 1 / rest + differ * (squares[there] - counts.square()) / rest.square()  # variance of their mean, in sigma^2
        stretch = ((differ + 1 + others) / (differ + 1 / counts + others)).sqrt()[:, None]
        row = left[there] + stretch * (own[there, :-1] - left[there])
        scores.append(row @ left.mT - left.square().sum(1) / 2)
        classes.append(there)
        weights.append(counts)
    width = sent.shape[2] - 1
    return tempered(torch.cat(scores), torch.cat(classes), torch.cat(weights), variance, width * (1 + differ) * variance)
