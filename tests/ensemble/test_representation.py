"""Representations: orthogonal features of a kernel, their bandwidth from sums, and bits that need no company."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file
from torch import nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.spec import SpecError
from scarcity_ray.ensemble import pilot
from scarcity_ray.ensemble.moments import Moments, Packing, with_constant
from scarcity_ray.ensemble.representation import (
    Automatic,
    CentredInputs,
    FourierFeatures,
    Identity,
    RandomFourier,
    Trunk,
    WavesAndInputs,
    bandwidth,
    centre,
    far,
    features,
    survey,
)
from scarcity_ray.ensemble.ridge import all_rows, choose_strength, fit
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


def rows(n: int, seed: int = 0, d: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d))).float()


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
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 70), st.integers(1, 90), st.booleans())
def test_a_clients_features_have_the_same_bits_in_any_company(sizes: list[int], inputs: int, waves: int, beside: bool) -> None:
    rng = np.random.default_rng(len(sizes) + inputs)
    parts = [rng.standard_normal((n, inputs)).astype(np.float32) for n in sizes]
    module = WavesAndInputs(inputs, waves) if beside else FourierFeatures(inputs, waves)
    width = waves + inputs * beside
    together = features(module, shards_of(parts), width)
    order = rng.permutation(len(parts))
    mixed = features(module, shards_of([parts[i] for i in order]), width)
    for place, i in enumerate(order.tolist()):
        alone = features(module, shards_of([parts[i]]), width).x
        assert np.array_equal(alone, together.x[together.rows(i)])
        assert np.array_equal(alone, mixed.x[mixed.rows(place)])


def test_inputs_stand_beside_the_waves() -> None:
    x = rows(20).reshape(20, 2, 2)
    both, waves = WavesAndInputs(4, 12, seed=3, bandwidth=2.0), FourierFeatures(4, 12, seed=3, bandwidth=2.0)
    f = both(x)
    assert torch.equal(f[:, :12], waves(x))
    assert torch.equal(f[:, 12:], x.flatten(1) * (0.5 / 2))
    wide = WavesAndInputs(4, 12, seed=3, bandwidth=4.0)(x)  # the bandwidth is that of the waves alone
    assert torch.equal(wide[:, 12:], f[:, 12:])
    assert not torch.equal(wide[:, :12], f[:, :12])
    many = WavesAndInputs(40, 400)(rows(500, d=40)).square()  # standardised inputs: a quarter of the waves' squares
    assert float(many[:, :400].sum(1).mean()) == pytest.approx(1.0, abs=0.05)
    assert float(many[:, 400:].sum(1).mean()) == pytest.approx(0.25, abs=0.01)
    other = WavesAndInputs(4, 12)  # it is made again from its tensors
    other.load_state_dict(load(save(both.state_dict())))
    assert torch.equal(other(x), f)


@pytest.mark.parametrize(
    ("features", "inputs", "waves"),
    [(160, "auto", 140), (159, "auto", 159), (39, True, 19), (21, True, 1), (40, False, 40), (1, False, 1), (8, "auto", 8)],
)
def test_inputs_take_the_place_of_waves_where_they_are_few(features: int, inputs: Any, waves: int) -> None:
    spec, problem = RandomFourier(features=features, inputs=inputs), of_images()
    module = spec.module(problem, {"bandwidth": 2.0})
    assert spec.width(problem) == features
    assert module(torch.zeros(2, 1, 4, 5)).shape == (2, features)
    assert module.get_buffer("frequencies").shape == (waves, 20)
    assert isinstance(module, WavesAndInputs) == (waves < features)


@pytest.mark.parametrize(("features", "fewer", "usual"), [(256, 59, "both"), (44, 6, "waves"), (25, 2, "waves"), (21, 1, "waves")])
def test_what_is_tried_are_the_inputs_all_waves_and_the_first_quarter(features: int, fewer: int, usual: str) -> None:
    waves, inputs = list(range(features - 20)), list(range(features - 20, features))
    blocks, first = Automatic(features=features).blocks(of_images())
    assert first == usual
    assert {name: columns.tolist() for name, columns in blocks.items()} == {
        "identity": inputs,
        "waves": waves,
        "both": waves + inputs,
        f"both_{fewer}": waves[:fewer] + inputs,
    }


@pytest.mark.parametrize("features", [19, 20])
def test_inputs_that_leave_no_wave_are_refused(features: int) -> None:
    with pytest.raises(SpecError, match="features above 20, or auto") as refused:
        RandomFourier(features=features, inputs=True).width(of_images())
    assert (refused.value.field, refused.value.value) == (("representation", "inputs"), True)


def left_by(to: nn.Module, x: torch.Tensor, y: torch.Tensor, new: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square of what the ridge head of 30 clients' moments, its strength chosen by leaving them out, misses of the truth."""
    packing, counts = Packing(to(x).shape[1] + 1, 1, "regression"), np.full(30, 20)
    parts = zip(torch.split(to(x), 20), torch.split(y, 20), strict=True)
    sent = np.stack([packing.pack(Moments.of(f, z, "regression", 1)).numpy() for f, z in parts])
    total = packing.total(sent, counts)
    head = fit(total, choose_strength(total, all_rows(packing, sent, counts))[0])
    return float((with_constant(to(new).double()) @ head - truth).square().mean().sqrt())


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
def test_one_strength_fits_a_line_as_by_the_inputs_and_a_curve_as_by_waves(size: float) -> None:
    """600 rows with noise 0.1, on 64 features, three draws; inputs that are standardised, or as many times that."""
    slopes = torch.tensor([[1.0], [-2.0], [0.5], [1.5]])
    truths = {"line": lambda x: x @ slopes, "curve": lambda x: x[:, :1].square() - 1 + x[:, 1:2] * x[:, 2:3]}
    misses: dict[tuple[str, str], float] = {}
    for name, truth in truths.items():
        for seed in (10, 20, 30):
            x, new, noise = rows(600, seed), rows(2000, seed + 1), 0.1 * rows(600, seed + 2, 1)
            spread = size * math.sqrt(2 * 4)
            maps = {
                "inputs": nn.Identity(),
                "waves": FourierFeatures(4, 64, seed, spread),
                "both": WavesAndInputs(4, 60, seed, spread),
            }
            for kind, to in maps.items():
                miss = left_by(to, size * x, truth(x) + noise, size * new, truth(new))
                misses[name, kind] = misses.get((name, kind), 0.0) + miss / 3
    assert misses["line", "both"] < 1.1 * misses["line", "waves"]
    assert misses["curve", "both"] < 0.25 * misses["curve", "inputs"]
    if size == 1:  # where a prediction's error is noise above all
        assert misses["line", "both"] < 0.6 * misses["line", "waves"]
        assert math.hypot(0.1, misses["line", "both"]) < 1.06 * math.hypot(0.1, misses["line", "inputs"])
        assert misses["curve", "both"] < 1.1 * misses["curve", "waves"]


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


