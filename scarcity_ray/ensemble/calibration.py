"""Class probabilities that mean what they say: the temperature of scores, from moments, and how well probabilities hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.personal import marginal
from scarcity_ray.ensemble.ridge import Rows
from scarcity_ray.ensemble.tempering import tempered

_POINTS = 50_000  # scores that stand for all rows, alike many for each class of a client
_LEAST, _MOST = 1e-6, 10.0  # scores estimate codes of 0 and 1: at 10 all classes are as good as alike


def temperature(clients: list[Rows], residuals: list[Tensor], seed: int = 0) -> float:
    """The T for which `softmax(scores / T)` foretells the classes of rows left out best: the least expected log-loss.

    clients: rows with one-hot targets; residuals: what a head fitted without them leaves of these, `[k, r, outputs]` each
    (`LeftOut.residuals`; for clients' own heads what `own_residuals` gives). The scores of a client's rows are not known:
    its moments tell them only up to a rotation. But rotations leave alone the mean scores of its rows of each class, and the
    scatter about these means. Where a client has one row of a class, its mean is that row's scores themselves. The others' rows
    are taken to lie around their mean by `sqrt(r)` times a normal vector of that scatter, r exponential: a Laplace distribution
    (Kotz, Kozubowski and Podgórski, 2001), as the errors of heads have heavier tails than a normal one. Never below the
    variance of the errors, the temperature if they were normal. On held-out digits the log-loss is within 4 % of the best T's,
    as it is with the rows known; with that variance as T it is 1.5 to 2.7 times as large.
    """
    points, classes, weights = _stand_ins(clients, residuals, seed)
    squares = sum(float(_completed(part, left)[1].square().sum()) for part, left in zip(clients, residuals, strict=True))
    outputs = points.shape[1]
    free = sum(float(part.numbers.sum()) for part in clients) * max(outputs - 1, 1) / outputs
    return tempered(points, classes, weights, min(max(squares / free, _LEAST), _MOST), _MOST)


def own_residuals(clients: list[Rows], residuals: list[Tensor], covariance: Tensor) -> list[Tensor]:
    """What clients' own heads leave of a row that they were fitted without, about: residuals for `temperature`.

    residuals: of a head fitted without the client at all. covariance: Q of clients' heads about it, relative to the noise,
    `[width, width]` or its diagonal `[width]`. With `V = I + F Q F^T` over all rows the residual of row i is
    `(V^-1 E)_i / (V^-1)_ii`. Rotated rows do not tell that diagonal, only its mean: this is generalised cross-validation (Golub,
    Heath and Wahba, Technometrics 1979). Returned are `[k, r + outputs, outputs]`: behind the others stand rows that have what
    lies outside the span of the client's features, as own heads make errors there as well.
    """
    found = []
    for part, left in zip(clients, residuals, strict=True):
        r, rows = part.features.shape[1], part.numbers / left.shape[2]
        inverse = torch.cholesky_inverse(marginal(part.features, covariance))
        total = inverse.diagonal(dim1=1, dim2=2).sum(1) + rows - r  # over all rows: outside the span V is 1
        stretch = (rows / total.clamp(min=_LEAST))[:, None, None]
        _, whole = _completed(part, left)
        found.append(stretch * torch.cat([inverse @ whole[:, :r], whole[:, r:]], dim=1))
    return found


def _stand_ins(clients: list[Rows], residuals: list[Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `[p, outputs]` that stand for the clients' rows, their classes `[p]`, and their weights `[p]`, which sum to 1."""
    cells = [_cells(part, left) for part, left in zip(clients, residuals, strict=True)]
    count = sum(len(counts) for counts, *_ in cells)
    draws = max(_POINTS // count, 1)
    rng = stream(seed, "temperature")
    points, classes, weights = [], [], []
    for counts, owner, kind, means, roots in cells:
        clients_here, outputs = roots.shape[:2]
        normal = torch.from_numpy(rng.standard_normal((clients_here, draws, outputs)))
        tail = torch.from_numpy(rng.exponential(size=(clients_here, draws, 1))).sqrt()
        around = (tail * normal) @ roots
        # A row of n lies about the mean of all n with (n - 1) / n of the variance: of one row, not at all.
        scores = means[:, None] + around[owner] * ((counts - 1) / counts).sqrt()[:, None, None]
        points.append(scores.reshape(-1, outputs))
        classes.append(kind.repeat_interleave(draws))
        weights.append((counts / draws).repeat_interleave(draws))
    share = torch.cat(weights)
    return torch.cat(points), torch.cat(classes), share / share.sum()


def _cells(part: Rows, left: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The classes that each of k clients has, c cells in all: rows, client and class `[c]`, mean scores `[c, outputs]`;
    and for each client the symmetric root `[outputs, outputs]` of the covariance of scores about these means."""
    targets, left = _completed(part, left)
    scores, counts = targets - left, _counts(part)
    means = targets.mT @ scores / counts.clamp(min=1)[..., None]
    scatter = scores.mT @ scores - means.mT @ (counts[..., None] * means)
    freedom = (counts - 1).clamp(min=0).sum(1).clamp(min=1)
    roots = _root(scatter / freedom[:, None, None])
    owner, kind = torch.nonzero(counts > 0, as_tuple=True)
    return counts[owner, kind], owner, kind, means[owner, kind], roots


def _completed(part: Rows, left: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and residuals `[k, r + outputs, outputs]` with all of the squares of the client's own: behind the rows stand those
    that have what lies outside the span of the features. A head of others says 0 of these, and leaves them as they are."""
    outside = _root(torch.diag_embed(_counts(part)) - part.targets.mT @ part.targets)
    targets = torch.cat([part.targets, outside], dim=1)
    return targets, left if left.shape[1] == targets.shape[1] else torch.cat([left, outside], dim=1)


def _counts(part: Rows) -> Tensor:
    """Rows of each client and class, `[k, outputs]`: what the constant's column says, exact but for float32."""
    counts: Tensor = (part.features[..., -1:].mT @ part.targets)[:, 0]
    return counts.round()


def _root(squares: Tensor) -> Tensor:
    """The symmetric R with `R R` the given matrices `[k, o, o]`, of which rounding may have made some eigenvalues negative."""
    values, vectors = torch.linalg.eigh(squares)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    return root


class Reliability(NamedTuple):
    """Predictions in bins of equal width by their confidence, the greatest probability: mean confidence, accuracy (both NaN
    in an empty bin) and how many, `[bins]` each. In calibrated predictions confidence and accuracy agree."""

    confidence: Tensor
    accuracy: Tensor
    rows: Tensor

    @property
    def error(self) -> float:
        """How far confidence and accuracy are apart, from 0 to 1: the mean over the bins, weighted by rows (expected calibration
        error)."""
        filled = self.rows > 0
        gaps = (self.confidence - self.accuracy).abs()[filled]
        return float((self.rows[filled] * gaps).sum() / self.rows.sum())

    def told(self) -> dict[str, Any]:
        """As plain numbers: the error, and the bins that have rows."""
        filled = self.rows > 0
        return {"error": self.error, **{name: getattr(self, name)[filled].tolist() for name in self._fields}}


def reliability(probabilities: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """The reliability of class probabilities `[n, classes]` for rows of classes y `[n]`; a bin includes its upper end.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    rows = torch.bincount(place, minlength=bins)
    right = torch.bincount(place, weights=(predicted == y).double(), minlength=bins)
    return Reliability(torch.bincount(place, weights=confidence, minlength=bins) / rows, right / rows, rows)
