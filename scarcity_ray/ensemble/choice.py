"""Which features to use: of some blocks of them, the one on which clients' own heads predict rows best that they have not seen.

It takes one exchange after the moments. Down: for each block a client's trial, the common head of the other clients and how far heads
differ from it. Up: for each block one number, the squared error of the client's rows, each left out of its own head in turn.

Moments alone do not tell as much: they know rows up to a rotation, and so only the mean of their leverages (generalised cross-validation).
On waves, rows at the edge have a leverage far above it. In plm/Produc waves seemed better than waves with inputs by 1.7 standard errors
with it, and are worse by 1.1 with each row's own leverage; in mlmRev/Mmmec it put the error of waves, beside that of inputs, too low
by up to a half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.differing import Personal, differing
from scarcity_ray.ensemble.grouping import in_standard_errors
from scarcity_ray.ensemble.moments import Packing
from scarcity_ray.ensemble.personal import marginal, personal_head, posterior_covariance, whiten
from scarcity_ray.ensemble.random_coefficients import RandomCoefficients
from scarcity_ray.ensemble.ridge import all_rows, choose_strength, fit, penalised

_CLEAR = 1.0  # standard errors by which another block must be better than the usual one
_LEAST = 1e-6  # of the share of a row that its prediction leaves free


@dataclass(frozen=True)
class Choice:
    """A block of features.

    name: the block that is used. usual: the one that another must clearly beat. errors: by block, mean squared error per row and output
    of left-out rows. gains: by block, how much lower its error is than the usual one's, in standard errors (over clients, paired).
    """

    name: str
    usual: str
    errors: Mapping[str, float]
    gains: Mapping[str, float]


def trial(
    packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], personal: Personal, times: int = 1
) -> tuple[Tensor, RandomCoefficients | None]:
    """For each client the common head of the others, `[M, width, outputs]` float64, and the covariance of clients' heads about it.

    All clients count as those of one expert. The heads of the others are `W - A F^T V^-1 E` in closed form (Woodbury): W is the head of
    all, A the inverse of its gram and penalty, E the residuals without the client. The arguments are those of `learning.learn`.
    """
    total, clients = packing.total(rows, samples), all_rows(packing, rows, samples, times)
    found = differing(packing.task, total, clients, *choose_strength(total, clients), personal)
    inverse = torch.linalg.inv(penalised(found.fitted, found.strength))
    heads = fit(found.fitted, found.strength).repeat(len(rows), 1, 1)
    for part, e in zip(clients, found.residuals, strict=True):
        f = part.features
        if found.scatter is not None and packing.task == "regression":  # the common head is that of generalised least squares
            f, e = whiten(marginal(f, found.scatter.covariance), f, e)
        heads[part.clients] -= inverse @ (f.mT @ e)
    return heads, found.scatter


def left_out_error(features: Tensor, targets: Tensor, head: Tensor, covariance: Tensor | None) -> float:
    """Sum of squared errors of a client's rows `[n, width]` and targets `[n, outputs]`, each predicted by an own head without it.

    head: the common one `[width, outputs]` that own heads shrink towards. covariance: Q of own heads about it, relative to the noise,
    `[width, width]` or its diagonal; None where clients use that head itself. The residual of row i is `(Y - F W_m)_i / (1 - f_i^T C f_i)`
    with the own head W_m of all rows and its posterior covariance C, both relative to the noise (Allen's PRESS).
    """
    if covariance is None:
        return float((targets - features @ head).square().sum())
    own = personal_head(features, targets, head, covariance)
    leverage = ((features @ posterior_covariance(features, covariance)) * features).sum(1, keepdim=True)
    return float(((targets - features @ own) / (1 - leverage).clamp(min=_LEAST)).square().sum())


def choose(blocks: Sequence[str], usual: str, squares: NDArray[np.floating], numbers: float) -> Choice:
    """The block with the lowest error of those that are better than the usual one by a standard error; else the usual one.

    squares: `[M, blocks]`, each client's sum of squared errors. numbers: rows times outputs of these clients.
    """
    by = dict(zip(blocks, torch.from_numpy(np.asarray(squares, dtype=np.float64)).T, strict=True))
    errors = {name: float(part.sum()) / numbers for name, part in by.items()}
    gains = {name: in_standard_errors(by[usual] - part) for name, part in by.items()}
    better = [name for name in blocks if gains[name] > _CLEAR]
    return Choice(min(better, key=lambda name: errors[name], default=usual), usual, errors, gains)
