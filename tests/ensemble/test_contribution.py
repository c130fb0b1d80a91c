"""Contribution: what brute force would say, without the refits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from helpers.moments import Clients, messages, regression
from numpy.typing import NDArray

from scarcity_ray.ensemble.contribution import Exact, contributions, exact_contributions
from scarcity_ray.ensemble.moments import with_constant
from scarcity_ray.ensemble.ridge import all_rows, leave_one_client_out

STRENGTH = 0.5


def ours(clients: Clients, strength: float = STRENGTH) -> NDArray[np.float64]:
    """By the formula, in the order of the clients."""
    packing, rows, samples = messages(clients, "regression", clients[0][1].shape[1])
    total, parts = packing.total(rows, samples), all_rows(packing, rows, samples)
    left_out = leave_one_client_out(total, parts, strength)
    assert left_out is not None
    found = np.empty(len(clients))
    found[np.argsort(samples, kind="stable")] = contributions(total, parts, left_out, strength).numpy()
    return found


def exactly(clients: Clients, strength: float = STRENGTH, **work: float) -> Exact:
    """Without the approximation, in the order of the clients."""
    packing, rows, samples = messages(clients, "regression", clients[0][1].shape[1])
    total, parts = packing.total(rows, samples), all_rows(packing, rows, samples)
    left_out = leave_one_client_out(total, parts, strength)
    assert left_out is not None
    return exact_contributions(total, parts, left_out, strength, **work)


def by_refits(clients: Clients, strength: float = STRENGTH) -> NDArray[np.float64]:
    """Fits a head for every pair of clients left out."""
    data = [(with_constant(x.double()), y.double()) for x, y in clients]
    penalty = strength * torch.eye(data[0][0].shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0

    @cache
    def squares(left: int, also: int) -> float:
        f, y = (torch.cat([part[i] for k, part in enumerate(data) if k not in (left, also)]) for i in (0, 1))
        head = torch.linalg.solve(f.T @ f + penalty, f.T @ y)
        return float((data[left][1] - data[left][0] @ head).square().sum())

    found = []
    for m in range(len(data)):
        others = [j for j in range(len(data)) if j != m]
        numbers = sum(data[j][1].numel() for j in others)
        found.append(sum(squares(j, m) - squares(j, j) for j in others) / numbers)
    return np.array(found)


@pytest.mark.parametrize("strength", [0.1, 10.0])
@pytest.mark.parametrize("sizes", [(8,) * 30, (1, 2, 3, 5) * 10], ids=["even", "uneven"])
def test_contributions_are_those_of_refits(sizes: tuple[int, ...], strength: float) -> None:
    clients = regression(sizes)
    found, exact = ours(clients, strength), by_refits(clients, strength)
    assert np.linalg.norm(found - exact) < 0.04 * np.linalg.norm(exact)
    assert np.corrcoef(found, exact)[0, 1] > 0.998


def test_they_are_those_of_refits_with_more_features_than_any_client_has_rows() -> None:
    clients = regression((4,) * 40, width=30)
    found, exact = ours(clients), by_refits(clients)
    assert np.linalg.norm(found - exact) < 0.06 * np.linalg.norm(exact)
    assert np.mean(np.sign(found) == np.sign(exact)) >= 0.95


def test_what_is_left_out_shrinks_with_the_cube_of_a_clients_share() -> None:
    # The first order goes as 1 / M, what the formula leaves as 1 / M^3: four times the clients, a sixteenth of it or so.
    errors = []
    for count in (15, 60):
        clients = regression((8,) * count)
        exact = by_refits(clients)
        errors.append(np.linalg.norm(ours(clients) - exact) / np.linalg.norm(exact))
    assert errors[1] < errors[0] / 6


@pytest.mark.parametrize("sizes", [(8,) * 6, (1, 2, 3, 5) * 4, (3, 3, 3, 200)], ids=["few", "uneven", "one large"])
def test_exact_contributions_are_those_of_refits(sizes: tuple[int, ...]) -> None:
    clients = regression(sizes, width=5)
    found, exact = exactly(clients), by_refits(clients)
    assert found.value.numpy() == pytest.approx(exact, rel=1e-4, abs=1e-6 * np.abs(exact).max())
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()


def test_with_little_work_allowed_those_come_first_that_move_the_head_most() -> None:
    clients = regression((6,) * 12)
    clients[7] = (clients[7][0], -5 * clients[7][1])
    found = exactly(clients, work=2 * 12 * (6 * 6 * clients[0][0].shape[1] + 1100))
    known = torch.isfinite(found.value)
    assert known[7]
    assert 0 < known.sum() < 12
    assert torch.equal(found.value[known], exactly(clients).value[known])


def test_a_client_without_three_others_has_no_exact_contribution() -> None:
    assert torch.isnan(exactly(regression((9, 9, 9))).value).all()


def alike(rng: np.random.Generator, count: int, rows: int) -> Clients:
    """Clients of one distribution, with noise of variance 1."""
    x = [torch.from_numpy(rng.standard_normal((rows, 2))).float() for _ in range(count)]
    noise = [torch.from_numpy(rng.standard_normal((rows, 1))).float() for _ in x]
    return [(part, part @ torch.tensor([[2.0], [-1.0]]) + e) for part, e in zip(x, noise, strict=True)]


def test_intervals_cover_the_effect_on_new_rows() -> None:
    # The truth is known: a head's error on new rows is its distance from the common one, as inputs are white.
    rng, covered, told = np.random.default_rng(2), [], []
    true = np.array([[2.0], [-1.0], [0.0]])
    penalty = STRENGTH * np.diag([1.0, 1.0, 0.0])
    for _ in range(40):
        clients = alike(rng, 12, 8)
        found = exactly(clients)
        f = [np.c_[x.numpy(), np.ones(len(x))].astype(np.float64) for x, _ in clients]
        y = [part.numpy().astype(np.float64) for _, part in clients]

        def risk(*left: int, f: list[NDArray[np.float64]] = f, y: list[NDArray[np.float64]] = y) -> float:
            stay = [k for k in range(12) if k not in left]
            gram, cross = sum(f[k].T @ f[k] for k in stay), sum(f[k].T @ y[k] for k in stay)
            return float(np.square(np.linalg.solve(gram + penalty, cross) - true).sum())

        truth = np.array([np.mean([risk(j, m) - risk(j) for j in range(12) if j != m]) for m in range(12)])
        covered.append((found.low.numpy() <= truth) & (truth <= found.high.numpy()))
        told.append(found.high.numpy() < 0)
    assert 0.92 < np.mean(covered) < 0.995
    assert np.mean(told) < 0.01


def test_a_client_that_harms_is_told_and_no_others() -> None:
    clients = alike(np.random.default_rng(3), 40, 10)
    clients[17] = (clients[17][0], -4 * clients[17][1])
    assert torch.nonzero(exactly(clients).high < 0).flatten().tolist() == [17]


@pytest.mark.parametrize("harm", ["turned", "noise"])
def test_who_harms_the_others_has_a_negative_contribution(harm: str) -> None:
    rng = np.random.default_rng(1)
    clients = regression((10,) * 40)
    for m in (3, 17, 30):
        x, y = clients[m]
        clients[m] = (x, -y) if harm == "turned" else (x, 8 * torch.from_numpy(rng.standard_normal(y.shape)).float())
    found = ours(clients)
    assert set(np.argsort(found)[:3].tolist()) == {3, 17, 30}
    assert (found[[3, 17, 30]] < 0).all()
    assert np.delete(found, [3, 17, 30]).min() > 0


def test_more_rows_contribute_more() -> None:
    found = ours(regression((3,) * 20 + (12,) * 20 + (48,) * 5))
    few, some, many = found[:20].mean(), found[20:40].mean(), found[40:].mean()
    assert 0 < few < some < many


def test_clients_with_the_same_rows_are_worth_what_refits_say() -> None:
    # Each predicts the other: a second-order formula is least exact for such a pair.
    clients = regression((6,) * 20, width=10)
    twins = [*clients, clients[0]]
    found, exact = ours(twins), by_refits(twins)
    assert found[0] == pytest.approx(found[20], rel=1e-6)
    assert found == pytest.approx(exact, abs=0.1 * np.abs(exact).max())


def test_units_are_squares_of_the_targets_and_order_does_not_matter() -> None:
    clients = regression((8,) * 12)
    found = ours(clients)
    assert ours([(x, 3 * y) for x, y in clients]) == pytest.approx(9 * found, rel=1e-4)
    assert ours(clients[::-1])[::-1] == pytest.approx(found, rel=1e-6)


def test_two_clients_leave_nobody_to_predict_from() -> None:
    assert np.isnan(ours(regression((9, 9)))).all()


def test_some_of_clients_that_are_all_alike_have_a_negative_contribution() -> None:
    rng, below = np.random.default_rng(1), []
    for _ in range(30):
        below.append((ours(alike(rng, 10, 6)) < 0).mean())
    assert 0.1 < np.mean(below) < 0.3