@pytest.mark.parametrize("away", [0.0, 1e2, 1e5])
def test_a_survey_keeps_the_spread_however_far_from_zero_inputs_lie(away: float) -> None:
    rng = np.random.default_rng(3)
    parts = [rng.standard_normal((n, 4)).astype(np.float32) + np.float32(away) for n in (1, 6, 30)]
    surveys = np.stack([survey(torch.from_numpy(part)).numpy() for part in parts])
    samples, pooled = np.array([1, 6, 30]), np.concatenate(parts).astype(np.float64)
    assert bandwidth(surveys, samples) == pytest.approx(np.sqrt(2 * pooled.var(0).sum()), rel=1e-2 if away > 1e4 else 1e-5)
    assert centre(surveys, samples) == pytest.approx(pooled.mean(0), abs=1e-7 * (away + 1))
    assert far(surveys, samples) == (away > 0)


def test_centred_features_are_those_of_centred_inputs() -> None:
    x, middle = torch.randn(5, 2, 2) + 50, torch.full((4,), 50.0)
    waves = WavesAndInputs(4, 12, 3, 1.5, middle)
    assert torch.equal(waves(x), WavesAndInputs(4, 12, 3, 1.5)(x - 50))
    assert torch.equal(CentredInputs(middle)(x), (x - 50).flatten(1))


def test_a_model_that_was_saved_without_a_centre_has_none() -> None:
    old = {name: value for name, value in WavesAndInputs(4, 12, 3).state_dict().items() if name != "centre"}
    made = WavesAndInputs(4, 12, 5, centre=torch.ones(4))
    made.load_state_dict(old)
    assert torch.equal(made.centre, torch.zeros(4))
