"""Calibration: temperatures from moments against the rows themselves, and reliability against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.moments import Clients, messages
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from scarcity_ray.ensemble.calibration import own_residuals, reliability, temperature
from scarcity_ray.ensemble.moments import Moments, targets, with_constant
from scarcity_ray.ensemble.representation import FourierFeatures
from scarcity_ray.ensemble.ridge import LeftOut, Rows, all_rows, choose_strength, fit, rows_of


def digits(sizes: list[int], width: int = 48, seed: int = 0) -> tuple[Clients, Tensor, Tensor]:
    """Clients of these sizes with random features of digits, and the features and classes of all other images."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = torch.from_numpy(x[order] / 16).float(), torch.from_numpy(y[order])
    f = FourierFeatures(64, width, seed, float(2 * x.var(0).sum()) ** 0.5)(x)
    ends = np.cumsum([0, *sizes])
    return [(f[a:b], y[a:b]) for a, b in pairwise(ends)], f[ends[-1] :], y[ends[-1] :]


def left_out_rows(clients: Clients, strength: float) -> tuple[Tensor, Tensor]:
    """Scores of every row by the ridge head of all other clients' rows, one refit each, and classes."""
    scores, classes = [], []
    for i, (x, y) in enumerate(clients):
        others = [client for j, client in enumerate(clients) if j != i]
        total = Moments.of(torch.cat([x for x, _ in others]), torch.cat([y for _, y in others]), "classification", 10)
        scores.append(with_constant(x.double()) @ fit(total, strength))
        classes.append(y)
    return torch.cat(scores), torch.cat(classes)


def best(scores: Tensor, classes: Tensor) -> float:
    """The temperature of the least log-loss on rows."""
    found = minimize_scalar(
        lambda t: float(cross_entropy(scores / np.exp(t), classes)), bounds=(np.log(1e-4), np.log(10)), method="bounded"
    )
    return float(np.exp(found.x))


def from_moments(clients: Clients) -> tuple[Moments, list[Rows], float, LeftOut]:
    packing, rows, samples = messages(clients, "classification", 10)
    total, parts = packing.total(rows, samples), all_rows(packing, rows, samples)
    return total, parts, *choose_strength(total, parts)


# -- temperature -----------------------------------------------------------------------------------------------------


def test_where_clients_have_one_row_of_a_class_it_is_that_of_the_rows() -> None:
    clients, _, _ = digits([10] * 60)
    # Of each client's rows the first of every class it has: means over one row.
    clients = [(x[first], y[first]) for x, y in clients for first in [np.unique(y.numpy(), return_index=True)[1]]]
    _, parts, strength, left_out = from_moments(clients)
    assert temperature(parts, left_out.residuals) == pytest.approx(best(*left_out_rows(clients, strength)), rel=1e-3)


@pytest.mark.parametrize("sizes", [[8] * 100, [40] * 20], ids=["many small clients", "few large clients"])
def test_it_calibrates_new_rows_where_the_variance_of_errors_is_too_sure(sizes: list[int]) -> None:
    clients, x, y = digits(sizes, width=128)
    total, parts, strength, left_out = from_moments(clients)
    scores = with_constant(x.double()) @ fit(total, strength)
    found, variance = temperature(parts, left_out.residuals), left_out.loss * 10 / 9

    def loss(t: float) -> float:
        return float(cross_entropy(scores / t, y))

    least = loss(best(scores, y))
    assert loss(found) - least <= 0.1 * (loss(variance) - least)
    before, after = (reliability(torch.softmax(scores / t, 1), y).error for t in (variance, found))
    assert after < before


def test_a_rotation_of_a_clients_rows_changes_nothing() -> None:
    clients, _, _ = digits([3, 9, 20, 33, 70])  # the last has more rows than features
    _, parts, _, left_out = from_moments(clients)
    rng = np.random.default_rng(7)
    sizes = [(*part.features.shape[:2], part.features.shape[1]) for part in parts]
    turns = [torch.linalg.qr(torch.from_numpy(rng.standard_normal(size)))[0] for size in sizes]
    turned = [replace(part, features=turn @ part.features, targets=turn @ part.targets) for part, turn in zip(parts, turns, strict=True)]
    residuals = [turn @ left for left, turn in zip(left_out.residuals, turns, strict=True)]
    assert temperature(turned, residuals) == pytest.approx(temperature(parts, left_out.residuals), rel=1e-4)


def test_scores_that_tell_nothing_are_made_alike() -> None:
    rng = np.random.default_rng(0)
    clients = [(torch.from_numpy(rng.standard_normal((30, 3))).float(), torch.from_numpy(rng.integers(0, 10, 30))) for _ in range(30)]
    total, parts, strength, left_out = from_moments(clients)
    scores = with_constant(clients[0][0].double()) @ fit(total, strength)
    assert float(torch.softmax(scores / temperature(parts, left_out.residuals), 1).max()) < 0.25


