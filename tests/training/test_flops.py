"""Operations and memory of models, against counts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scenarios import scenario
from torch import nn

from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.training.flops import activations, forward_flops
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem


def test_a_dense_layer_takes_two_operations_a_weight() -> None:
    assert forward_flops(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (7,)) == 2 * (7 * 5 + 5 * 3)


def test_a_convolution_takes_two_a_weight_and_place() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
    assert forward_flops(module, (1, 8, 8)) == 2 * (4 * 9 * 64 + 4 * 64 * 10)
    assert activations(module, (1, 8, 8)) == 64 + 4 * 64 + 4 * 64 + 10


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    forward_flops(module, (3,))
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 9])
def test_rows_of_steps_are_those_of_the_minibatches(steps: int) -> None:
    samples = np.array([1, 7, 8, 30])
    local, counted = Local(batch_size=8), []
    for n in samples.tolist():
        sizes = [min(8, n - start) for start in range(0, n, 8)]  # of one pass
        counted.append(sum((sizes * (steps + 1))[:steps]))
    assert local.rows_for(samples, np.full(4, steps)).tolist() == counted


def problem_of(strategy: dict[str, Any]) -> tuple[Strategy, Problem]:
    plan = prepare(parse(scenario(strategies=[strategy], model={"kind": "linear"})), Path())
    (made,) = plan.scenario.strategies
    return made, plan.problems[made.title]


@pytest.mark.parametrize(
    ("strategy", "passes"),
    [
        ({"kind": "fed_avg"}, 3.0),
        ({"kind": "fed_avg", "insights": True}, 5.0),
        ({"kind": "ditto"}, 6.0),
        ({"kind": "per_fed_avg"}, 6.0),
        ({"kind": "q_ffl"}, 4.0),
        ({"kind": "ifca", "experts": 4}, 7.0),
        ({"kind": "scaffold", "option": 1}, 6.0),
        ({"kind": "pfed_me", "inner_steps": 5}, 15.0),
    ],
)
def test_an_epoch_takes_these_passes_of_each_row(strategy: dict[str, Any], passes: float) -> None:
    made, problem = problem_of(strategy)
    ids = np.arange(12)
    steps = problem.local.steps_for(problem.samples)
    parameters = 64 * 10
    assert made.flops(problem, ServerState(), 1, ids, steps) == pytest.approx(passes * 2 * parameters * problem.samples)


def test_moments_cost_their_features_products_and_solve() -> None:
    made, problem = problem_of({"kind": "sf_hfe", "representation": {"kind": "identity"}})
    ids, n = np.arange(12), problem.samples.astype(float)
    rank, width = np.minimum(n, 65), 65
    expected = n * (width**2 + 2 * width * 10) + rank**2 * (2 * width + rank / 3)
    assert made.flops(problem, ServerState(), 1, ids, ids * 0) == pytest.approx(expected)
    assert made.memory(problem) == 8 * 65**2


def test_a_trial_costs_its_features_and_an_own_head_for_each_block() -> None:
    made, problem = problem_of({"kind": "sf_hfe", "representation": {"kind": "auto", "features": 72, "bandwidth": 2.0}})
    ids, n = np.arange(12), problem.samples.astype(float)
    expected = 2 * 8 * 64 * n  # eight waves of 64 inputs
    for width in (65, 9, 73, 67):
        rank = np.minimum(n, width)
        expected += 2 * (2 * rank**2 * width + rank**3 / 3) + 2 * rank * width**2 + 2 * n * width**2
    assert made.flops(problem, ServerState(), 2, ids, ids * 0) == pytest.approx(expected)
