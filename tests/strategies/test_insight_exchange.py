"""Insight exchange: steps are dealt out exactly, follow what clients gain, and no weights move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.core.federation import Shards
from scarcity_ray.core.insights import make, wire_bytes
from scarcity_ray.strategies.insight_exchange import InsightExchange, allocate, appetite
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.local import Local
from scarcity_ray.training.measures import scalar_columns
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

WEIGHTS = st.lists(st.floats(0, 1e6) | st.integers(0, 20).map(float), max_size=30)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 1000), st.integers(0, 2))
def test_steps_sum_to_the_total_exactly(weights: list[float], spare: int, minimum: int) -> None:
    total = spare + minimum * len(weights) if weights else 0
    steps = allocate(total, weights, minimum)
    assert steps.sum() == total
    assert np.all(steps >= minimum)
    if weights and max(weights) > 0:
        share = np.array(weights) / max(weights)
        assert np.all(np.abs(steps - minimum - spare * share / share.sum()) < 1 + 1e-6)  # nobody is a step off its quota
        order = np.lexsort((steps, weights))
        assert np.all(np.diff(steps[order]) >= 0)  # who has the larger weight never gets less


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_steps_belong_to_clients_whatever_their_order(weights: list[float], spare: int, random: Any) -> None:
    assume(len(set(weights)) == len(weights))
    order = random.sample(range(len(weights)), len(weights))
    total = spare + len(weights) if weights else 0
    steps = allocate(total, weights)
    assert allocate(total, [weights[i] for i in order]).tolist() == [steps[i] for i in order]


def test_largest_remainders_by_hand() -> None:
    # 10 - 3 = 7 in proportion 1 : 2 : 4 of 7 is 1, 2, 4; one more step: 8 / 7 = 1.14, 2.29, 4.57, the last goes to the third.
    assert allocate(10, [1, 2, 4]).tolist() == [2, 3, 5]
    assert allocate(11, [1, 2, 4]).tolist() == [2, 3, 6]
    assert allocate(7, [0, 0, 0]).tolist() == [3, 2, 2]  # all alike: the lower index first
    assert allocate(5, [0, 3, 0], 0).tolist() == [0, 5, 0]
    assert allocate(0, []).tolist() == []


@pytest.mark.parametrize(("total", "weights", "message"), [
    (2, [1, 1, 1], "2 steps are too few for 3 clients"), (9, [1, -1], "finite and at least 0"), (9, [1, np.nan], "finite"),
    (9, [1, np.inf], "finite"),
])  # fmt: skip
def test_impossible_allocations_are_refused(total: int, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(total, weights)


def test_dealing_by_appetite_is_nearly_the_best_under_diminishing_returns() -> None:
    """Sum of a log(1 + s) over clients, by trying all ways to deal 12 steps to 3 clients."""
    gains = np.array([1.0, 2.0, 5.0])
    ways = [(i, j, 12 - i - j) for i in range(1, 11) for j in range(1, 12 - i)]
    best = max(float((gains * np.log1p(way)).sum()) for way in ways)
    taken = np.array([3, 4, 6])
    a = appetite(taken, gains * np.log1p(taken))
    assert a == pytest.approx(gains)
    dealt = float((gains * np.log1p(allocate(12, a))).sum())
    uniform = float((gains * np.log1p([4, 4, 4])).sum())
    assert best - dealt < 0.15 * (best - uniform)
    assert appetite(np.array([0, 5]), np.array([0.0, -2.0])).tolist() == [0.0, 0.0]


def problem_of(counts: list[int], **local: Any) -> tuple[Problem, Shards]:
    rng = np.random.default_rng(0)
    rows = sum(counts)
    shards = Shards(rng.standard_normal((rows, 3)).astype(np.float32), rng.integers(0, 3, rows), np.cumsum([0, *counts]))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 3))
    settings_ = Local(**{"lr": 0.2, "batch_size": 2, "epochs": 2, **local})
    return make_problem(module, local=settings_, task="classification", outputs=3, shape=(3,), samples=shards.counts, seed=4), shards


def insights_of(round: int, steps: Any, gains: dict[int, float], seconds: float = 0.1) -> Any:
    ids = np.array(list(gains))
    numbers = {
        "client_id": ids, "expert_id": 0, "num_samples": 4, "steps": np.asarray(steps)[ids], "lr": 0.2, "epochs": 1.0, "mean_grad": 1.0,
        "std_grad": 0.0, "uncertainty": 0.5, "loss_before": 2.0, "loss_after": 2.0 - np.array(list(gains.values())),
        "train_seconds": seconds,
    }  # fmt: skip
    return make("r", round, numbers)


def test_steps_follow_each_clients_own_history_under_a_fixed_total() -> None:
    problem, _ = problem_of([4, 4, 4, 4])
    meta = MetaLearner(InsightExchange(window=2), problem, "r")
    strategy = InsightExchange(window=2)
    first = strategy.init_server(problem)
    assert first.each["steps"].tolist() == [4, 4, 4, 4]
    assert first.new_bytes == 4
    update = meta.aggregate(insights_of(1, [4, 4, 4, 4], {0: 1.0, 1: 0.5, 2: 0.5, 3: -1.0}), 1)
    # 16 - 4 = 12 in proportion 2 : 1 : 1 : 0.
    assert update.state.each["steps"].tolist() == [7, 4, 4, 1]
    assert update.summary["steps"] == {"fewest": 1, "most": 7, "total": 16}
    # Client 2 is not heard of in round 2 (its insight of round 1 counts); then only rounds 2 and 3 do, and it is dealt its own 4.
    meta.aggregate(insights_of(2, [7, 4, 4, 1], {0: 0.0, 1: 0.0, 3: 1.0}), 2)
    update = meta.aggregate(insights_of(3, [7, 4, 4, 1], {0: 0.0, 1: 0.0, 3: 1.0}), 3)
    assert update.state.each["steps"].tolist() == [1, 1, 4, 10]
    assert update.state.each["steps"].sum() == 16


def test_steps_do_not_depend_on_wall_clock_or_on_other_data() -> None:
    problem, _ = problem_of([4, 4, 4])
    gains = {0: 1.0, 1: 0.3, 2: 0.2}
    steps = [
        MetaLearner(InsightExchange(), problem, "r").aggregate(insights_of(1, [4, 4, 4], gains, seconds), 1).state.each["steps"].tolist()
        for seconds in (0.0, 1e6)
    ]
    assert steps[0] == steps[1]


def test_uniform_steps_for_comparison_and_where_nobody_gains() -> None:
    problem, _ = problem_of([2, 6, 4])
    own = [2, 6, 4]
    gains = {0: 1.0, 1: 0.0, 2: 0.0}
    assert (
        MetaLearner(InsightExchange(guide=False), problem, "r").aggregate(insights_of(1, own, gains), 1).state.each["steps"].tolist() == own
    )
    nobody = MetaLearner(InsightExchange(), problem, "r").aggregate(insights_of(1, own, dict.fromkeys(range(3), -1.0)), 1)
    assert nobody.state.each["steps"].tolist() == [4, 4, 4]


def test_a_guided_round_trains_each_clients_own_model_and_sends_the_scalar_part_alone() -> None:
    problem, shards = problem_of([2, 6, 4])
    strategy = InsightExchange()
    assert dict(strategy.payload(problem, 1)) == {}
    assert wire_bytes(strategy.payload(problem, 1)) == 52
    meta = MetaLearner(strategy, problem, "r")
    models = strategy.init_client(problem)["row"].expand(3, -1).clone()
    state = strategy.init_server(problem)
    for round in (1, 2):
        steps = strategy.planned_steps(problem, state)
        batches = []
        for chunk in chunks(problem, shards, np.arange(3), steps):
            task = Task(problem, shards, chunk, round, steps[chunk], norms=True)
            mine = {"row": models[chunk]}
            result = strategy.client_update(task, state.received(chunk), mine)
            assert result.payload == {}
            batches.append(make("r", round, scalar_columns(task, mine["row"], result.state["row"], 0.0)))
            models[chunk] = result.state["row"]
        taken = {row["client_id"]: row["steps"] for batch in batches for row in batch.to_pylist()}
        assert [taken[i] for i in range(3)] == steps.tolist()
        for batch in batches:
            assert np.all(batch["loss_improvement"].to_numpy() > 0)
        table = [row for batch in batches for row in batch.to_pylist()]
        update = meta.aggregate(table, round)
        assert update.summary["rejected"] == 0
        state = update.state
        assert state.each["steps"].sum() == 12
    alone = Task(problem, shards, np.array([1]), 1, np.array([6]))
    found = strategy.client_update(alone, state.received(alone.ids), {"row": problem.row[None]}).state["row"]
    assert torch.equal(found, alone.local_sgd(problem.row[None]))
