"""Gradient exchange: its basis against the dense matrix, and its rounds against NumPy and FedAvg."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.insight_rounds import COUNTS, LOCAL, by_hand, classes, insight_server, mlp, sent
from helpers.played import federation, server, shards
from helpers.scenarios import scenario
from torch import nn

from scarcity_ray import simulate
from scarcity_ray.strategies import FedAvg, GradientExchange
from scarcity_ray.strategies.gradient_exchange import basis
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.task import Task


def dense(layout: Layout, dimensions: int, round: int) -> np.ndarray:
    """The basis as a matrix, `[P, dimensions]`."""
    found = basis(layout, dimensions, 7, round)
    matrix = np.zeros((layout.width, dimensions))
    matrix[np.arange(layout.width), found.bucket] = found.sign
    return matrix


@pytest.mark.parametrize("dimensions", [1, 7, 30, 92])
def test_the_basis_is_a_signed_partition_of_the_true_parameters(dimensions: int) -> None:
    layout = Layout(mlp())  # 92 parameters, in a wider row
    matrix = dense(layout, dimensions, 3)
    there = layout.mask("0.weight", "0.bias", "2.weight", "2.bias").numpy()
    assert np.array_equal(np.abs(matrix).sum(1), there.astype(float))
    gram = matrix.T @ matrix
    assert np.array_equal(gram, np.diag(np.diag(gram)))
    assert set(np.diag(gram)) <= {92 // dimensions, -(-92 // dimensions)}
    other = dense(layout, dimensions, 4)
    assert not np.array_equal(matrix.sum(1), other.sum(1))  # signs
    assert dimensions == 1 or not np.array_equal(np.abs(matrix), np.abs(other))  # buckets


def test_projections_are_products_with_the_basis() -> None:
    layout = Layout(mlp())
    rng, matrix, found = np.random.default_rng(0), dense(layout, 30, 1), basis(layout, 30, 7, 1)
    g = rng.standard_normal(layout.width).astype(np.float32)
    m = rng.standard_normal(30).astype(np.float32)
    assert found.coordinates(torch.from_numpy(g)) == pytest.approx(matrix.T @ g.astype(np.float64), rel=1e-6)
    assert np.array_equal(found.row(m), (matrix @ m).astype(np.float32))


def test_a_change_seen_and_brought_back_is_right_on_average() -> None:
    """E[B B^T g] = g; in a bucket of size s the other s - 1 add noise, each of its own square."""
    layout, rounds = Layout(mlp()), 4000
    there = layout.mask(*(part.name for part in layout.slices)).numpy()
    g = np.where(there, np.random.default_rng(1).standard_normal(layout.width), 0).astype(np.float32)
    seen = np.stack([found.row(found.coordinates(torch.from_numpy(g))) for found in (basis(layout, 23, 7, r) for r in range(rounds))])
    others = 3 / 91 * ((g.astype(np.float64) ** 2).sum() - g[there].astype(np.float64) ** 2)
    error = (seen.mean(0) - g)[there] / np.sqrt(others / rounds)
    assert np.abs(error).max() < 4.5
    assert np.square(error).mean() == pytest.approx(1, abs=0.5)


def test_a_round_is_one_step_along_the_mean_of_the_projected_changes() -> None:
    held, strategy = classes(), GradientExchange(dimensions=11, step=0.5)
    made = insight_server(strategy, held, mlp())
    problem = made.problem
    for round in (1, 2):
        x = made.state.broadcast["x"].double().numpy()
        matrix = np.zeros((len(x), 11))
        found = basis(problem.layout, 11, problem.seed, round)
        matrix[np.arange(len(x)), found.bucket] = found.sign
        alone = [Task(problem, held.train, np.array([i]), round).local_sgd(made.state.broadcast["x"][None]) for i in range(5)]
        wanted = np.stack([matrix.T @ (x - y[0].double().numpy()) for y in alone])
        result = made.run_insight_round()
        assert sent(result, "gradient") == pytest.approx(wanted, abs=1e-6)
        step = matrix @ (wanted * np.array(COUNTS)[:, None] / sum(COUNTS)).sum(0)
        assert made.state.broadcast["x"] == pytest.approx(x - 0.5 * step, abs=1e-6)
        assert not result.done
    assert made.traffic.uplink.tolist() == [2 * (52 + 44)] * 5
    assert made.traffic.downlink.tolist() == [8 + 44] * 5  # the seed, and the first round's mean


def test_with_a_dimension_for_each_parameter_it_is_fed_avg() -> None:
    held, module = classes(), mlp()
    made, other = insight_server(GradientExchange(dimensions=5000), held, module), server(FedAvg(), held, module, LOCAL)
    for _ in range(3):
        made.run_insight_round()
        other.run_round()
    assert made.strategy.payload(made.problem, 1) == {"gradient": 92}
    assert made.state.broadcast["x"] == pytest.approx(other.state.broadcast["x"].numpy(), abs=1e-5)


def test_clients_keep_nothing_and_any_company_gives_the_same_bits() -> None:
    models = []
    for company in (1, 2, 99):
        made = insight_server(GradientExchange(dimensions=16), classes(), mlp(), company)
        for _ in range(3):
            made.run_insight_round()
        models.append(made.state.broadcast["x"])
        assert made.strategy.init_client(made.problem) == {}
    assert np.array_equal(models[0], models[1])
    assert np.array_equal(models[0], models[2])


def test_where_nobody_is_heard_the_model_stays() -> None:
    strategy = GradientExchange(dimensions=10)
    update, before = by_hand(strategy, classes([9, 9]), mlp(), lambda rows: rows * np.nan)
    assert update.summary["insights"] == 0
    assert torch.equal(update.state.broadcast["x"], before.broadcast["x"])


def test_a_regression_is_learned_in_few_dimensions() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 9))
    y = (x @ rng.standard_normal((9, 1)) + 1).astype(np.float32)
    torch.manual_seed(0)
    made = insight_server(GradientExchange(dimensions=4, step=0.5), federation(shards(x, y, [20, 20, 20])), nn.Linear(9, 1))
    losses = [made.run_insight_round().row["test_loss"] for _ in range(40)]
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.slow
def test_a_tenth_of_the_bytes_learns_digits_as_fed_avg_does(tmp_path: Any) -> None:
    changes = {"rounds": 20, "strategies": [{"kind": "fed_avg"}, {"kind": "gradient_exchange", "dimensions": 64}]}
    results = simulate(scenario(**changes), out=tmp_path / "run")
    rounds = results.frame("rounds")
    last = rounds[rounds["round"] == 20].set_index("strategy")
    assert last.test_accuracy["gradient_exchange"] > last.test_accuracy["fed_avg"] - 0.05
    traffic = rounds.groupby("strategy")[["uplink_bytes", "downlink_bytes"]].sum()
    assert traffic.uplink_bytes["gradient_exchange"] == 12 * 20 * (52 + 4 * 64)
    assert traffic.downlink_bytes["gradient_exchange"] == 12 * (8 + 19 * 4 * 64)
    assert len(results.insights["gradient"].drop_null()) == 12 * 20
