"""Ridge heads from moments. Their strength is chosen by leaving out one client at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.moments import Moments, Packing

_ROUNDING = 1e-6  # share of a feature's own sum of squares; a smaller remainder is rounding of the float32 moments
STRENGTHS = np.logspace(-7, 2, 28)
"""Ridge strengths that are tried, in units of a feature's mean sum of squares over all rows; three per decade."""


@dataclass(frozen=True)
class Rows:
    """Rows with the same moments as the rows of each of k clients, for formulas that need rows. Float64.

    features: `[k, r, width]`, where r is the largest rank in the chunk. A client of lower rank has rows of zeros at the end.
    targets: `[k, r, outputs]`.
    rest: `[k]`, the part of sum |y|^2 outside the span of the features: an error that every head makes.
    numbers: `[k]`, rows times outputs of the client's own data.
    clients: int64 `[k]`, the place of each client among the messages.
    """

    features: Tensor
    targets: Tensor
    rest: Tensor
    numbers: Tensor
    clients: Tensor


def rows_of(moments: Moments, times: int = 1) -> Rows:
    """Rows with the moments of k clients, by a Cholesky decomposition with pivots in r <= min(times * rows, width) steps.

    The factor R has `R^T R = gram`. The same elimination of cross gives the targets Z with `R^T Z = cross`. The result is
    a rotation of a client's true rows, which stay unknown. times: number of messages that the moments are the mean of.
    """
    k, width = moments.gram.shape[:2]
    ranks = torch.clamp(times * moments.samples, max=width)
    both = torch.cat([moments.gram, moments.cross], dim=2)
    scale = moments.gram.diagonal(dim1=1, dim2=2)
    left = scale.clone()
    clients = torch.arange(k)
    rows = both.new_zeros(k, int(ranks.max()), both.shape[2])
    for step in range(rows.shape[1]):
        share = torch.where(scale > 0, left / scale, torch.zeros_like(left))
        pivot = share.argmax(1)
        active = (share[clients, pivot] > _ROUNDING) & (step < ranks)
        if not bool(active.any()):
            rows = rows[:, :step]
            break
        before = rows[:, :step]
        row = both[clients, pivot] - (before[clients, :, pivot][:, None] @ before)[:, 0]
        size = torch.where(active, left[clients, pivot], torch.ones_like(left[:, 0])).sqrt()
        rows[:, step] = torch.where(active[:, None], row / size[:, None], torch.zeros_like(row))
        left = left - rows[:, step, :width].square()
    features, targets = rows[..., :width], rows[..., width:]
    rest = (moments.square - targets.square().sum((1, 2))).clamp(min=0)
    return Rows(features, targets, rest, moments.samples * targets.shape[2], clients)


def all_rows(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], times: int = 1) -> list[Rows]:
    """The Rows of all clients' messages `[k, size]`, in chunks, in ascending order of the number of rows."""
    order = np.argsort(samples, kind="stable")
    chunks = (order[chunk] for chunk in packing.chunks(len(order)))
    return [replace(rows_of(packing.unpack(rows[places], samples[places]), times), clients=torch.from_numpy(places)) for places in chunks]


def unit(total: Moments) -> float:
    """Mean sum of squares of a feature over all rows: the natural unit of a ridge strength. 1 if all features are 0."""
    energy = total.gram.diagonal()[:-1]
    return float(energy.mean()) if len(energy) and bool(energy.sum() > 0) else 1.0


def penalised(total: Moments, strength: float) -> Tensor:
    """Gram with the strength added to its diagonal, except for the constant: so a shift of all targets shifts all predictions."""
    penalty = torch.full((len(total.gram),), strength, dtype=torch.float64)
    penalty[-1] = 0.0
    return total.gram + torch.diag(penalty)


def fit(total: Moments, strength: float) -> Tensor:
    """The ridge head `[width, outputs]`: argmin of sum |y - W^T f|^2 + strength * |W without its constant|^2."""
    head: Tensor = torch.linalg.solve(penalised(total, strength), total.cross)
    return head


@dataclass(frozen=True)
class LeftOut:
    """The fit of each client by a head that was fitted without it.

    residuals: `[k, r, outputs]` for each chunk of Rows, a client's targets minus the predictions of the other clients' head.
    loss: mean squared error per row and output, over the rows of all clients.
    """

    residuals: list[Tensor]
    loss: float


def leave_one_client_out(total: Moments, clients: list[Rows], strength: float) -> LeftOut | None:
    """The fit of every client by the head of all other clients, in closed form: these heads are not computed.

    Let A = (gram + penalty)^-1 and W the head of all clients. A client with rows F and targets Y has the residuals
    `(I - F A F^T)^-1 (Y - F W)` under the head of the others (Woodbury). None if some head is not determined.
    """
    factor, info = torch.linalg.cholesky_ex(penalised(total, strength))
    if int(info):
        return None
    inverse = torch.cholesky_inverse(factor)
    head = inverse @ total.cross
    residuals, loss = [], 0.0
    for part in clients:
        f = part.features
        kept = torch.eye(f.shape[1], dtype=f.dtype) - f @ inverse @ f.transpose(1, 2)
        factor, info = torch.linalg.cholesky_ex(kept)
        if bool(info.any()):
            return None
        residuals.append(torch.cholesky_solve(part.targets - f @ head, factor))
        loss += float(residuals[-1].square().sum() + part.rest.sum())
    return LeftOut(residuals, loss / float(sum(part.numbers.sum() for part in clients)))


def choose_strength(total: Moments, clients: list[Rows]) -> tuple[float, LeftOut]:
    """The strength with the lowest leave-one-client-out loss, and the fits at this strength.

    First one of STRENGTHS per decade is tried, then those next to the best. This is enough because the loss has one minimum.
    Raises ValueError for fewer than two clients, and if no strength determines all heads.
    """
    if sum(len(part.rest) for part in clients) < 2:
        raise ValueError("leaving one client out needs at least two clients with moments")
    strengths = STRENGTHS * unit(total)
    best: tuple[int, LeftOut] | None = None

    def attempt(places: Iterable[int]) -> None:
        nonlocal best
        for place in places:
            left_out = leave_one_client_out(total, clients, float(strengths[place]))
            if left_out is not None and (best is None or left_out.loss < best[1].loss):
                best = place, left_out

    attempt(range(0, len(strengths), 3))
    if best is None:
        raise ValueError("no ridge strength determines a head for every left-out client: no rows have these moments")
    middle = best[0]
    attempt(place for place in (middle - 2, middle - 1, middle + 1, middle + 2) if 0 <= place < len(strengths))
    return float(strengths[best[0]]), best[1]