def test_scores_without_an_error_stay_sure() -> None:
    _, parts, _, left_out = from_moments(digits([12] * 30)[0])
    # exp(-1 / T) is then below what a sum of probabilities can show.
    assert temperature(parts, [torch.zeros_like(left) for left in left_out.residuals]) < 0.03


# -- clients' own heads ----------------------------------------------------------------------------------------------


def dense_own(f: Tensor, residuals: Tensor, variances: Tensor) -> Tensor:
    """What the client's own head, fitted without a row, leaves of that row: one fit each. residuals: under the prior's mean."""
    found = []
    for i in range(len(f)):
        rest = torch.arange(len(f)) != i
        inside = torch.diag(1 / variances) + f[rest].T @ f[rest]
        found.append(residuals[i] - f[i] @ torch.linalg.solve(inside, f[rest].T @ residuals[rest]))
    return torch.stack(found)


def test_residuals_are_those_of_refits_without_a_row_where_rows_weigh_alike() -> None:
    # Features that are shifts of one another: every row has the same leverage, as cross-validation by a mean assumes.
    shift = torch.stack([torch.roll(torch.tensor([3.0, 1, 0, -1, 0, 2]), i) for i in range(6)])
    f, y, variances = with_constant(shift).double(), torch.tensor([0, 1, 1, 2, 0, 1]), torch.full((7,), 0.3, dtype=torch.float64)
    head = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(7, 3)
    z = targets(y, "classification", 3)
    one = Moments.of(shift, y, "classification", 3)
    part = rows_of(Moments(one.gram[None], one.cross[None], one.square[None], one.samples[None]))
    (found,) = own_residuals([part], [part.targets - part.features @ head], variances)
    wanted = dense_own(f, z - f @ head, variances)
    # In turned rows only what no rotation changes can be compared.
    assert torch.allclose(found[0].T @ found[0], wanted.T @ wanted, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found[0, :-3].T @ part.targets[0], wanted.T @ z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [5, 90])
def test_residuals_have_about_the_size_of_refits_without_a_row(n: int) -> None:
    clients, _, _ = digits([n] * 12, width=30)
    _, parts, strength, left_out = from_moments(clients)
    variances = torch.full((31,), 0.5, dtype=torch.float64)
    found = sum(float(left.square().sum()) for left in own_residuals(parts, left_out.residuals, variances))
    wanted = 0.0
    for i, (x, y) in enumerate(clients):
        others = [client for j, client in enumerate(clients) if j != i]
        head = fit(Moments.of(torch.cat([x for x, _ in others]), torch.cat([y for _, y in others]), "classification", 10), strength)
        f, z = with_constant(x.double()), targets(y, "classification", 10)
        wanted += float(dense_own(f, z - f @ head, variances).square().sum())
    assert found == pytest.approx(wanted, rel=0.1)


def test_without_variance_an_own_head_is_the_others() -> None:
    _, parts, _, left_out = from_moments(digits([1, 4, 12, 80])[0])
    own = own_residuals(parts, left_out.residuals, torch.zeros(49, dtype=torch.float64))
    assert temperature(parts, own) == pytest.approx(temperature(parts, left_out.residuals), rel=1e-4)


# -- reliability -----------------------------------------------------------------------------------------------------


def test_reliability_is_scikit_learns_curve_of_the_confidence() -> None:
    rng = np.random.default_rng(2)
    probabilities, y = torch.from_numpy(rng.dirichlet(np.ones(4), 500)), torch.from_numpy(rng.integers(0, 4, 500))
    found = reliability(probabilities, y)
    right = (probabilities.argmax(1) == y).numpy()
    accuracy, confidence = calibration_curve(right, probabilities.amax(1).numpy(), n_bins=15)
    filled = found.rows > 0
    assert found.accuracy[filled].numpy() == pytest.approx(accuracy)
    assert found.confidence[filled].numpy() == pytest.approx(confidence)
    assert int(found.rows.sum()) == 500
    assert torch.isnan(found.accuracy[~filled]).all()
    assert bool((~filled).any())


def test_the_error_by_hand() -> None:
    # Bins (0, .5] and (.5, 1]: confidences .5 and .5, both wrong; .8 and 1, one right. 2/4 * .5 + 2/4 * |.9 - .5| = .45.
    probabilities = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.0, 1.0]])
    assert reliability(probabilities, torch.tensor([1, 1, 1, 1]), bins=2).error == pytest.approx(0.45, abs=1e-6)


@given(arrays.arrays(np.float64, (20, 3), elements=st.floats(-30, 30)), st.integers(1, 20))
def test_the_error_is_a_share_and_zero_for_the_sure_and_right(logits: NDArray[np.float64], bins: int) -> None:
    probabilities = torch.from_numpy(logits).softmax(1)
    y = probabilities.argmax(1)
    assert 0 <= reliability(probabilities, (y + 1) % 3, bins).error <= 1
    assert reliability(torch.eye(3)[y], y, bins).error == 0
