"""Routers from moments: Gaussian densities and the ridge gate, against scipy, scikit-learn and refits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.integrate import quad
from scipy.stats import chi2, invgamma, multivariate_normal
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import Ridge

from scarcity_ray.ensemble.density import WEIGHTS, Densities, effective_dimensions, log_evidence
from scarcity_ray.ensemble.gate import Gate, gate_moments, gate_rows
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.representation import FourierFeatures
from scarcity_ray.ensemble.ridge import Rows, all_rows, choose_strength
from scarcity_ray.ensemble.router import Router

Points = NDArray[np.float32]


def moments(x: Points) -> Moments:
    """Of one expert's rows, their targets all 0: a router reads the inputs alone."""
    return Moments.of(torch.from_numpy(x), torch.zeros(len(x), 1), "regression", 1)


def normals(sizes: tuple[int, ...] = (40, 25, 9), width: int = 4, seed: int = 0) -> list[Points]:
    """Rows of experts, each with a mean and a shape of its own."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + k).astype(np.float32) for k, n in enumerate(sizes)]


# -- densities -------------------------------------------------------------------------------------------------------


def covariances(densities: Densities) -> NDArray[np.float64]:
    roots = densities.roots.double().numpy()
    return np.linalg.inv(roots.transpose(0, 2, 1) @ roots)


def test_scores_are_log_prior_and_their_share_of_a_normal_log_density() -> None:
    groups = normals()
    densities, x = Densities.of([moments(rows) for rows in groups]), np.concatenate(normals(seed=1))
    found = densities.scores(torch.from_numpy(x)).numpy()
    for k, (rows, covariance) in enumerate(zip(groups, covariances(densities), strict=True)):
        log_density = multivariate_normal.logpdf(x, rows.mean(0), covariance)
        wanted = np.log(len(rows) / 74) + float(densities.share) * log_density
        assert found[:, k] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_covariances_lie_between_an_experts_own_and_the_shrunk_common_one() -> None:
    groups = normals()
    own = np.array([len(rows) - 1 for rows in groups])
    scatters = np.stack([np.cov(rows.T.astype(np.float64)) * n for rows, n in zip(groups, own, strict=True)])
    pooled = scatters.sum(0) / own.sum()
    # Chen et al. 2010, eq. 23.
    p, n, trace, squares = 4, own.sum(), np.trace(pooled), np.trace(pooled @ pooled)
    amount = ((1 - 2 / p) * squares + trace**2) / ((n + 1 - 2 / p) * (squares - trace**2 / p))
    common = (1 - amount) * pooled + amount * trace / p * np.eye(p)
    found = covariances(Densities.of([moments(rows) for rows in groups]))
    # (c T + S) / (c + n) is the same c for every expert and entry.
    c = [(S - n * C)[0, 0] / (C - common)[0, 0] for S, C, n in zip(scatters, found, own, strict=True)]
    assert c == pytest.approx(np.full(3, c[0]), rel=1e-2)
    assert np.abs(np.log(WEIGHTS / c[0])).min() < 1e-2
    for S, C, n in zip(scatters, found, own, strict=True):
        assert pytest.approx((c[0] * common + S) / (c[0] + n), rel=1e-3, abs=1e-3) == C


def test_the_evidence_is_the_scatters_likelihood_with_the_variance_integrated_out() -> None:
    # One feature: scatter / variance is chi-squared, the variance inverse gamma with mean 1.
    scatters, own, weights = [3.0, 30.0], [4, 11], [1.0, 7.0, 60.0]
    wanted = []
    for c in weights:
        total = 0.0
        for s, n in zip(scatters, own, strict=True):
            prior = invgamma((c + 2) / 2, scale=c / 2)
            value, _ = quad(lambda v, s=s, n=n, prior=prior: chi2.pdf(s / v, n) / v * prior.pdf(v), 0, np.inf)
            total += np.log(value)
        wanted.append(total)
    found = log_evidence(torch.tensor(scatters)[:, None].double(), torch.tensor(own).double(), torch.tensor(weights).double()).numpy()
    assert np.diff(found) == pytest.approx(np.diff(wanted), rel=1e-6)


@pytest.mark.parametrize(("alike", "least", "most"), [(True, 100, np.inf), (False, 0, 10)])
def test_experts_of_one_shape_share_their_rows_and_others_keep_their_own(alike: bool, least: float, most: float) -> None:
    rng = np.random.default_rng(3)
    shapes = [np.linalg.qr(rng.standard_normal((6, 6)))[0] * np.linspace(0.5, 2, 6) for _ in range(8)]
    groups = [(rng.standard_normal((30, 6)) @ shapes[0 if alike else k].T).astype(np.float32) for k in range(8)]
    found = covariances(Densities.of([moments(rows) for rows in groups]))
    scatters = [np.cov(rows.T.astype(np.float64)) * 29 for rows in groups]
    # From two experts: (S - S') / (C - C') = c + 29.
    weight = np.linalg.norm(scatters[0] - scatters[1]) / np.linalg.norm(found[0] - found[1]) - 29
    assert least <= weight <= most


def test_it_routes_as_well_as_quadratic_discriminant_analysis_on_all_rows() -> None:
    groups, strangers = normals((200, 150, 100), 5, 2), normals((2000, 1500, 1000), 5, 2)
    # The same shapes (the seed's first draws differ by size), so fit on half of the larger draw.
    groups, strangers = [rows[::2] for rows in strangers], [rows[1::2] for rows in strangers]
    x, y = np.concatenate(strangers), np.repeat(np.arange(3), [len(rows) for rows in strangers])
    fitted = QuadraticDiscriminantAnalysis().fit(np.concatenate(groups), np.repeat(np.arange(3), [len(rows) for rows in groups]))
    scores = Densities.of([moments(rows) for rows in groups]).scores(torch.from_numpy(x))
    mine = float((Router(3).route(scores.numpy()) == y).mean())
    assert mine == pytest.approx(fitted.score(x, y), abs=0.01)


def test_a_log_density_counts_in_full_where_all_directions_are_alike() -> None:
    rng = np.random.default_rng(6)
    groups = [rng.standard_normal((500, 5)).astype(np.float32) + k for k in range(2)]
    assert float(Densities.of([moments(rows) for rows in groups]).share) == pytest.approx(1, abs=0.02)


def test_effective_dimensions_count_directions_and_are_not_fooled_by_few_rows() -> None:
    assert effective_dimensions(torch.ones(7, dtype=torch.float64), 1e9) == pytest.approx(7)
    assert effective_dimensions(torch.tensor([0.0, 0, 3]).double(), 1e9) == pytest.approx(1)
    scales = np.sqrt([8.0, 4, 2, 1, 1, 1, 1, 1])
    truth = 19**2 / 89
    draws = [np.cov((np.random.default_rng(seed).standard_normal((21, 8)) * scales).T) for seed in range(400)]
    found = [effective_dimensions(torch.linalg.eigvalsh(torch.from_numpy(draw)), 20) for draw in draws]
    plain = [np.trace(draw) ** 2 / np.trace(draw @ draw) for draw in draws]
    assert np.median(found) == pytest.approx(truth, rel=0.1)
    assert np.median(plain) < 0.9 * truth


def test_an_expert_of_no_rows_never_answers_and_one_of_a_single_row_has_the_common_shape() -> None:
    groups = [*normals((50, 60)), np.full((1, 4), 9, dtype=np.float32), np.zeros((0, 4), dtype=np.float32)]
    densities = Densities.of([moments(rows) for rows in groups])
    scores = densities.scores(torch.from_numpy(np.concatenate(groups))).numpy()
    assert (scores[:, 3] == -np.inf).all()
    assert np.isfinite(scores[:, :3]).all()
    assert Router(4).route(scores)[-1] == 2
    assert Router(4).weights(scores)[:, 3].max() == 0


def test_rows_that_do_not_vary_still_give_a_density() -> None:
    groups = [np.ones((5, 3), dtype=np.float32), np.full((5, 3), 2, dtype=np.float32)]
    scores = Densities.of([moments(rows) for rows in groups]).scores(torch.tensor([[1.0, 1, 1], [2, 2, 2]]))
    assert Router(2).route(scores.numpy()).tolist() == [0, 1]


def test_rows_far_from_zero_whose_float32_sums_lose_their_scatter_still_give_densities() -> None:
    rng = np.random.default_rng(8)
    packing = Packing(13, 1, "regression")
    groups = [(5000 * (k + 1) + rng.standard_normal((30, 12))).astype(np.float32) for k in range(2)]
    sent = [packing.unpack(packing.pack(moments(rows)).numpy()[None], np.array([30])) for rows in groups]
    made = [Moments(one.gram[0], one.cross[0], one.square[0], one.samples[0]) for one in sent]
    assert float(torch.linalg.eigvalsh(made[0].gram)[0]) < 0  # not the moments of any rows
    scores = Densities.of(made).scores(torch.from_numpy(np.concatenate(groups))).numpy()
    assert np.array_equal(Router(2).route(scores), np.repeat([0, 1], 30))


def test_no_covariance_from_single_rows() -> None:
    with pytest.raises(ValueError, match="one expert must have two rows"):
        Densities.of([moments(np.ones((1, 3), dtype=np.float32)), moments(np.zeros((1, 3), dtype=np.float32))])


# -- gate ------------------------------------------------------------------------------------------------------------


def clients_of(groups: list[Points], count: int) -> tuple[list[Points], list[int]]:
    """Each group's rows dealt to `count` clients of growing size, and the expert of each client."""
    cuts = np.cumsum(np.arange(1, count + 1)) / sum(range(1, count + 1))
    parts = [part for rows in groups for part in np.split(rows, (cuts[:-1] * len(rows)).astype(int))]
    return parts, [k for k in range(len(groups)) for _ in range(count)]


