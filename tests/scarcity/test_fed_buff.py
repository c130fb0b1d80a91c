"""Asynchronous rounds: against a loop over a heap of events, against synchronous rounds, and within budgets."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scenarios import scenario
from hypothesis import given
from hypothesis import strategies as st
from scarcity.test_simulation import CLIENTS, Play

from scarcity_ray import Client, Server, simulate
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.versions import Versions
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scenario import ScenarioError
from scarcity_ray.strategies import FedBuff
from scarcity_ray.training.local import Local


@pytest.mark.parametrize(("concurrency", "buffer", "stalest"), [(12, 1, 10), (5, 3, 10), (4, 2, 1), (7, 12, 10)])
def test_versions_are_those_of_a_loop_over_a_heap_of_events(concurrency: int, buffer: int, stalest: int) -> None:
    play = Play({"compute": {"jitter": 0.4}, "network": {}}, 5, Answer(concurrency=concurrency, stalest=stalest, late="stale"))
    world, clock, flying, events = play.world, 0, dict[int, int](), list[tuple[int, int]]()
    everyone = np.arange(CLIENTS)
    for version in range(1, 9):
        played = play.round(version, buffer)
        oldest, heard, stale = min(version - 1, 10), {}, {}
        while len(heard) < buffer:
            idle = [i for i in range(CLIENTS) if i not in flying and i not in heard and i not in stale]
            idle.sort(key=lambda i: int(hash64(5, "cohort", i, version)))
            for client in sorted(idle[: concurrency - len(flying)]):
                turn = world.turn(version, everyone, np.full(CLIENTS, 8e8), play.asked.down, play.asked.up)
                flying[client] = version
                heapq.heappush(events, (clock + int(turn.total[client]), client))
            if not events:
                break
            clock, client = heapq.heappop(events)
            age = version - flying.pop(client)
            (heard if age <= min(stalest, oldest) else stale)[client] = age
        plan = played.plan
        assert played.columns["clock_seconds"] == clock / 1e6
        assert dict(zip(plan.ids[~plan.lost].tolist(), plan.staleness[~plan.lost].tolist(), strict=True)) == heard
        assert set(plan.ids[plan.lost].tolist()) == set(stale)
    assert play.simulation.ledger.joined.sum() > 0


@given(
    seed=st.integers(0, 10**6),
    seconds=st.one_of(st.none(), st.floats(0, 30)),
    rounds=st.one_of(st.none(), st.floats(0, 6)),
    up=st.one_of(st.none(), st.floats(0, 20_000)),
    battery=st.one_of(st.none(), st.floats(0, 40)),
    deadline=st.one_of(st.none(), st.floats(0.1, 20)),
)
def test_no_budget_is_ever_exceeded(
    seed: int, seconds: float | None, rounds: float | None, up: float | None, battery: float | None, deadline: float | None
) -> None:
    spec: dict[str, Any] = {
        "compute": {"jitter": 0.5},
        "network": {},
        "availability": {"kind": "markov", "on": 5.0, "off": 5.0},
        "dropout": {"before": 0.1, "after": 0.1},
        "energy": {"battery": battery, "idle": 0.1, "recharge": 0.2},
        "budget": {"seconds": seconds, "rounds": rounds, "uplink_bytes": up},
        "deadline": deadline,
    }
    play = Play(spec, seed, Answer(concurrency=4, stalest=3, late="stale"))
    for number in range(1, 9):
        before, played = play.simulation.ledger.clock, play.round(number, 3)
        ledger = play.simulation.ledger
        assert ledger.clock >= before
        assert deadline is None or ledger.clock <= deadline * 1e6 + 1
        for name, spent in ledger.spent(np.arange(CLIENTS)).items():
            assert (spent <= play.world.budgets[name]).all(), name
        assert (ledger.battery >= 0).all()
        assert (np.diff(played.plan.ids) > 0).all()
        assert (played.plan.staleness <= 3).all()
        if played.over:
            break


def test_with_all_clients_at_one_speed_it_is_synchronous(tmp_path: Path) -> None:
    strategies = [{"kind": "fed_avg", "weighted": False}, {"kind": "fed_buff", "concurrency": 12, "buffer": 12}]
    run = simulate(
        scenario(strategies=strategies, scarcity={"compute": {"speed": 1.0}, "network": {"downlink": 1.0, "jitter": 0.0}}),
        out=tmp_path / "run",
    )
    models = [run.tensors(name) for name in ("fed_avg", "fed_buff")]
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-5) for name in models[0])


def test_clients_of_several_versions_train_together_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scenario(rounds=8, strategies=[{"kind": "fed_buff", "concurrency": 8, "buffer": 4}], scarcity={"compute": {}, "network": {}})
    hashes, calls = [], []
    local_train = Client.local_train
    monkeypatch.setattr(Client, "local_train", lambda self, *order: calls.append(order) or local_train(self, *order))
    for together in (True, False):
        monkeypatch.setattr(FedBuff, "reads_versions", together)
        run = simulate(made, out=tmp_path / str(together))
        hashes.append(run.summary["strategies"]["fed_buff"]["result_hash"])
        if together:
            assert any(isinstance(order[1], Versions) for order in calls)
            assert len(calls) == 8
    assert len(calls) > 8 + 8
    assert hashes[0] == hashes[1]


def test_stale_moves_count_by_the_root_of_their_age() -> None:
    """Two clients, one of which takes three versions: the model of the fourth is that of the formula."""
    one = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(one.weight)
    rows = [(np.ones((1, 1)), np.array([b])) for b in (1.0, -2.0)]
    clients = [Client(client_id=i, data=rows[i]) for i in range(2)]
    server = Server(2, clients, model=one, local=Local(steps=1, batch_size=1, lr=0.1), strategy=FedBuff(concurrency=2, buffer=1))
    world = Play({"compute": {"speed": 1.0}}, 1, Answer()).world
    slow = world.__class__(**{**vars(world), **{k: v[:2] for k, v in vars(world).items() if isinstance(v, np.ndarray)}})
    object.__setattr__(slow, "flops", np.array([1e3, 1e3 / 3.5]))
    slow.presence.clients = 2
    server.set_strategy(server.strategy, server.problem, world=slow)
    x, old = 0.0, 0.0
    for version in range(1, 5):
        server.run_round(test=False)
        if version < 4:
            x += 0.1 * 2 * (1.0 - x)  # the squared error has no half
        else:
            x += 0.1 * 2 * (-2.0 - old) / (1 + 3) ** 0.5
        assert float(server.state.broadcast["x"][0]) == pytest.approx(x, rel=1e-5)


def test_without_a_clock_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"strategies\.0\.kind is 'fed_buff': fed_buff needs a clock that says who is slow"):
        simulate(scenario(strategies=[{"kind": "fed_buff"}]), out=tmp_path / "run")
