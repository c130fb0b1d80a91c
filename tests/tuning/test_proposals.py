"""Proposals, rungs and promotion: what a search asks for, without a run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.scenario.tuning import TPE, Grid, Halving, Random, Range
from scarcity_ray.tuning.halving import promoted, rungs
from scarcity_ray.tuning.proposers import proposer
from scarcity_ray.tuning.space import drawn, edges, grid


def test_tpe_avoids_what_fails() -> None:
    space, failed = {"a": Range(low=0.0, high=1.0), "b": Range(low=0.0, high=1.0)}, []
    for seed in range(4):
        source, mine = proposer(TPE(trials=48, batch=4), space, seed, "s"), []
        while batch := source.ask():
            mine += [one["a"] > 0.25 for one in batch]
            source.tell([None if one["a"] > 0.25 else one["a"] + one["b"] for one in batch])
        failed += mine[24:]
    assert np.mean(failed) < 0.6  # three quarters of random draws, and more of those near the best that did not fail


def test_whole_numbers_are_drawn_evenly() -> None:
    found = [drawn({"n": Range(low=1, high=3, integer=True)}, 1, "s", trial)["n"] for trial in range(3000)]
    assert np.bincount(found, minlength=4)[1:] == pytest.approx([1000, 1000, 1000], abs=100)


@given(st.integers(2, 5), st.integers(1, 7), st.integers(1, 60))
def test_rungs_rise_to_all_rounds(eta: int, first: int, rounds: int) -> None:
    found = rungs(Halving(eta=eta, first_rounds=first), rounds)
    assert found[-1] == rounds
    assert all(low < high <= low * eta for low, high in pairwise(found))


@given(st.lists(st.one_of(st.none(), st.integers(0, 5).map(float)), min_size=1, max_size=20), st.integers(2, 5))
def test_the_best_are_promoted(scores: list[float | None], eta: int) -> None:
    chosen = promoted(scores, eta)
    assert len(chosen) == min(-(-len(scores) // eta), sum(score is not None for score in scores))
    others = [score for place, score in enumerate(scores) if place not in chosen and score is not None]
    assert all(scores[place] >= other for place in chosen for other in others)  # type: ignore[operator]


def test_proposals_depend_on_the_seed_and_what_was_told() -> None:
    space = {"a": Range(low=1e-3, high=1.0, log=True), "b": ("x", None, 3)}
    assert [drawn(space, 1, "s", trial) for trial in range(3)] == proposer(Random(trials=3), space, 1, "s").ask()
    assert len(grid(space, 4)) == 12
    told = []
    for scores in ([1.0, 2.0, None, 0.5], [1.0, 2.0, None, 0.5], [9.0, 2.0, None, 0.5]):
        source = proposer(TPE(trials=40, batch=4), space, 1, "s")
        batches = []
        for _ in range(10):
            batches.append(source.ask())
            source.tell(scores)
        assert source.ask() == []
        told.append(batches)
    assert told[0] == told[1] != told[2]
    assert proposer(Grid(), {}, 1, "s").ask() == [{}]
    assert edges({"a": space["a"], "c": (1, 2, 5)}, {"a": 0.99, "c": 1}) == ["a high", "c low"]