def rows_by_size(parts: list[Points], members: list[int]) -> tuple[list[Rows], list[int], list[Points]]:
    """What `all_rows` makes of the clients' messages, and experts and true rows in its order."""
    packing = Packing(parts[0].shape[1] + 1, 1, "regression")
    sizes = np.array([len(part) for part in parts])
    order = np.argsort(sizes, kind="stable")
    messages = torch.stack([packing.pack(moments(part)) for part in parts]).numpy()
    return all_rows(packing, messages, sizes), [members[i] for i in order], [parts[i] for i in order]


def test_the_gate_is_ridge_on_one_hot_codes_of_the_experts() -> None:
    groups = normals()
    codes = np.eye(3)[np.repeat(np.arange(3), [len(rows) for rows in groups])]
    gate, x = Gate.of([moments(rows) for rows in groups], 2.5, 0.5), np.concatenate(groups)
    wanted = Ridge(alpha=2.5).fit(x.astype(np.float64), codes).predict(x) / 0.5
    assert gate.scores(torch.from_numpy(x)).numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_its_strength_is_judged_on_clients_that_it_was_fitted_without() -> None:
    groups = normals((60, 45, 30))
    rows, members, parts = rows_by_size(*clients_of(groups, 5))
    strength, left_out = choose_strength(gate_moments([moments(one) for one in groups]), gate_rows(rows, members, 3))
    errors = 0.0
    for i, (part, member) in enumerate(zip(parts, members, strict=True)):
        x = np.concatenate([p for j, p in enumerate(parts) if j != i]).astype(np.float64)
        y = np.concatenate([np.eye(3)[np.full(len(p), m)] for j, (p, m) in enumerate(zip(parts, members, strict=True)) if j != i])
        errors += float(((Ridge(alpha=strength).fit(x, y).predict(part) - np.eye(3)[member]) ** 2).sum())
    assert left_out.loss == pytest.approx(errors / (135 * 3), rel=1e-4)


