"""What clients' class means tell without any row: against brute force, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from scarcity_ray.ensemble import class_means as cm
from scarcity_ray.ensemble.tempering import tempered


def messages(counts: np.ndarray, rng: np.random.Generator, width: int, differ: float, sigma: float = 1.0) -> torch.Tensor:
    """Class means `[k, classes, width + 1]` of clients with so many rows, as the model has them."""
    mean = 3 * rng.standard_normal((1, counts.shape[1], width))
    spread = np.sqrt(differ + 1 / np.maximum(counts, 1))[..., None] * sigma
    rows = np.where(counts[..., None] > 0, mean + spread * rng.standard_normal((*counts.shape, width)), 0)
    return torch.from_numpy(np.concatenate([rows, counts[..., None]], axis=2))


def test_how_far_clients_differ_is_where_the_restricted_likelihood_is_greatest() -> None:
    """By matrices: y ~ N(X mu, sigma^2 V), and log|V| + log|X' V^-1 X| + (n - p) log RSS a feature."""
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 6, (9, 3)).astype(float)
    sent = messages(counts, rng, 4, 0.4, 0.7)
    means = (counts[..., None] * sent[..., :-1].numpy()).sum(0) / counts.sum(0)[:, None]
    there = counts.ravel() > 0
    design = np.tile(np.eye(3), (9, 1))[there]
    y = sent[..., :-1].numpy().reshape(27, 4)[there]
    best = []
    for ratio in cm._RATIOS.tolist():
        inverse = np.diag(1 / (ratio + 1 / counts.ravel()[there]))
        within = design.T @ inverse @ design
        left = y - design @ np.linalg.solve(within, design.T @ inverse @ y)
        square = float(np.einsum("nf,nm,mf->", left, inverse, left))
        free = len(y) - 3
        evidence = -0.5 * 4 * (-np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(within)[1] + free * math.log(square))
        best.append((evidence, ratio, square / (free * 4)))
    _, ratio, variance = max(best)
    assert 0.1 < ratio < 1.5
    assert cm.variance_components(sent, torch.from_numpy(means)) == pytest.approx((ratio, variance))


def test_clients_with_equal_numbers_of_rows_do_not_tell_whether_they_differ() -> None:
    rng = np.random.default_rng(2)
    sent = messages(np.full((30, 3), 4.0), rng, 20, 1.0)
    assert cm.variance_components(sent, sent[..., :-1].mean(0))[0] == 0


@pytest.mark.parametrize("case", ["one client", "a class each", "all rows the same"])
def test_where_nothing_tells_the_temperature_is_one(case: str) -> None:
    sent = messages(np.array([[3.0, 2.0], [1.0, 4.0]]), np.random.default_rng(3), 2, 0.0)
    if case == "one client":
        sent = sent[:1]
    elif case == "a class each":
        sent[0, 1], sent[1, 0] = 0, 0
    else:
        sent[1, :, :-1] = sent[0, :, :-1]
    known = cm.together(sent, personal=True)
    assert (known.temperature, known.differ) == (1.0, 0.0)
    assert torch.isfinite(cm.linear_head(known, sent[0])).all()


def test_the_temperature_of_gaussian_classes_is_their_variance() -> None:
    """For rows N(mu_c, sigma^2) in each feature the nearest mean at T = sigma^2 is the true posterior."""
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 5, (300, 3)).astype(float)
    sent = messages(counts, rng, 3, 0.0, 2.5)
    assert cm.together(sent, personal=False).temperature == pytest.approx(2.5**2, rel=0.1)


def test_the_temperature_of_dependent_features_is_above_their_variance() -> None:
    """The same feature five times over: a variance of sigma^2 in one direction of five times the length."""
    rng = np.random.default_rng(4)
    one = messages(rng.integers(0, 5, (300, 3)).astype(float), rng, 1, 0.0)
    five = torch.cat([one[..., :1].expand(-1, -1, 5), one[..., 1:]], dim=2)
    assert cm.together(five, False).temperature == pytest.approx(5, rel=0.1)


def test_own_heads_are_as_much_sharper_as_rows_lie_closer_about_their_own_means() -> None:
    """Variance of a row about its client's posterior mean, over the rows, to that about everybody's."""
    rng = np.random.default_rng(6)
    counts = rng.integers(0, 5, (200, 3)).astype(float)
    sent = messages(counts, rng, 3, 1.5)
    one, own = cm.together(sent, personal=False), cm.together(sent, personal=True)
    assert own.differ == one.differ == pytest.approx(1.5, rel=0.3)
    posterior = 1 / (1 / own.differ + counts)
    assert own.temperature / one.temperature == pytest.approx((counts * (1 + posterior)).sum() / counts.sum() / (1 + own.differ))


@given(st.integers(0, 10**6))
def test_tempering_finds_the_least_log_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, weights = rng.integers(0, 3, 40), rng.uniform(0.1, 2, 40)
    scores = rng.standard_normal((40, 3)) + 1.5 * np.eye(3)[y]

    def loss(log_t: float) -> float:
        z = scores / math.exp(log_t)
        return float((weights * (np.log(np.exp(z).sum(1)) - z[np.arange(40), y])).sum())

    found = tempered(torch.from_numpy(scores), torch.from_numpy(y), torch.from_numpy(weights), 1e-2, 1e2)
    wanted = minimize_scalar(loss, bounds=(math.log(1e-2), math.log(1e2)), method="bounded", options={"xatol": 1e-6})
    assert found == pytest.approx(math.exp(wanted.x), rel=1e-3)


def test_loyalty_is_where_the_numbers_of_rows_are_likeliest() -> None:
    rng = np.random.default_rng(5)
    counts = np.array([rng.multinomial(8, rng.dirichlet([0.9, 0.6, 1e-9, 1.5])) for _ in range(60)]).astype(float)
    counts[:, 2] = 0  # nobody's
    shares = counts.sum(0) / counts.sum()

    def log_likelihood(a: float) -> float:
        """Pólya's urn, row by row: each next row is of a class with the probability (rows of it + a share) / (rows + a)."""
        total = 0.0
        for client in counts.astype(int):
            drawn = 0
            for c, number in enumerate(client):
                for i in range(number):
                    total += math.log((i + a * shares[c]) / (drawn + a))
                    drawn += 1
        return total

    best = max(cm._LOYALTIES.tolist(), key=log_likelihood)
    assert 1 < best < 9
    assert cm.loyalty(torch.from_numpy(counts)) == best
    assert cm.loyalty(torch.tensor([[5.0, 0.0], [3.0, 0.0]])) == float(cm._LOYALTIES[-1])  # one class: all is the same
