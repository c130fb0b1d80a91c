"""The simulated clock against an event-by-event simulator, and its laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scarcity.naive import Device, Naive

from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import Population
from scarcity_ray.scarcity.ledger import REASONS
from scarcity_ray.scarcity.played import Asked, Played
from scarcity_ray.scarcity.simulation import Simulation
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.synchronous import fitted
from scarcity_ray.scarcity.world import World
from scarcity_ray.schedules import Uniform

CLIENTS = 12
STEPS = np.full(CLIENTS, 4)


class Play:
    """A simulation of some rounds, in which bytes are counted as the Server does."""

    def __init__(self, spec: dict[str, Any], seed: int, answer: Answer, down: int = 4000, up: int = 3000, flops: float = 2e8) -> None:
        self.world = World.of(Scarcity.model_validate(spec), Population(seed, CLIENTS, None, {}))
        self.uplink, self.downlink = np.zeros(CLIENTS, dtype=np.int64), np.zeros(CLIENTS, dtype=np.int64)
        self.simulation, self.answer = Simulation(self.world, self.uplink, self.downlink), answer
        self.asked = Asked(lambda ids, steps: flops * steps.astype(float), np.full(CLIENTS, down), np.full(CLIENTS, up))
        self.oldest = 0

    def round(self, number: int, count: int) -> Played:
        known = RoundInput(self.world.seed, number, np.arange(CLIENTS), np.full(CLIENTS, 40), STEPS, count, self.oldest)
        played = self.simulation.plan(known, Uniform(), self.answer, self.asked)
        plan = played.plan
        now = np.ones(len(plan.ids), dtype=bool) if plan.counted is None else ~plan.counted
        self.downlink[plan.ids[now]] += self.asked.down[plan.ids[now]]
        self.uplink[plan.ids[now & ~plan.lost]] += self.asked.up[plan.ids[now & ~plan.lost]]
        assert plan.wasted_up is not None
        self.uplink[plan.ids] += plan.wasted_up
        self.oldest = min(self.oldest + 1, 10)
        return played


def a_world(rng: np.random.Generator) -> tuple[dict[str, Any], Answer, int]:
    """Settings of some world, a strategy's answer, and how many clients a round wants."""
    spec: dict[str, Any] = {}
    if rng.random() < 0.8:
        spec["compute"] = {"jitter": float(rng.choice([0.0, 0.5]))}
    if rng.random() < 0.8:
        spec["network"] = {"latency": float(rng.choice([0.0, 0.1])), "jitter": float(rng.choice([0.0, 0.36]))}
    spec["availability"] = [
        {"kind": "always"},
        {"kind": "bernoulli", "p": 0.5},
        {"kind": "markov", "on": 3.0, "off": 4.0},
        {"kind": "markov", "on": 3.0, "off": 9.0, "groups": 3},
        {"kind": "diurnal", "mean": 0.4, "period": 100.0, "slot": 5.0},
    ][rng.integers(5)]
    if rng.random() < 0.5:
        spec["dropout"] = {"before": 0.1, "after": 0.2}
    if rng.random() < 0.5:
        spec["energy"] = {"idle": float(rng.choice([0.0, 0.01])), "per_byte": 1e-6}
        if rng.random() < 0.5:
            spec["energy"] |= {"battery": {"uniform": {"low": 5.0, "high": 30.0}}}
    if rng.random() < 0.5:
        spec["budget"] = {"rounds": 3.0, "uplink_bytes": 8000.0, "seconds": {"uniform": {"low": 2.0, "high": 20.0}}}
        if "energy" in spec:
            spec["budget"]["joules"] = 12.0
    deadline = float(rng.choice([0.5, 2.0])) if rng.random() < 0.5 else None
    answer = Answer(float(rng.choice([1.0, 1.3, 2.0])), float(rng.choice([0.0, 3.0])), deadline, "drop", float(rng.choice([0.0, 0.6])))
    return spec, answer, int(rng.integers(1, 8))


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 200))])
def test_it_agrees_with_an_event_by_event_simulator_to_the_microsecond(seed: int) -> None:
    spec, answer, count = a_world(np.random.default_rng(seed))
    mine = Play(spec, seed, answer)
    world = mine.world
    naive = Naive(world, [Device(i, world, 8e8, 4000, 3000, float(world.battery[i])) for i in range(CLIENTS)])
    for number in range(1, 8):
        played, goes_on = mine.round(number, count), naive.round(number, count, answer)
        row, plan = naive.log[-1], played.plan
        assert played.columns["clock_seconds"] == row["clock"] / 1e6
        assert {name: played.columns[name] for name in ("available", "selected", "late", "dropped")} == {
            name: row[name] for name in ("available", "selected", "late", "dropped")
        }
        assert plan.ids[~plan.lost].tolist() == row["heard"]
        assert played.over == (not goes_on)
        if played.over:
            break
    ledger = mine.simulation.ledger
    assert ledger.joined.tolist() == [d.heard for d in naive.devices]
    assert ledger.busy.tolist() == [d.busy_us for d in naive.devices]
    assert mine.uplink.tolist() == [d.sent for d in naive.devices]
    assert [REASONS[code] for code in ledger.excluded.tolist()] == [d.out for d in naive.devices]
    assert ledger.joules == pytest.approx([d.joules for d in naive.devices], rel=1e-12)
    assert ledger.battery == pytest.approx([d.battery for d in naive.devices], rel=1e-12)


limits = st.one_of(st.none(), st.floats(0, 50))


