"""Moments and ridge heads: sums give the pooled solution, and leaving a client out needs no refit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.moments import SIZES, messages, regression
from sklearn.linear_model import Ridge

from scarcity_ray.ensemble.moments import targets, with_constant
from scarcity_ray.ensemble.ridge import STRENGTHS, all_rows, choose_strength, fit, leave_one_client_out, rows_of, unit
from scarcity_ray.training.objective import TaskKind


@pytest.mark.parametrize("strength", [1e-2, 1.0, 50.0])
def test_summed_moments_give_the_pooled_ridge_solution(strength: float) -> None:
    clients = regression()
    packing, rows, samples = messages(clients, "regression", 2)
    head = fit(packing.total(rows, samples), strength)
    pooled = Ridge(alpha=strength).fit(*(torch.cat(part).double().numpy() for part in zip(*clients, strict=True)))
    found = np.concatenate([pooled.coef_.T, pooled.intercept_[None]])
    assert np.linalg.norm(head.numpy() - found) <= 1e-5 * np.linalg.norm(found)


def test_label_skew_costs_nothing() -> None:
    # One class a client against the same rows dealt out evenly: the same head.
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(4), 12)
    x = (rng.standard_normal((48, 6)) + np.eye(4, 6)[y] * 2).astype(np.float32)
    heads = []
    for part in (y, np.arange(48) % 4, np.zeros(48, dtype=int)):
        clients = [(torch.from_numpy(x[part == i]), torch.from_numpy(y[part == i])) for i in np.unique(part)]
        packing, rows, samples = messages(clients, "classification", 4)
        heads.append(fit(packing.total(rows, samples), 0.5))
    for other in heads[1:]:
        assert torch.allclose(heads[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_packing_round_trip_and_size(task: TaskKind) -> None:
    clients = regression(outputs=3)
    if task == "classification":
        clients = [(x, y.argmax(1)) for x, y in clients]
    packing, rows, samples = messages(clients, task, 3)
    assert packing.size == 6 * 7 // 2 - 1 + 6 * 3 + (task == "regression")  # the number of rows is known
    assert rows.dtype == np.float32
    found = packing.unpack(rows, samples)
    for i, (x, y) in enumerate(clients):
        f, z = with_constant(x.double()), targets(y, task, 3)
        assert torch.allclose(found.gram[i], f.T @ f, rtol=1e-6)
        assert torch.allclose(found.cross[i], f.T @ z, rtol=1e-6, atol=1e-5)
        assert float(found.square[i]) == pytest.approx(float(z.square().sum()), rel=1e-6)
        assert int(found.samples[i]) == len(x)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("columns", [[0], [1, 3], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_the_messages_of_some_features_are_in_those_of_all(task: TaskKind, columns: list[int]) -> None:
    clients = regression(outputs=3)
    if task == "classification":
        clients = [(x, y.argmax(1)) for x, y in clients]
    packing, rows, _ = messages(clients, task, 3)
    own, found = packing.only(rows, np.array(columns))
    wanted, sent, _ = messages([(x[:, columns], y) for x, y in clients], task, 3)
    assert own == wanted
    np.testing.assert_allclose(found, sent, rtol=1e-6)


def test_moments_that_are_not_finite_are_not_summed() -> None:
    packing, rows, samples = messages(regression(), "regression", 2)
    for bad in (np.nan, np.inf):
        rows[2, 4] = bad
        with pytest.raises(ValueError, match=r"rows \[2\] are not finite"):
            packing.total(rows, samples)


def test_rows_have_the_moments_they_stand_for() -> None:
    clients = regression()
    clients[3] = (clients[3][0][:1].expand(7, -1), clients[3][1])  # seven times the same input: rank 1
    packing, rows, samples = messages(clients, "regression", 2)
    moments = packing.unpack(rows, samples)
    found = rows_of(moments)
    assert found.features.shape[1] <= 6
    assert torch.allclose(found.features.mT @ found.features, moments.gram, rtol=1e-5, atol=1e-4)
    assert torch.allclose(found.features.mT @ found.targets, moments.cross, rtol=1e-5, atol=1e-4)
    kept = found.features.square().sum(2) > 0
    assert kept.sum(1).tolist() == [1, 2, 3, 1, 6, 6]
    assert torch.allclose(found.rest + found.targets.square().sum((1, 2)), moments.square, rtol=1e-5)


@pytest.mark.parametrize("strength", [1e-3, 0.3, 20.0])
def test_leaving_a_client_out_equals_refitting_without_it(strength: float) -> None:
    clients = regression()
    packing, rows, samples = messages(clients, "regression", 2)
    found = leave_one_client_out(packing.total(rows, samples), all_rows(packing, rows, samples), strength)
    assert found is not None
    squares = 0.0
    for left in range(len(clients)):
        others = [client for i, client in enumerate(clients) if i != left]
        model = Ridge(alpha=strength).fit(*(torch.cat(part).double().numpy() for part in zip(*others, strict=True)))
        x, y = (part.double().numpy() for part in clients[left])
        squares += float(np.square(y - model.predict(x)).sum())
    assert found.loss == pytest.approx(squares / (sum(SIZES) * 2), rel=1e-5)


def test_the_strength_is_the_best_of_those_tried_and_follows_the_noise() -> None:
    strengths = []
    for noise in (0.1, 30.0):
        rng = np.random.default_rng(3)
        clients = [(x, y + noise * torch.from_numpy(rng.standard_normal(y.shape)).float()) for x, y in regression()]
        packing, rows, samples = messages(clients, "regression", 2)
        total, parts = packing.total(rows, samples), all_rows(packing, rows, samples)
        strength, left_out = choose_strength(total, parts)
        for other in STRENGTHS * unit(total):
            tried = leave_one_client_out(total, parts, float(other))
            assert tried is not None
            assert left_out.loss <= tried.loss
        strengths.append(strength)
    assert strengths[0] < strengths[1]


def test_one_client_cannot_be_left_out() -> None:
    packing, rows, samples = messages(regression((9,)), "regression", 2)
    with pytest.raises(ValueError, match="two clients"):
        choose_strength(packing.total(rows, samples), all_rows(packing, rows, samples))
