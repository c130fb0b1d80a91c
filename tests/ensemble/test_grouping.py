"""Groups of clients, and how many, found from moments alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from scarcity_ray.data import Data, deal
from scarcity_ray.ensemble.grouping import Grouping, group
from scarcity_ray.ensemble.moments import Moments, Packing, with_constant
from scarcity_ray.ensemble.partition import left_out
from scarcity_ray.ensemble.representation import FourierFeatures, bandwidth, survey
from scarcity_ray.ensemble.ridge import Rows, all_rows, choose_strength

Client = tuple[torch.Tensor, torch.Tensor]


def regressions(
    groups: int, clients: int = 36, rows: int = 12, seed: int = 0, apart: float = 2.0
) -> tuple[list[Client], NDArray[np.int64]]:
    """Clients of linear regressions whose heads are their group's, with some of their own."""
    rng = np.random.default_rng(seed)
    heads, truth = apart * rng.standard_normal((groups, 4, 1)), np.arange(clients) % groups
    made = []
    for g in truth:
        x = rng.standard_normal((rows, 4))
        y = x @ (heads[g] + 0.1 * rng.standard_normal((4, 1))) + 0.3 * rng.standard_normal((rows, 1))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
    return made, truth


def rows_of_all(clients: list[Client]) -> tuple[list[Rows], float]:
    packing = Packing(clients[0][0].shape[1] + 1, 1, "regression")
    rows = np.stack([packing.pack(Moments.of(x, y, "regression", 1)).numpy() for x, y in clients])
    samples = np.array([len(x) for x, _ in clients])
    parts = all_rows(packing, rows, samples)
    return parts, choose_strength(packing.total(rows, samples), parts)[0]


def found(clients: list[Client], experts: int | None = None, seed: int = 0) -> Grouping:
    parts, strength = rows_of_all(clients)
    return group(parts, strength, experts=experts, seed=seed)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_as_many_groups_as_there_are(groups: int) -> None:
    for seed in range(3):
        clients, truth = regressions(groups, clients=60, rows=20, seed=seed)
        grouping = found(clients)
        assert grouping.responsibilities.shape == (60, groups)
        assert adjusted_rand_score(truth, grouping.members) > 0.9
        np.testing.assert_allclose(grouping.responsibilities.sum(1), 1)
        assert (grouping.responsibilities.argmax(1) == grouping.members).all()


def noisy(heads: NDArray[np.float64], truth: NDArray[np.int64], seed: int) -> list[Client]:
    """Clients of 30 rows with noise of the size of a coefficient."""
    rng = np.random.default_rng([seed, 1])
    made = []
    for head in heads[truth]:
        x = rng.standard_normal((30, len(head)))
        y = x @ (head + 0.1 * rng.standard_normal(len(head))) + rng.standard_normal(30)
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y[:, None]).float()))
    return made


@pytest.mark.parametrize(("groups", "each", "seeds", "least"), [(8, 10, 2, 2), (3, 5, 4, 3)])
def test_many_groups_and_small_ones(groups: int, each: int, seeds: int, least: int) -> None:
    right = 0
    for seed in range(1, seeds + 1):  # of eight groups, two or three parts predict little better than the whole
        heads, truth = np.random.default_rng(seed).standard_normal((groups, 5)), np.repeat(np.arange(groups), each)
        right += adjusted_rand_score(truth, found(noisy(heads, truth, seed), seed=seed).members) > 0.9
    assert right >= least  # gains that differ much between small groups have a wide standard error


@pytest.mark.parametrize("form", ["line", "cloud"])
def test_a_continuum_of_heads_is_one_group(form: str) -> None:
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        place = rng.uniform(-2, 2, (60, 1)) * rng.standard_normal(5) if form == "line" else rng.standard_normal((60, 5))
        grouping = found(noisy(place, np.arange(60), seed), seed=seed)
        assert grouping.members.max() == 0
        assert grouping.separate is None
        if form == "line":
            assert max(grouping.gains.values()) > 3  # more experts predict better, and are no groups


@pytest.mark.parametrize("mixed", [False, True])
def test_experts_of_many_features_are_groups_or_parts_that_clients_mix(mixed: bool) -> None:
    rng = np.random.default_rng(1)
    heads = rng.standard_normal((3, 40))  # a full covariance of 41 coefficients is not fitted
    clients = []
    for m in range(40):
        x, mix = rng.standard_normal((60, 40)), rng.dirichlet([0.4] * 3) if mixed else np.eye(3)[m % 3]
        y = (x * heads[rng.choice(3, 60, p=mix)]).sum(1) + rng.standard_normal(60)
        clients.append((torch.from_numpy(x).float(), torch.from_numpy(y[:, None]).float()))
    grouping = found(clients, seed=1)
    assert grouping.members.max() >= 1
    assert grouping.separate is not mixed


