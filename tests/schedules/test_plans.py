"""Participation as a plan: one rule for rounds of weights and for rounds of insights, and the law that the lost count nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scenarios import scenario
from helpers.user_schedules import Dropout, LateHalf

from scarcity_ray import Client, Server, resume, simulate
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.runtime.observers.plots import Plots
from scarcity_ray.runtime.simulation import Interrupted
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.local import Local

DROPOUT = {"kind": "import", "path": "helpers.user_schedules:Dropout", "share": 0.3}
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "fed_avg", "fraction": 0.75, "schedule": DROPOUT},
    {"kind": "insight_exchange", "schedule": DROPOUT},
]


def lost(seed: int, round: int, ids: np.ndarray) -> np.ndarray:
    return hash64(seed, "dropout", ids, round) / 2.0**64 < 0.3


def test_dropout_is_one_rule_for_both_kinds_of_round(tmp_path: Path) -> None:
    content = scenario(strategies=STRATEGIES, rounds=6, evaluation={"every": 6})
    results = simulate(content, out=tmp_path / "run")
    rows = results.rounds.to_pandas()
    model = sum(tensor.numel() for tensor in results.tensors("fed_avg").values()) * 4
    for round in range(1, 7):
        weights = rows[(rows["strategy"] == "fed_avg") & (rows["round"] == round)].iloc[0]
        assert weights["downlink_bytes"] == 9 * model  # everybody downloads
        assert weights["uplink_bytes"] == weights["clients"] * model  # what is lost does not arrive
        insights = rows[(rows["strategy"] == "insight_exchange") & (rows["round"] == round)].iloc[0]
        here = np.arange(12)[~lost(3, round, np.arange(12))]
        assert (insights["clients"], insights["uplink_bytes"]) == (len(here), 52 * len(here))
        heard = results.table("insights", filters=[("strategy", "=", "insight_exchange"), ("round", "=", round)])
        assert heard["client_id"].to_pylist() == here.tolist()
    assert 9 > rows[rows["strategy"] == "fed_avg"]["clients"].mean() > 4
    assert 12 > rows[rows["strategy"] == "insight_exchange"]["clients"].mean() > 6


def test_the_plan_survives_packing_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = {"kind": "fed_avg", "name": "late", "schedule": {"kind": "import", "path": "helpers.user_schedules:LateHalf"}}
    content = scenario(strategies=[late, *STRATEGIES], execution={"ray": False, "checkpoint_every": 1})
    whole = simulate(content, out=tmp_path / "whole").summary["strategies"]
    packed = simulate(content | {"execution": {"ray": False, "actors": 3}}, out=tmp_path / "packed").summary["strategies"]
    seen: list[int] = []

    def interrupt(_: Plots, run: Any, round: Any) -> None:
        seen.append(round.number)
        if len(seen) in (2, 5):  # within `late`, and within fed_avg
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Plots, "on_round", interrupt)  # the last observer: the others have seen the round
        with pytest.raises(Interrupted):
            simulate(content, out=tmp_path / "cut")
        with pytest.raises(Interrupted):
            resume(tmp_path / "cut", imports=True)
    cut = resume(tmp_path / "cut", imports=True).summary["strategies"]
    for other in (packed, cut):
        assert {name: entry["result_hash"] for name, entry in other.items()} == {
            name: entry["result_hash"] for name, entry in whole.items()
        }


def made(strategy: FedAvg) -> Server:
    rng = np.random.default_rng(2)
    clients = [Client(client_id=i, data=(rng.standard_normal((n, 3)), rng.standard_normal(n))) for i, n in enumerate((4, 7, 5, 9))]
    torch.manual_seed(1)
    return Server(4, clients, model=torch.nn.Linear(3, 1), local=Local(steps=3, batch_size=20, lr=0.1), strategy=strategy)


def test_the_lost_count_nothing() -> None:
    """The new model is the mean over those that are heard, from the state before the round."""
    server = made(FedAvg(schedule=Dropout(share=0.5)))
    for round in range(1, 6):
        before = server.state
        plan_lost = hash64(0, "dropout", np.arange(4), round) / 2.0**64 < 0.5
        here = np.flatnonzero(~plan_lost)
        server.run_round()
        if not len(here):
            assert torch.equal(server.state.broadcast["x"], before.broadcast["x"])
            continue
        other = made(FedAvg())
        other.state = before
        totals = {"x": float(other.problem.samples[here].sum())}
        reports = [other.clients.workers[i].local_train(round, before, totals, ids=np.array([i])) for i in here]
        assert torch.equal(server.state.broadcast["x"], other.aggregate_models(reports).state.broadcast["x"])


def test_a_late_client_starts_from_the_model_of_the_round_before() -> None:
    server = made(FedAvg(schedule=LateHalf()))
    states = [server.state]
    for _ in range(3):
        server.run_round()
        states.append(server.state)
    for round in (1, 2, 3):
        other, reports = made(FedAvg()), []
        other.state = states[round - 1]
        for client in range(4):
            start = states[max(round - 2, 0)] if client % 2 else states[round - 1]
            steps = np.array([1 if client % 2 else 3])
            worker = other.clients.workers[client]
            reports.append(worker.local_train(round, start, {"x": 25.0}, ids=np.array([client]), steps=steps))
        assert torch.equal(states[round].broadcast["x"], other.aggregate_models(reports).state.broadcast["x"])


def test_a_plan_is_a_pure_function_of_what_the_server_holds() -> None:
    known = RoundInput(5, 2, np.arange(40), np.full(40, 3), np.full(40, 6), 10)
    schedule = Dropout(share=0.4)
    one, other = schedule.next(known), schedule.next(known)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.lost, other.lost)
    assert set(one.ids) <= set(schedule.next(RoundInput(5, 2, np.arange(40), np.full(40, 3), np.full(40, 6), 20)).ids)


def test_a_schedule_that_is_none_is_named() -> None:
    with pytest.raises(ScenarioError, match="that is no schedule: give a class that derives from"):
        parse(scenario(strategies=[{"kind": "fed_avg", "schedule": {"kind": "import", "path": "helpers.user_strategies:FedProx"}}]))