def test_a_chosen_gate_tells_far_groups_apart_and_is_unsure_of_equal_ones() -> None:
    rng = np.random.default_rng(5)
    for apart, least, most in ((6.0, 0.0, 0.05), (0.0, 0.6, 0.75)):
        groups = [(rng.standard_normal((200, 4)) + apart * k * np.eye(4)[0]).astype(np.float32) for k in range(2)]
        rows, members, _ = rows_by_size(*clients_of(groups, 8))
        gate = Gate.chosen([moments(one) for one in groups], rows, members)
        fresh = (rng.standard_normal((1000, 4)) + apart * np.eye(4)[0]).astype(np.float32)
        loss = -float(gate.scores(torch.from_numpy(fresh)).log_softmax(1)[:, 1].mean())
        assert least <= loss <= most  # log 2 = .69 is what nobody can beat where inputs tell nothing


def test_both_routers_travel_in_one_safetensors_file(tmp_path: Path) -> None:
    made = [moments(rows) for rows in normals()]
    densities, gate, x = Densities.of(made), Gate.of(made, 1.0, 0.3), torch.from_numpy(np.concatenate(normals(seed=4)))
    save_file({**densities.tensors(), **gate.tensors()}, tmp_path / "router.safetensors")
    read = load_file(tmp_path / "router.safetensors")
    assert {value.dtype for value in read.values()} == {torch.float32}
    assert torch.equal(Densities.from_tensors(read).scores(x), densities.scores(x))
    assert torch.equal(Gate.from_tensors(read).scores(x), gate.scores(x))


# -- on digits -------------------------------------------------------------------------------------------------------


def test_turned_digits_go_to_their_expert() -> None:
    # Three groups of 280 images, turned by 0, 90 and 180 degrees, on 128 random features; fresh images of all three.
    images, _ = load_digits(return_X_y=True)
    images = np.random.default_rng(0).permutation(images / 16).reshape(-1, 8, 8).astype(np.float32)
    spread = 2 * float(images.reshape(-1, 64).var(0).sum())
    features = FourierFeatures(64, 128, seed=1, bandwidth=spread**0.5)

    def turned(part: Points, group: int) -> Points:
        x = np.ascontiguousarray(np.rot90(part, group, axes=(1, 2)).reshape(len(part), 64))
        made: Points = features(torch.from_numpy(x)).numpy()
        return made

    groups = [turned(images[280 * k : 280 * (k + 1)], k) for k in range(3)]
    fresh, truth = np.concatenate([turned(images[840:1640], k) for k in range(3)]), np.repeat(np.arange(3), 800)
    rows, members, _ = rows_by_size(*clients_of(groups, 12))
    made = [moments(one) for one in groups]
    densities, x = Densities.of(made), torch.from_numpy(fresh)
    right = {
        name: float((Router(3).route(router.scores(x).numpy()) == truth).mean())
        for name, router in (("density", densities), ("gate", Gate.chosen(made, rows, members)))
    }
    assert right["density"] >= 0.95
    assert right["density"] >= right["gate"] >= 0.85
    everything = replace(densities, share=torch.tensor(1.0), levels=densities.levels / densities.share)

    def loss(router: Densities) -> float:
        return -float(router.scores(x).log_softmax(1)[torch.arange(len(truth)), torch.from_numpy(truth)].mean())

    assert loss(densities) < 0.5 * loss(everything)  # counted in full, the same evidence several times over is far too sure