def test_a_curve_seen_from_several_places_is_one_group() -> None:
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        clients = []
        for place in rng.standard_normal((40, 2)):
            x = place + 0.3 * rng.standard_normal((60, 2))
            y = (x**2).sum(1, keepdims=True) + 0.1 * rng.standard_normal((60, 1))
            clients.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
        assert found(clients, seed=seed).members.max() == 0


def test_the_largest_expert_comes_first() -> None:
    clients, truth = regressions(3, clients=30, seed=5)
    kept = [client for client, g in zip(clients, truth, strict=True) if g != 0] + [clients[i] for i in (0, 3, 6, 9)]
    members = found(kept, experts=3).members
    assert np.bincount(members).tolist() == [10, 10, 4]
    assert members[0] == 0  # of two as large the one with the lowest client


@given(order=st.permutations(range(24)))
@settings(max_examples=5)
@pytest.mark.slow
def test_the_partition_does_not_depend_on_the_order_of_clients(order: list[int]) -> None:
    clients, _ = regressions(2, clients=24, seed=1)
    plain, mixed = found(clients).members, found([clients[i] for i in order]).members
    assert adjusted_rand_score(plain[order], mixed) == 1.0


def test_a_given_number_is_kept() -> None:
    clients, truth = regressions(2, seed=2)
    assert found(clients, experts=1).members.max() == 0
    four = found(clients, experts=4).members
    assert 2 <= four.max() + 1 <= 4
    pairs = {(g, k) for g, k in zip(truth.tolist(), four.tolist(), strict=True)}
    assert len({k for _, k in pairs}) == len(pairs)  # no expert has clients of both groups


def test_clients_that_are_all_the_same_are_one_group() -> None:
    clients, _ = regressions(1, clients=1)
    grouping = found(clients * 12)
    assert grouping.members.tolist() == [0] * 12
    assert found(clients * 2).members.tolist() == [0, 0]


def test_a_fit_without_a_client_is_a_fit_without_it() -> None:
    clients, _ = regressions(2, clients=8, rows=6)
    parts, _ = rows_of_all(clients)
    weights = torch.from_numpy(np.random.default_rng(3).dirichlet([1.0, 1.0], 8))
    penalty = torch.tensor([0.5, 0.5, 0.5, 0.5, 1e-6], dtype=torch.float64)
    residuals = torch.cat([part[torch.argsort(own.clients)] for own, part in zip(parts, left_out(parts, penalty, weights), strict=True)])
    for m in range(8):
        for k in range(2):
            gram, cross = torch.diag(penalty), torch.zeros(5, 1, dtype=torch.float64)
            for j, (x, y) in enumerate(clients):
                if j != m:
                    f = with_constant(x.double())
                    gram, cross = gram + weights[j, k] * f.T @ f, cross + weights[j, k] * f.T @ y.double()
            head = torch.linalg.solve(gram, cross)
            x, y = clients[m]
            alone = (y.double() - with_constant(x.double()) @ head).square().sum()
            rest = float(y.double().square().sum() - sum((part.targets[part.clients == m]).square().sum() for part in parts))
            assert float(residuals[m, :, k].square().sum()) + rest == pytest.approx(float(alone), rel=1e-4)


@pytest.mark.parametrize(
    ("transforms", "alpha", "groups"),
    [
        ([{"kind": "rotate", "groups": 3}], None, 3),
        pytest.param([{"kind": "rotate", "groups": 4}], None, 4, marks=pytest.mark.slow),
        pytest.param([{"kind": "permute_labels", "groups": 3}], None, 3, marks=pytest.mark.slow),
        pytest.param([{"kind": "rotate", "groups": 3}], 0.3, 3, marks=pytest.mark.slow),
        ([], None, 1),
        pytest.param([], 0.1, 1, marks=pytest.mark.slow),
    ],
    ids=["three turns", "four turns", "other labels", "turns and skewed labels", "none", "skewed labels"],
)
def test_hidden_groups_of_digits(transforms: list[dict[str, object]], alpha: float | None, groups: int) -> None:
    partition = {"kind": "iid"} if alpha is None else {"kind": "dirichlet", "alpha": alpha}
    data = {"source": {"kind": "digits"}, "clients": 60, "partition": partition, "transforms": transforms}
    federation = deal(Data.model_validate(data), 7, Path())
    train, counts = federation.train, federation.train.counts
    inputs = [torch.from_numpy(train.x[train.rows(m)]) for m in range(60)]
    features = FourierFeatures(64, 128, 1, bandwidth(np.stack([survey(x).numpy() for x in inputs]), counts))
    packing = Packing(129, 10, "classification")
    rows = np.stack([
        packing.pack(Moments.of(features(x), torch.from_numpy(train.y[train.rows(m)]), "classification", 10)).numpy()
        for m, x in enumerate(inputs)
    ])  # fmt: skip
    parts = all_rows(packing, rows, counts)
    grouping = group(parts, choose_strength(packing.total(rows, counts), parts)[0], seed=7)
    assert len(np.unique(grouping.members)) == groups
    assert adjusted_rand_score(federation.group, grouping.members) >= 0.95