@given(
    seed=st.integers(0, 10**6),
    joules=limits,
    seconds=limits,
    rounds=limits,
    up=st.one_of(st.none(), st.floats(0, 20_000)),
    down=st.one_of(st.none(), st.floats(0, 20_000)),
    idle=st.floats(0, 3),
    recharge=st.floats(0, 3),
    battery=st.one_of(st.none(), st.floats(0, 40)),
    late=st.sampled_from(["drop", "partial", "stale"]),
    deadline=st.one_of(st.none(), st.floats(0.01, 5)),
)
def test_no_budget_is_ever_exceeded_and_what_is_spent_is_what_rounds_say(
    seed: int,
    joules: float | None,
    seconds: float | None,
    rounds: float | None,
    up: float | None,
    down: float | None,
    idle: float,
    recharge: float,
    battery: float | None,
    late: Any,
    deadline: float | None,
) -> None:
    budget = {"joules": joules, "seconds": seconds, "rounds": rounds, "uplink_bytes": up, "downlink_bytes": down}
    spec = {
        "compute": {"jitter": 0.5},
        "network": {},
        "availability": {"kind": "markov", "on": 5.0, "off": 5.0},
        "dropout": {"before": 0.1, "after": 0.1},
        "energy": {"idle": idle, "recharge": recharge, "battery": battery},
        "budget": budget,
    }
    play = Play(spec, seed, Answer(1.5, 0.0, deadline, late, 0.3, 10))
    total = selected = 0.0
    for number in range(1, 9):
        before = play.simulation.ledger.clock
        played = play.round(number, 4)
        total, selected = total + play.simulation.joules(), selected + played.columns["selected"]
        ledger = play.simulation.ledger
        assert ledger.clock >= before
        everyone = np.arange(CLIENTS)
        for name, spent in ledger.spent(everyone).items():
            assert (spent <= play.world.budgets[name]).all(), name
        assert (ledger.battery >= 0).all()
        assert (ledger.battery <= play.world.battery).all()
        plan = played.plan
        assert (np.diff(plan.ids) > 0).all()
        if played.over:
            break
    assert ledger.joules.sum() == pytest.approx(total)
    assert ledger.turns.sum() == selected
    assert (ledger.joined <= ledger.turns).all()


def test_a_checkpoint_continues_to_the_same_rounds() -> None:
    spec, answer, count = a_world(np.random.default_rng(3))
    whole, cut = Play(spec, 3, answer), Play(spec, 3, answer)
    rows = [(whole.round(number, count).columns, whole.simulation.joules()) for number in range(1, 8)]
    for number in range(1, 4):
        cut.round(number, count)
        cut.simulation.joules()
    again = Play(spec, 3, answer)
    again.simulation.load_state_dict(cut.simulation.state_dict())
    again.uplink[:], again.downlink[:], again.oldest = cut.uplink, cut.downlink, cut.oldest
    assert [(again.round(number, count).columns, again.simulation.joules()) for number in range(4, 8)] == rows[3:]


def test_late_clients_do_fewer_steps_or_come_rounds_later() -> None:
    spec = {"compute": {"speed": {"choices": [1.0, 0.25]}}}
    partial = Play(spec, 1, Answer(deadline=1.0, late="partial")).round(1, CLIENTS).plan
    slow = World.of(Scarcity.model_validate(spec), Population(1, CLIENTS, None, {})).flops < 1e9
    assert partial.steps.tolist() == np.where(slow, 1, 4).tolist()  # a step takes 0.2 s, or 0.8
    assert not partial.lost.any()
    play = Play(spec, 1, Answer(deadline=1.0, late="stale", stalest=10))
    first = play.round(1, CLIENTS).plan
    assert np.array_equal(first.lost, slow)
    ages = {}
    for number in range(2, 6):
        plan = play.round(number, CLIENTS).plan
        assert plan.counted is not None or not plan.staleness.any()
        ages |= {int(i): int(age) for i, age in zip(plan.ids, plan.staleness, strict=True) if age}
    assert ages == {int(i): 3 for i in np.flatnonzero(slow)}  # 3.2 s, in the round that ends at 4 s


def test_messages_that_are_sent_once_are_collected_as_clients_come() -> None:
    spec = {"compute": {}, "availability": {"kind": "markov", "on": 30.0, "off": 300.0}, "dropout": {"after": 0.3}}
    play, heard = Play(spec, 2, Answer(collects=0.25)), []
    for number in range(1, 30):
        before = play.simulation.ledger.clock
        played = play.round(number, CLIENTS)
        here = played.plan.ids[~played.plan.lost].tolist()
        left = set(range(CLIENTS)) - set(heard)
        assert set(here) <= left
        heard += here
        assert len(here) >= 3 or set(played.plan.ids.tolist()) == left  # a quarter of twelve, or all that were left
        assert played.columns["clock_seconds"] * 1e6 >= before
        if not played.plan.more:
            break
    assert sorted(heard) == list(range(CLIENTS))
    assert number > 2
    assert play.simulation.ledger.clock > 60e6  # most were away at first
    assert play.simulation.ledger.joined.tolist() == [1] * CLIENTS


def test_partial_work_leaves_time_for_what_is_no_step() -> None:
    play = Play({"compute": {"speed": 1.0}}, 1, Answer(deadline=1.0, late="partial"))
    ids, steps = np.arange(CLIENTS), np.full(CLIENTS, 10)
    asked = Asked(lambda ids, steps: 0.5e9 + 0.2e9 * steps, np.zeros(CLIENTS, dtype=np.int64), np.zeros(CLIENTS, dtype=np.int64))
    fewer, turn = fitted(play.simulation, 1, ids, steps, Answer(deadline=1.0, late="partial"), asked)
    assert (fewer == 2).all()
    assert (turn.total == 900_000).all()
