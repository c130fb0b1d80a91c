"""Mixtures: their uncertainty is exactly what experts share and what they disagree on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.stats import entropy

from scarcity_ray.ensemble.mixture import mix_classes, mix_targets

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))  # inputs, experts, outputs


@st.composite
def mixtures(draw: st.DrawFn, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What experts say, `[n, K, o]` of numbers, and weights `[n, K]`; some are 0."""
    shape = draw(SHAPES)
    said = draw(arrays.arrays(np.float64, shape, elements=st.floats(low, high)))
    weights = draw(arrays.arrays(np.float64, shape[:2], elements=st.just(0.0) | st.floats(1e-6, 1)))
    weights[weights.sum(1) == 0, 0] = 1.0
    return said, weights / weights.sum(1, keepdims=True)


@given(mixtures(-800, 800))
def test_entropy_is_shared_plus_disagreement(made: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    logits, weights = made
    probabilities = torch.from_numpy(logits).softmax(-1)  # hundreds apart: exact zeros among them
    mixed = mix_classes(probabilities, torch.from_numpy(weights))
    p = probabilities.numpy()
    assert mixed.mean.sum(1).numpy() == pytest.approx(1)
    assert mixed.total.numpy() == pytest.approx(entropy(np.einsum("nk,nko->no", weights, p), axis=1), abs=1e-9)
    assert mixed.shared.numpy() == pytest.approx((weights * entropy(p, axis=2)).sum(1), abs=1e-9)
    assert float(mixed.shared.min()) >= 0
    assert float(mixed.disagreement.min()) >= 0


@given(mixtures(-1e3, 1e3))
def test_variance_is_shared_plus_disagreement(made: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    means, weights = made
    variances = np.abs(means[:, ::-1])
    mixed = mix_targets(torch.from_numpy(means), torch.from_numpy(variances), torch.from_numpy(weights))
    by = weights[..., None]
    second = (by * (variances + means**2)).sum(1)  # of the mixture itself, about 0
    assert mixed.mean.numpy() == pytest.approx((by * means).sum(1))
    assert mixed.total.numpy() == pytest.approx(second - (by * means).sum(1) ** 2, abs=1e-6)
    assert float(mixed.shared.min()) >= 0
    assert float(mixed.disagreement.min()) >= 0


def test_certain_experts_that_contradict_each_other_share_nothing() -> None:
    opposite, half = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double(), torch.tensor([[0.5, 0.5]]).double()
    mixed = mix_classes(opposite, half)
    assert mixed.shared.tolist() == [0]
    assert mixed.disagreement.tolist() == pytest.approx([np.log(2)])
    assert mixed.mean.tolist() == [[0.5, 0.5]]
    assert mix_targets(torch.tensor([[[3.0], [5.0]]]), torch.zeros(1, 2, 1), half).disagreement.tolist() == [[1]]


def test_experts_that_agree_disagree_on_nothing_to_the_last_digit() -> None:
    # As a difference of entropies this would be rounding of either sign.
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).expand(1, 3, 3)
    mixed = mix_classes(p, torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64))
    assert float(mixed.disagreement) <= 1e-16
    assert float(mixed.shared) == pytest.approx(entropy([0.7, 0.2, 0.1]))


def test_an_expert_of_weight_zero_has_no_say() -> None:
    p = torch.tensor([[[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    mixed = mix_classes(p, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert mixed.mean.tolist() == [[0.9, 0.1, 0.0]]
    assert mixed.disagreement.tolist() == [0]
    assert mixed.total.tolist() == pytest.approx([entropy([0.9, 0.1])])
