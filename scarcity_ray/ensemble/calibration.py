"""Calibrated class probabilities: the temperature of scores, from moments, and the reliability of probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scarcity_ray.core.randomness import stream
from scarcity_ray.ensemble.personal import marginal
from scarcity_ray.ensemble.ridge import Rows
from scarcity_ray.ensemble.tempering import tempered

_POINTS = 50_000  # sampled scores in all, with the same number for each class of a client
_MIN, _MAX = 1e-6, 10.0  # of a temperature; scores estimate codes of 0 and 1, so at 10 all classes are nearly equally likely


def temperature(clients: list[Rows], residuals: list[Tensor], seed: int = 0) -> float:
    """The T for which `softmax(scores / T)` predicts the classes of left-out rows best: the smallest expected log-loss.

    clients: rows with one-hot targets.
    residuals: targets minus the predictions of a head fitted without the client, `[k, r, outputs]` for each chunk of Rows
    (`LeftOut.residuals`; for clients' own heads the result of `own_residuals`).

    The scores of a client's rows are unknown: its moments determine them only up to a rotation. A rotation does not change
    the mean score of its rows of each class, nor the scatter about these means. If a client has one row of a class, the mean
    is the score of this row. Other rows are sampled around their mean: `sqrt(r)` times a normal vector with that scatter, r
    exponential. This is a Laplace distribution (Kotz, Kozubowski and Podgórski, 2001), because the errors of heads have
    heavier tails than a normal distribution.

    T is at least the variance of the errors, which is the temperature for normal errors. On held-out digits the log-loss is
    within 4 % of the best T's, as it is with the rows known; with that variance as T it is 1.5 to 2.7 times as large.
    """
    points, classes, weights = _sampled_scores(clients, residuals, seed)
    squares = sum(float(_completed(part, left)[1].square().sum()) for part, left in zip(clients, residuals, strict=True))
    outputs = points.shape[1]
    free = sum(float(part.numbers.sum()) for part in clients) * max(outputs - 1, 1) / outputs
    return tempered(points, classes, weights, min(max(squares / free, _MIN), _MAX), _MAX)


def own_residuals(clients: list[Rows], residuals: list[Tensor], covariance: Tensor) -> list[Tensor]:
    """Approximate residuals of clients' own heads, each fitted without the row that it predicts. They are input of `temperature`.

    residuals: those of a head fitted without the client at all.
    covariance: Q of clients' heads about it, relative to the noise, `[width, width]` or its diagonal `[width]`.

    With `V = I + F Q F^T` over all rows the residual of row i is `(V^-1 E)_i / (V^-1)_ii`. Rotated rows do not determine this
    diagonal, only its mean, which is used in its place: generalised cross-validation (Golub, Heath and Wahba, Technometrics
    1979). Returns `[k, r + outputs, outputs]`: the last rows are the part outside the span of the client's features, where own
    heads make errors too.
    """
    found = []
    for part, left in zip(clients, residuals, strict=True):
        r, rows = part.features.shape[1], part.numbers / left.shape[2]
        inverse = torch.cholesky_inverse(marginal(part.features, covariance))
        total = inverse.diagonal(dim1=1, dim2=2).sum(1) + rows - r  # over all rows: outside the span V is 1
        stretch = (rows / total.clamp(min=_MIN))[:, None, None]
        _, whole = _completed(part, left)
        found.append(stretch * torch.cat([inverse @ whole[:, :r], whole[:, r:]], dim=1))
    return found


def _sampled_scores(clients: list[Rows], residuals: list[Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sampled scores `[p, outputs]` in place of the clients' rows, their classes `[p]`, and their weights `[p]`, which sum to 1."""
    cells = [_cells(part, left) for part, left in zip(clients, residuals, strict=True)]
    count = sum(len(counts) for counts, *_ in cells)
    draws = max(_POINTS // count, 1)
    rng = stream(seed, "temperature")
    points, classes, weights = [], [], []
    for counts, owner, kind, means, roots in cells:
        k, outputs = roots.shape[:2]
        normal = torch.from_numpy(rng.standard_normal((k, draws, outputs)))
        tail = torch.from_numpy(rng.exponential(size=(k, draws, 1))).sqrt()
        deviations = (tail * normal) @ roots
        # A row deviates from the mean of n rows, itself among them, by (n - 1) / n of the variance: not at all for n = 1.
        scores = means[:, None] + deviations[owner] * ((counts - 1) / counts).sqrt()[:, None, None]
        points.append(scores.reshape(-1, outputs))
        classes.append(kind.repeat_interleave(draws))
        weights.append((counts / draws).repeat_interleave(draws))
    share = torch.cat(weights)
    return torch.cat(points), torch.cat(classes), share / share.sum()


def _cells(part: Rows, left: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The c pairs of a client and a class that it has rows of, for k clients.

    Returns for each pair its number of rows, its client and its class, `[c]` each, and its mean scores `[c, outputs]`; then for
    each client the symmetric root of the covariance of its scores about these means, `[k, outputs, outputs]`.
    """
    targets, left = _completed(part, left)
    scores, counts = targets - left, _counts(part)
    means = targets.mT @ scores / counts.clamp(min=1)[..., None]
    scatter = scores.mT @ scores - means.mT @ (counts[..., None] * means)
    freedom = (counts - 1).clamp(min=0).sum(1).clamp(min=1)
    roots = _root(scatter / freedom[:, None, None])
    owner, kind = torch.nonzero(counts > 0, as_tuple=True)
    return counts[owner, kind], owner, kind, means[owner, kind], roots


def _completed(part: Rows, left: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and residuals `[k, r + outputs, outputs]` with the sums of squares of all of the client's rows.

    The last rows are the part of the targets outside the span of the features. A head of other clients predicts 0 for them, so
    their residuals are equal to their targets.
    """
    outside = _root(torch.diag_embed(_counts(part)) - part.targets.mT @ part.targets)
    targets = torch.cat([part.targets, outside], dim=1)
    return targets, left if left.shape[1] == targets.shape[1] else torch.cat([left, outside], dim=1)


def _counts(part: Rows) -> Tensor:
    """Rows of each client and class, `[k, outputs]`. The constant's column gives them, exact up to the rounding of float32."""
    counts: Tensor = (part.features[..., -1:].mT @ part.targets)[:, 0]
    return counts.round()


def _root(squares: Tensor) -> Tensor:
    """The symmetric R with `R R` equal to the given matrices `[k, o, o]`. Eigenvalues that are negative by rounding count as 0."""
    values, vectors = torch.linalg.eigh(squares)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    return root


class Reliability(NamedTuple):
    """Predictions in bins of equal width by their confidence, which is the greatest probability.

    confidence, accuracy, rows: mean confidence, accuracy and number of predictions of each bin, `[bins]` each; the first two are
    NaN in an empty bin. Calibrated predictions have equal confidence and accuracy.
    """

    confidence: Tensor
    accuracy: Tensor
    rows: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1: the mean of |confidence - accuracy| over the bins, weighted by rows."""
        filled = self.rows > 0
        gaps = (self.confidence - self.accuracy).abs()[filled]
        return float((self.rows[filled] * gaps).sum() / self.rows.sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the error, and lists over the bins that have rows."""
        filled = self.rows > 0
        return {"error": self.error, **{name: getattr(self, name)[filled].tolist() for name in self._fields}}


def reliability(probabilities: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """The reliability of class probabilities `[n, classes]` for rows with the classes y `[n]`. A bin includes its upper end.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    rows = torch.bincount(place, minlength=bins)
    correct = torch.bincount(place, weights=(predicted == y).double(), minlength=bins)
    return Reliability(torch.bincount(place, weights=confidence, minlength=bins) / rows, correct / rows, rows)
