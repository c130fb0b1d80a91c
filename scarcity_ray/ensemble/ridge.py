"""Ridge heads from moments, and their strength by what each client's rows say of a head fitted without them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.moments import Moments, Packing

_ROUNDING = 1e-6  # of a feature's own sum of squares: what is left below this is the rounding of float32 moments
STRENGTHS = np.logspace(-7, 2, 28)
"""Ridge strengths tried, in units of a feature's mean sum of squares over all rows; three a decade."""


@dataclass(frozen=True)
class Rows:
    """Rows that have the same moments as each of k clients' own: what moments tell, in a form that formulas for rows take.

    features: `[k, r, width]`, r the largest rank in the chunk; targets: `[k, r, outputs]`. Lesser ranks end in rows of
    zeros. rest: `[k]`, the part of sum |y|^2 that lies outside their span, an error that every head makes.
    numbers: `[k]`, rows times outputs of the client's own data. Float64. clients: int64 `[k]`, the place of each among
    the messages.
    """

    features: Tensor
    targets: Tensor
    rest: Tensor
    numbers: Tensor
    clients: Tensor


def rows_of(moments: Moments, times: int = 1) -> Rows:
    """Rows with the moments of k clients, by a Cholesky decomposition with pivots: r <= min(times * rows, width) steps.

    Its factor R has `R^T R = gram`, and eliminating cross along with gram leaves the targets Z, `R^T Z = cross`. A
    client's rows themselves stay unknown: these are a rotation of them. times: more than 1 for means of several messages.
    """
    k, width = moments.gram.shape[:2]
    ranks = torch.clamp(times * moments.samples, max=width)
    both = torch.cat([moments.gram, moments.cross], dim=2)
    scale = moments.gram.diagonal(dim1=1, dim2=2)
    left = scale.clone()
    everyone = torch.arange(k)
    rows = both.new_zeros(k, int(ranks.max()), both.shape[2])
    for step in range(rows.shape[1]):
        share = torch.where(scale > 0, left / scale, torch.zeros_like(left))
        pivot = share.argmax(1)
        alive = (share[everyone, pivot] > _ROUNDING) & (step < ranks)
        if not bool(alive.any()):
            rows = rows[:, :step]
            break
        before = rows[:, :step]
        row = both[everyone, pivot] - (before[everyone, :, pivot][:, None] @ before)[:, 0]
        size = torch.where(alive, left[everyone, pivot], torch.ones_like(left[:, 0])).sqrt()
        rows[:, step] = torch.where(alive[:, None], row / size[:, None], torch.zeros_like(row))
        left = left - rows[:, step, :width].square()
    features, targets = rows[..., :width], rows[..., width:]
    rest = (moments.square - targets.square().sum((1, 2))).clamp(min=0)
    return Rows(features, targets, rest, moments.samples * targets.shape[2], everyone)


def all_rows(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], times: int = 1) -> list[Rows]:
    """The same for the messages `[k, size]` of all clients, by rising number of rows, in chunks."""
    order = np.argsort(samples, kind="stable")
    chunks = (order[chunk] for chunk in packing.chunks(len(order)))
    return [replace(rows_of(packing.unpack(rows[places], samples[places]), times), clients=torch.from_numpy(places)) for places in chunks]


def unit(total: Moments) -> float:
    """Mean sum of squares of a feature over all rows: the natural unit of a ridge strength. 1 where all features are 0."""
    energy = total.gram.diagonal()[:-1]
    return float(energy.mean()) if len(energy) and bool(energy.sum() > 0) else 1.0


def penalised(total: Moments, strength: float) -> Tensor:
    """Gram with the strength on its diagonal, but for the constant: a shift of all targets then shifts the predictions."""
    penalty = torch.full((len(total.gram),), strength, dtype=torch.float64)
    penalty[-1] = 0.0
    return total.gram + torch.diag(penalty)


def fit(total: Moments, strength: float) -> Tensor:
    """The ridge head `[width, outputs]`: argmin of sum |y - W^T f|^2 + strength * |W without its constant|^2."""
    head: Tensor = torch.linalg.solve(penalised(total, strength), total.cross)
    return head


@dataclass(frozen=True)
class LeftOut:
    """How heads fitted without a client do on that client.

    residuals: for each chunk of Rows `[k, r, outputs]`, what the head of all others leaves of its targets. loss: mean
    squared error per row and output over all clients' own rows.
    """

    residuals: list[Tensor]
    loss: float


def leave_one_client_out(total: Moments, clients: list[Rows], strength: float) -> LeftOut | None:
    """The fit of every client by the head of all others, without fitting one of those heads.

    With A = (gram + penalty)^-1 and W the head of all, rows F and targets Y of a client have the residuals
    `(I - F A F^T)^-1 (Y - F W)` under the head of the others (Woodbury). None where some head is not determined.
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
    """The strength of the least leave-one-client-out loss, and the fits at it.

    One a decade of STRENGTHS is tried, then those around the best: the loss falls towards one strength and rises after
    it. Raises ValueError for fewer than two clients.
    """
    if sum(len(part.rest) for part in clients) < 2:
        raise ValueError("leaving a client out takes two clients with moments at least")
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
        raise ValueError("no ridge strength gives a head without each client: the moments are not those of any rows")
    middle = best[0]
    attempt(place for place in (middle - 2, middle - 1, middle + 1, middle + 2) if 0 <= place < len(strengths))
    return float(strengths[best[0]]), best[1]
