"""Clients whose data change in the course of a run, and the ensemble that follows them or does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray import simulate
from scarcity_ray.data import Data, deal
from scarcity_ray.scenario import ScenarioError, parse


def drifting(**drift: Any) -> dict[str, Any]:
    turned = {"transforms": [{"kind": "rotate", "groups": 3}], "drift": {"round": 3} | drift}
    return {"source": {"kind": "digits"}, "clients": 30, "partition": {"kind": "iid"}} | turned


@settings(max_examples=25)
@given(share=st.floats(0.01, 1.0), round=st.integers(2, 9))
def test_the_same_rows_come_under_the_next_group_for_that_share(share: float, round: int) -> None:
    before = deal(Data.model_validate(drifting(share=share, round=round)), 5, Path())
    after = before.at(round)
    assert before.at(round - 1) is before
    assert after.at(1) is after
    moved = np.flatnonzero(before.group != after.group)
    assert len(moved) == max(1, int(np.floor(share * 30 + 0.5 + 1e-9)))
    np.testing.assert_array_equal(after.group[moved], (before.group[moved] + 1) % 3)
    for part in ("train", "test"):
        old, new = getattr(before, part), getattr(after, part)
        np.testing.assert_array_equal(old.starts, new.starts)
        np.testing.assert_array_equal(old.y, new.y)
        for client in range(30):
            rows = old.rows(client)
            if client not in moved:
                np.testing.assert_array_equal(old.x[rows], new.x[rows])
                continue
            turns = {1: 1, 2: 1, 0: -2}[int(after.group[client])]  # from 0 to 1, 1 to 2, or 2 back to 0 quarter turns
            images = old.x[rows].reshape(-1, 8, 8)
            np.testing.assert_array_equal(new.x[rows].reshape(-1, 8, 8), np.rot90(images, turns, axes=(1, 2)))


def test_drift_needs_groups_to_go_to() -> None:
    plain = scenario(data=drifting() | {"transforms": []})
    with pytest.raises(ScenarioError, match="from one hidden group to the next"):
        parse(plain)


@pytest.mark.slow
def test_with_forgetting_the_ensemble_follows_and_without_it_does_not(tmp_path: Path) -> None:
    shared = {"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 64}, "experts": 3, "personal": False}
    strategies = [shared | {"name": "all", "forgetting": 1.0}, shared | {"name": "follows", "forgetting": 0.2}, {"kind": "fed_avg"}]
    results = simulate(scenario(rounds=5, data=drifting(share=0.5, round=4), strategies=strategies), out=tmp_path / "run")
    reached = results.frame("rounds").pivot(index="round", columns="strategy", values="test_accuracy")
    assert reached.loc[5, "follows"] > reached.loc[3, "follows"] - 0.04  # less what groups of unequal sizes cost after the drift
    assert reached.loc[5, "all"] < reached.loc[5, "follows"] - 0.05  # what it remembers is not what clients hold
    groups = results.frame("clients").query("strategy == 'fed_avg'").pivot(index="client_id", columns="round", values="group")
    assert (groups[3] == groups[2]).all()
    assert (groups[4] != groups[3]).sum() == 15


def test_what_has_not_changed_says_nothing_new(tmp_path: Path) -> None:
    shared = {"kind": "sf_hfe", "representation": {"kind": "identity"}, "experts": 1}
    strategies = [shared | {"name": "once"}, shared | {"name": "again", "forgetting": 0.5}]
    results = simulate(scenario(rounds=3, strategies=strategies), out=tmp_path / "run")
    np.testing.assert_allclose(results.ensemble("again").heads, results.ensemble("once").heads, atol=1e-6)
    sent = results.frame("rounds").query("strategy == 'again'")["uplink_bytes"]
    assert len(sent) == 3
    assert sent.nunique() == 1  # and costs as much each time


def test_a_trunk_is_trained_before_the_moments_go_up(tmp_path: Path) -> None:
    trunk = {"kind": "sf_hfe", "experts": 1, "representation": {"kind": "trunk", "rounds": 4}}
    untrained = trunk | {"name": "untrained", "representation": {"kind": "trunk"}}
    results = simulate(scenario(rounds=8, strategies=[trunk, untrained, {"kind": "fed_avg"}]), out=tmp_path / "run")
    rounds = results.frame("rounds").set_index(["strategy", "round"])
    weights = 12 * 4 * (64 * 12 + 12 + 12 * 10 + 10)
    for number in range(1, 5):
        assert rounds.loc[("sf_hfe", number), "uplink_bytes"] == weights
        assert rounds.loc[("sf_hfe", number), "train_loss"] == rounds.loc[("fed_avg", number), "train_loss"]  # it is fed_avg
    assert rounds.loc[("sf_hfe", 5), "uplink_bytes"] < weights
    assert ("sf_hfe", 6) not in rounds.index
    module = results.model("sf_hfe", client=2)
    saved = {name: value for name, value in module.state_dict().items() if name.startswith("representation")}
    assert len(saved) == 2  # one hidden layer
    reached = rounds["test_accuracy"]
    assert reached[("sf_hfe", 5)] > reached[("untrained", 1)]
