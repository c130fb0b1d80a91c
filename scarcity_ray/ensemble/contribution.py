"""Contribution: what each client's moments are worth to the others, without fitting anything again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.ridge import LeftOut, Rows, fit


def contributions(total: Moments, clients: list[Rows], left_out: LeftOut, strength: float) -> Tensor:
    """How much better the other clients of an expert are foretold because a client takes part: `[M]`, in the order of the rows.

    In mean squared error per row and output of the others, each foretold by a head fitted without it; negative where the
    client harms them. Client j so has the residuals E_j (left_out, at this strength), and without m as well

        (I - H_jj - H_jm T_m H_mj)^-1 (Y_j - F_j W + H_jm E_m),   H_jm = F_j A F_m^T, T_m = (I - H_mm)^-1,

    A the inverse of gram and penalty. To second order in H_jm, the leverage of one client on another, their squares differ by

        2 <T_j E_j, H_jm E_m> + |T_j H_jm E_m|^2 + 2 <T_j E_j, H_jm T_m H_mj E_j>,

    whose sums over j are products of three sums over all clients, less j = m: all M take about what one fit left out takes.
    Measured against the double deletion (100 clients, 256 features, 800 rows of digits): correlation above 0.99 and 7 % too
    low, with the same sign but for 1 in 100; without the last term nearly all signs are wrong. Of few clients it is
    rougher: 22 % off with 6, 8 % with 10. Clients with the same rows are worth much to each other and little to the rest.
    NaN for fewer than three clients: nothing would be left to foretell from.
    """
    numbers = torch.cat([part.numbers for part in clients])
    if len(numbers) < 3:
        return torch.full_like(numbers, torch.nan)
    width, outputs = total.cross.shape
    inverse = fit(replace(total, cross=torch.eye(width, dtype=torch.float64)), strength)
    first = torch.zeros(width, outputs, dtype=torch.float64)  # sum of F^T T E
    second = torch.zeros(width, width, dtype=torch.float64)  # sum of F^T T T F
    third = torch.zeros(width, width, dtype=torch.float64)  # sum of F^T E E^T T F
    parts = list(zip(clients, left_out.residuals, strict=True))
    for part, e in parts:
        factor, f = _kept(part, inverse), part.features
        tf, te = torch.cholesky_solve(f, factor).flatten(0, 1), torch.cholesky_solve(e, factor)
        first += f.flatten(0, 1).T @ te.flatten(0, 1)
        second += tf.T @ tf
        third += (f.mT @ e).mT.flatten(0, 1).T @ (f.mT @ te).mT.flatten(0, 1)
    first, second, third = inverse @ first, inverse @ second @ inverse, inverse @ third @ inverse
    squares = []
    for part, e in parts:
        factor, f = _kept(part, inverse), part.features
        v = f.mT @ e
        tf, own = torch.cholesky_solve(f, factor), torch.cholesky_solve(e, factor) - e  # T H E = T E - E
        others = 2 * (v * first).sum((1, 2)) + (v * (second @ v)).sum((1, 2)) + 2 * (tf * (f @ third)).sum((1, 2))
        squares.append(others - 2 * (e * own).sum((1, 2)) - 3 * own.square().sum((1, 2)))
    return torch.cat(squares) / (numbers.sum() - numbers)


def _kept(part: Rows, inverse: Tensor) -> Tensor:
    """The Cholesky factor of I - F A F^T for each client `[k, r, r]`."""
    f = part.features
    factor: Tensor = torch.linalg.cholesky(torch.eye(f.shape[1], dtype=f.dtype) - f @ inverse @ f.mT)
    return factor
