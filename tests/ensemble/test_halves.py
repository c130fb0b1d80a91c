"""Halves of clients' rows, drawn from their moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scarcity_ray.ensemble.halves import halves, with_rest
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.ridge import Rows, all_rows


def part_of(rows: int, clients: int, seed: int = 0, outputs: int = 2) -> Rows:
    """Equal clients with 3 features and the constant."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.standard_normal((rows, size))).float() for size in (3, outputs))
    packing = Packing(4, outputs, "regression")
    message = packing.pack(Moments.of(x, y, "regression", outputs)).numpy()
    (part,) = all_rows(packing, np.stack([message] * clients), np.full(clients, rows))
    return part


def gram(part: Rows) -> torch.Tensor:
    both = torch.cat([part.features, part.targets], dim=2)
    return both.mT @ both


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 9, 40])
def test_halves_add_up_to_the_whole(rows: int) -> None:
    part = part_of(rows, clients=3)
    whole = with_rest(part)
    first, second = (half.part(whole) for half in halves(whole, np.random.default_rng(1)))
    assert torch.allclose(gram(first) + gram(second), gram(whole), atol=1e-9)
    assert torch.allclose(gram(whole).diagonal(dim1=1, dim2=2)[:, 4:].sum(1) + whole.rest, part.targets.square().sum((1, 2)) + part.rest)
    assert first.numbers.tolist() == [rows // 2 * 2] * 3
    assert second.numbers.tolist() == [(rows - rows // 2) * 2] * 3
    assert int(torch.linalg.matrix_rank(first.features, atol=1e-6).max()) <= rows // 2


@pytest.mark.parametrize("rows", [5, 12])
def test_they_are_distributed_as_halves_of_randomly_turned_rows(rows: int) -> None:
    part = with_rest(part_of(rows, clients=4000))
    first, _ = halves(part, np.random.default_rng(2))
    ours = gram(first.part(part))
    q = part.features.shape[1]
    turns = torch.linalg.qr(torch.from_numpy(np.random.default_rng(3).standard_normal((4000, rows, rows)))).Q
    own = torch.cat([part.features, part.targets], dim=2)[0]
    theirs = turns[:, : rows // 2, :q] @ own
    theirs = theirs.mT @ theirs
    error = (theirs.var(0) / 2000).sqrt()
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 5 * error + 1e-9).all())
    assert torch.allclose(ours.var(0), theirs.var(0), rtol=0.2, atol=1e-3)


def test_normal_noise_of_one_half_says_nothing_of_the_other() -> None:
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.standard_normal((8, 3))).float()
    packing = Packing(4, 1, "regression")
    rows = [
        packing.pack(Moments.of(x, torch.from_numpy(rng.standard_normal((8, 1))).float(), "regression", 1)).numpy() for _ in range(4000)
    ]
    whole = with_rest(all_rows(packing, np.stack(rows), np.full(4000, 8))[0])
    cross = [(part.features.mT @ part.targets)[:, :, 0] for part in (half.part(whole) for half in halves(whole, rng))]
    for a in range(4):
        assert abs(float(torch.corrcoef(torch.stack([cross[0][:, a], cross[1][:, a]]))[0, 1])) < 0.06  # 4 standard errors
