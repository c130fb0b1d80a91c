"""Representations: orthogonal features of a kernel, their bandwidth from sums, and bits that need no company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray.ensemble.representation import FourierFeatures, Identity, RandomFourier, bandwidth, features, survey
from scarcity_ray.federation import Shards


def shards_of(parts: list[np.ndarray]) -> Shards:
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    x = np.concatenate(parts)
    return Shards(x, np.zeros(len(x), dtype=np.int64), starts)


def test_products_of_features_are_the_kernel() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 7))).float()
    f = FourierFeatures(7, 8192, seed=3, bandwidth=4.0)(x)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * 16.0))
    assert float((f @ f.T - kernel).abs().max()) < 0.05


def test_frequencies_are_orthogonal_within_a_block_and_follow_the_seed() -> None:
    made = FourierFeatures(8, 20, seed=1)
    for block in (made.frequencies[:8], made.frequencies[8:16], made.frequencies[16:]):
        gram = block @ block.T
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-5)
    assert torch.equal(made.frequencies, FourierFeatures(8, 20, seed=1).frequencies)
    assert not torch.equal(made.frequencies, FourierFeatures(8, 20, seed=2).frequencies)
    assert torch.allclose(FourierFeatures(8, 20, seed=1, bandwidth=2.0).frequencies, made.frequencies / 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 70), st.integers(1, 90), st.randoms(use_true_random=False))
def test_a_clients_features_have_the_same_bits_in_any_company(sizes: list[int], inputs: int, width: int, random: object) -> None:
    rng = np.random.default_rng(len(sizes) + inputs)
    parts = [rng.standard_normal((n, inputs)).astype(np.float32) for n in sizes]
    module = FourierFeatures(inputs, width)
    together = features(module, shards_of(parts), width)
    order = rng.permutation(len(parts))
    mixed = features(module, shards_of([parts[i] for i in order]), width)
    for place, i in enumerate(order.tolist()):
        alone = features(module, shards_of([parts[i]]), width).x
        assert np.array_equal(alone, together.x[together.rows(i)])
        assert np.array_equal(alone, mixed.x[mixed.rows(place)])


def test_the_bandwidth_of_sums_is_that_of_the_pooled_rows() -> None:
    rng = np.random.default_rng(5)
    parts = [(rng.standard_normal((n, 4, 3)) * 2 + m).astype(np.float32) for m, n in enumerate((1, 5, 40))]
    surveys = np.stack([survey(torch.from_numpy(part)).numpy() for part in parts])
    pooled = np.concatenate(parts).reshape(-1, 12).astype(np.float64)
    assert surveys.shape == (3, 13)
    assert bandwidth(surveys, np.array([1, 5, 40])) == pytest.approx(np.sqrt(2 * pooled.var(0).sum()), rel=1e-5)


def test_rows_that_are_all_the_same_give_a_bandwidth_of_one() -> None:
    surveys = np.stack([survey(torch.full((n, 3), 0.1)).numpy() for n in (2, 7)])
    assert bandwidth(surveys, np.array([2, 7])) == 1.0


def test_widths() -> None:
    assert Identity().width((1, 4, 5)) == 20
    assert RandomFourier(features=9).width((1, 4, 5)) == 9
    x = torch.zeros(2, 1, 4, 5)
    assert Identity().module((1, 4, 5))(x).shape == (2, 20)
    assert RandomFourier(features=9).module((1, 4, 5), 1, 2.0)(x).shape == (2, 9)
