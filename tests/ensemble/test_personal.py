"""Personal heads: posterior means of a Gaussian model, their covariance, and how likely a client's targets are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.moments import messages, regression
from scipy.stats import multivariate_normal

from scarcity_ray.ensemble.moments import with_constant
from scarcity_ray.ensemble.personal import log_likelihood, personal_head, posterior_covariance
from scarcity_ray.ensemble.ridge import all_rows

DIAGONAL = torch.tensor([0.2, 0.0, 0.2, 0.7, 0.2, 3.0], dtype=torch.float64)
ROOT = torch.from_numpy(np.random.default_rng(5).standard_normal((6, 3)))
COVARIANCES = {"diagonal": DIAGONAL, "full, of rank 3": ROOT @ ROOT.T}
HEAD = torch.from_numpy(np.random.default_rng(6).standard_normal((6, 2)))


def client(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    ((x, y),) = regression((n,))
    return with_constant(x.double()), y.double()


def dense(covariance: torch.Tensor) -> torch.Tensor:
    return torch.diag(covariance) if covariance.ndim == 1 else covariance


@pytest.mark.parametrize("covariance", COVARIANCES.values(), ids=list(COVARIANCES))
@pytest.mark.parametrize("n", [1, 4, 6, 40])
def test_a_personal_head_is_the_posterior_mean_and_knows_its_covariance(n: int, covariance: torch.Tensor) -> None:
    f, y = client(n)
    # From moments, with a Q that has an inverse: W + (G + Q^-1)^-1 (B - G W).
    q = dense(covariance) + 1e-9 * torch.eye(6, dtype=torch.float64)
    precision = f.T @ f + torch.linalg.inv(q)
    mean = HEAD + torch.linalg.solve(precision, f.T @ (y - f @ HEAD))
    assert torch.allclose(personal_head(f, y, HEAD, covariance), mean, atol=1e-6)
    assert torch.allclose(posterior_covariance(f, covariance), torch.linalg.inv(precision), atol=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES.values(), ids=list(COVARIANCES))
@pytest.mark.parametrize("n", [1, 4, 40])
def test_the_likelihood_is_a_dense_log_density(n: int, covariance: torch.Tensor) -> None:
    f, y = client(n)
    marginal = 0.3 * (torch.eye(n, dtype=torch.float64) + f @ dense(covariance) @ f.T)
    expected = sum(multivariate_normal.logpdf((y - f @ HEAD)[:, j].numpy(), cov=marginal.numpy()) for j in range(2))
    assert float(log_likelihood(f, y, HEAD, covariance, 0.3)) == pytest.approx(expected, rel=1e-9)


def test_rows_from_moments_give_every_client_the_head_of_its_own_rows() -> None:
    clients = regression()
    (part,) = all_rows(*messages(clients, "regression", 2))
    heads = personal_head(part.features, part.targets, HEAD, DIAGONAL)
    covariances = posterior_covariance(part.features, DIAGONAL)
    for head, covariance, (x, y) in zip(heads, covariances, clients, strict=True):
        f = with_constant(x.double())
        assert torch.allclose(head, personal_head(f, y.double(), HEAD, DIAGONAL), atol=1e-4)  # moments are float32
        assert torch.allclose(covariance, posterior_covariance(f, DIAGONAL), atol=1e-4)


def test_no_variance_is_the_expert_and_a_large_one_the_client_alone() -> None:
    f, y = client(40)
    assert torch.equal(personal_head(f, y, HEAD, torch.zeros(6, dtype=torch.float64)), HEAD)
    assert torch.allclose(
        personal_head(f, y, HEAD, torch.full((6,), 1e9, dtype=torch.float64)), torch.linalg.lstsq(f, y).solution, atol=1e-6
    )


def test_predictions_are_as_far_off_as_their_variance_says() -> None:
    # Clients drawn from the model: errors on new rows, over their standard deviation, are standard normal.
    rng, noise, root = np.random.default_rng(8), 0.5, np.linalg.cholesky(dense(DIAGONAL).numpy() + 1e-12 * np.eye(6))
    found = []
    for _ in range(400):
        f = torch.from_numpy(np.concatenate([rng.standard_normal((9, 5)), np.ones((9, 1))], axis=1))
        own = HEAD[:, :1] + torch.from_numpy(np.sqrt(noise) * root @ rng.standard_normal((6, 1)))
        y = f @ own + np.sqrt(noise) * torch.from_numpy(rng.standard_normal((9, 1)))
        errors = y[4:] - f[4:] @ personal_head(f[:4], y[:4], HEAD[:, :1], DIAGONAL)
        variance = noise * (1 + ((f[4:] @ posterior_covariance(f[:4], DIAGONAL)) * f[4:]).sum(1))
        found.append(errors[0, 0] / variance[0].sqrt())
    assert float(torch.stack(found).square().mean()) == pytest.approx(1, abs=0.2)  # its standard error: sqrt(2 / 400) = 0.07
