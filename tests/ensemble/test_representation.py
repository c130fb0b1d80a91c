"""Representations: orthogonal features of a kernel, their bandwidth from sums, and bits that need no company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.spec import SpecError
from scarcity_ray.ensemble import pilot
from scarcity_ray.ensemble.representation import FourierFeatures, Identity, RandomFourier, Trunk, bandwidth, features, survey
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


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


def of_images(module: nn.Module | None = None) -> Problem:
    made = module or nn.Sequential(nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 3))
    return make_problem(made, local=Local(), task="classification", outputs=3, shape=(1, 4, 5), samples=np.array([4, 4]), seed=1)


def test_widths() -> None:
    problem, x = of_images(), torch.zeros(2, 1, 4, 5)
    for kind, width in ((Identity(), 20), (RandomFourier(features=9), 9), (Trunk(), 7)):
        assert kind.width(problem) == width
        assert kind.module(problem, {"bandwidth": 2.0})(x).shape == (2, width)


def test_a_trunk_is_the_model_without_its_last_linear_layer(tmp_path: Path) -> None:
    problem, x = of_images(), torch.randn(5, 1, 4, 5)
    module = problem.module
    assert torch.equal(Trunk().module(problem, {})(x), module[:-1](x))
    other = nn.Sequential(nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 3))
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    loaded = Trunk(weights=str(tmp_path / "other.safetensors"))
    assert torch.equal(loaded.module(problem, {"trunk": loaded.load(problem).numpy()})(x), other[:-1](x))
    save_file({"0.weight": torch.zeros(3)}, tmp_path / "wrong.safetensors")
    for name, why in (("wrong", "do not fit the model"), ("missing", "cannot be read")):
        with pytest.raises(SpecError, match=why):
            Trunk(weights=str(tmp_path / f"{name}.safetensors")).load(problem)


def test_a_model_of_one_layer_has_no_trunk() -> None:
    with pytest.raises(SpecError, match="before its last linear layer"):
        Trunk().width(replace(of_images(), module=nn.Linear(20, 3)))


def test_a_pilot_finds_the_bandwidth_that_predicts_clients_left_out() -> None:
    rng = np.random.default_rng(6)
    problem = make_problem(nn.Linear(2, 1), local=Local(), task="regression", outputs=1, shape=(2,), samples=np.full(30, 40), seed=1)
    for frequency, expected in ((0.5, max), (6.0, min)):  # a smooth target wants wide kernels, a rough one narrow ones
        messages = []
        for _ in range(30):
            x = torch.from_numpy(rng.uniform(-1, 1, (40, 2))).float()
            noise = 0.01 * torch.from_numpy(rng.standard_normal((40, 1))).float()
            messages.append(pilot.message(problem, 1.0, x, torch.sin(frequency * x[:, :1]) + noise).numpy())
        assert messages[0].shape == (pilot.numbers(problem),)
        found = pilot.best(problem, 1.0, np.stack(messages), np.full(30, 40))
        middle = sorted(pilot.MULTIPLES)[len(pilot.MULTIPLES) // 2]
        assert expected(found, middle) == found != middle
