"""Exact sums: the same bits in any order and grouping, and as accurate at 1e-9 as at 1e9."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.training.sums import Sums


def mean_of(values: torch.Tensor, weights: torch.Tensor, groups: list[list[int]]) -> torch.Tensor:
    total = Sums()
    for group in groups:
        part = Sums()
        part.add("x", values[group], weights[group])
        total += pickle.loads(pickle.dumps(part))
    return total.means({"x": torch.zeros(values.shape[1:], dtype=values.dtype)})["x"]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(-9, 9), st.integers(0, 2**32 - 1))
def test_any_order_and_grouping_gives_the_same_bits(clients: int, width: int, power: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-6, 6, (clients, 1))  # clients of very different size meet in one sum
    values = torch.from_numpy((rng.standard_normal((clients, width)) * spread * 10.0**power).astype(np.float32))
    samples = torch.from_numpy(rng.integers(1, 500, (clients, 1)).astype(np.float64))
    weights = samples / samples.sum()
    everybody = mean_of(values, weights, [list(range(clients))])
    order = rng.permutation(clients).tolist()
    cuts = sorted(rng.integers(0, clients + 1, 3).tolist())
    groups = [order[a:b] for a, b in zip([0, *cuts], [*cuts, clients], strict=True) if a < b]
    assert torch.equal(mean_of(values, weights, groups), everybody)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e9])
def test_means_are_as_accurate_at_every_scale(scale: float) -> None:
    values = torch.randn(300, 1000, generator=torch.Generator().manual_seed(1)) * scale
    weights = torch.full((300, 1), 1 / 300, dtype=torch.float64)
    found = mean_of(values, weights, [list(range(300))])
    expected = (values.double() * weights).sum(0)
    # Half a unit in the last place of float32, and 300 terms off by at most 2**-37 of their largest value each.
    allowed = 2.0**-24 * expected.abs().max() + 300 * 2.0**-37 * values.abs().max() / 300
    assert (found.double() - expected).abs().max() <= allowed


def test_weight_zero_keeps_the_old_value_elementwise() -> None:
    sums = Sums()
    sums.add("x", torch.tensor([[2.0, 5.0], [4.0, 7.0]]), torch.tensor([[0.5, 0.0], [0.25, 0.0]], dtype=torch.float64))
    means = sums.means({"x": torch.tensor([9.0, 9.0]), "y": torch.tensor([1.0])})
    # (0.5 * 2 + 0.25 * 4) / 0.75; nobody spoke of the second element, or of y
    assert means["x"].tolist() == pytest.approx([2 / 0.75, 9.0])
    assert means["y"].tolist() == [1.0]


@pytest.mark.parametrize("width", [5, 5000])
def test_sums_of_several_rows_are_those_of_each_rows_clients(width: int) -> None:
    """To the bit, in any grouping; the row that nobody spoke of keeps its value. Long rows are added one by one."""
    rng = np.random.default_rng(4)
    values = torch.from_numpy((rng.standard_normal((30, width)) * 10.0 ** rng.uniform(-6, 6, (30, 1))).astype(np.float32))
    weights, to = torch.from_numpy(rng.dirichlet(np.ones(30))[:, None]), torch.from_numpy(rng.integers(0, 3, 30))
    old, total = torch.full((4, width), 7.0), Sums()
    for part in np.split(rng.permutation(30), [4, 17]):
        one = Sums()
        one.add("x", values[part], weights[part], to=to[part], height=4)
        total += pickle.loads(pickle.dumps(one))
    found = total.means({"x": old})["x"]
    assert torch.equal(found[3], old[3])
    for row in range(3):
        own = to == row
        assert torch.equal(found[row], mean_of(values[own], weights[own], [list(range(int(own.sum())))]))
