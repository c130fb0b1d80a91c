"""Personal heads: the evidence is that of a multivariate normal, and a head is its posterior mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from test_ensemble_moments import SIZES, messages, regression

from scarcity_ray.ensemble.moments import with_constant
from scarcity_ray.ensemble.personal import Prior, choose_prior, log_evidence, personal_head
from scarcity_ray.ensemble.ridge import all_rows, choose_strength, leave_one_client_out


def test_the_evidence_is_a_dense_log_density() -> None:
    clients, strength = regression(), 0.5
    packing, rows, samples = messages(clients, "regression", 2)
    parts = all_rows(packing, rows, samples)
    left_out = leave_one_client_out(packing.total(rows, samples), parts, strength)
    assert left_out is not None
    slopes, intercepts = torch.tensor([0.0, 0.3], dtype=torch.float64), torch.tensor([0.0, 0.1, 4.0], dtype=torch.float64)
    found = log_evidence(parts, left_out, slopes, intercepts)
    penalty = strength * torch.eye(6, dtype=torch.float64)
    penalty[-1, -1] = 0
    for i, slope in enumerate(slopes.tolist()):
        for j, intercept in enumerate(intercepts.tolist()):
            q, pieces = Prior(slope, intercept).variances(6), []
            for left in range(len(clients)):
                others = [client for k, client in enumerate(clients) if k != left]
                x, y = (torch.cat(part).double() for part in zip(*others, strict=True))
                f = with_constant(x)
                head = torch.linalg.solve(f.T @ f + penalty, f.T @ y)
                mine = with_constant(clients[left][0].double())
                residuals = clients[left][1].double() - mine @ head
                pieces.append((residuals, torch.eye(len(mine), dtype=torch.float64) + (mine * q) @ mine.T))
            squares = sum(float((r * torch.linalg.solve(s, r)).sum()) for r, s in pieces)
            noise = squares / (sum(SIZES) * 2)
            dense = sum(
                float(multivariate_normal.logpdf(r[:, output].numpy(), cov=noise * s.numpy())) for r, s in pieces for output in range(2)
            )
            assert float(found[i, j]) == pytest.approx(dense, rel=1e-6)


@pytest.mark.parametrize("n", [1, 4, 6, 40])
def test_a_personal_head_is_the_posterior_mean(n: int) -> None:
    ((x, y),) = regression((n,))
    f, y = with_constant(x.double()), y.double()
    head = torch.full((6, 2), 0.5, dtype=torch.float64)
    prior = Prior(slope=0.2, intercept=3.0)
    # From moments: W + (G + Q^-1)^-1 (B - G W).
    gram = f.T @ f
    found = head + torch.linalg.solve(gram + torch.diag(1 / prior.variances(6)), f.T @ y - gram @ head)
    assert torch.allclose(personal_head(f, y, head, prior), found, rtol=1e-10, atol=1e-10)


def test_no_variance_is_the_expert_and_a_large_one_the_client_alone() -> None:
    ((x, y),) = regression((40,))
    f, y = with_constant(x.double()), y.double()
    head = torch.ones(6, 2, dtype=torch.float64)
    assert torch.equal(personal_head(f, y, head, Prior(0.0, 0.0)), head)
    alone = torch.linalg.lstsq(f, y).solution
    assert torch.allclose(personal_head(f, y, head, Prior(1e9, 1e9)), alone, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_prior_finds_how_far_clients_differ(spread: float) -> None:
    # 300 clients of 10 rows, noise 1, whose level (and nothing else) differs with this variance.
    rng = np.random.default_rng(4)
    clients = []
    for _ in range(300):
        x = rng.standard_normal((10, 3)).astype(np.float32)
        y = x.sum(1, keepdims=True) + np.sqrt(spread) * rng.standard_normal() + rng.standard_normal((10, 1))
        clients.append((torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))))
    packing, rows, samples = messages(clients, "regression", 1)
    total, parts = packing.total(rows, samples), all_rows(packing, rows, samples)
    prior = choose_prior(total, parts, choose_strength(total, parts)[1])
    assert prior.slope <= 0.02  # its standard error: 1 / 10 rows * sqrt(2 / 900 coefficients) = 0.005
    if spread:
        assert prior.intercept == pytest.approx(spread, rel=0.6)  # four steps a decade: the nearest lies within 34 %
    else:
        assert prior.intercept <= 0.02
