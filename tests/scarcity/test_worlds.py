"""What worlds draw, against closed forms: laws of draws, presence, waiting times, and who is heard."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import integrate, stats

from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.core.spec import SpecError
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import SECOND, Markov, Population, Spans, Trace
from scarcity_ray.scarcity.draws import ColumnDraw, Draw, LogNormalDraw, LogNormalLaw, drawn, scaled
from scarcity_ray.scarcity.simulation import Asked, Simulation
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.world import World
from scarcity_ray.schedules import Uniform


def world(clients: int, labels: Any = None, seed: int = 1, **spec: Any) -> World:
    return World.of(Scarcity.model_validate(spec), Population(seed, clients, labels, {}))


def played(made: World, rounds: int, count: int, answer: Answer | None = None, flops: float = 1e9) -> Any:
    """The plans of some rounds, and what tables say of them."""
    n = made.clients
    simulation = Simulation(made, np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))
    asked = Asked(lambda ids, steps: np.full(len(ids), flops), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))
    for round in range(1, rounds + 1):
        known = RoundInput(made.seed, round, np.arange(n), np.ones(n, dtype=np.int64), np.ones(n, dtype=np.int64), count)
        yield simulation.plan(known, Uniform(), answer or Answer(), asked)


def test_a_log_normal_draw_has_its_median_and_spread_and_is_cut() -> None:
    law = LogNormalDraw(lognormal=LogNormalLaw(median=3.0, sigma=0.7))
    values = drawn(law, 1, "speed", 20_000, {})
    assert stats.kstest(np.log(values), "norm", (np.log(3.0), 0.7)).pvalue > 0.01
    cut = LogNormalDraw(lognormal=LogNormalLaw(median=3.0, sigma=0.7, minimum=2.0, maximum=4.0))
    assert np.array_equal(drawn(cut, 1, "speed", 20_000, {}), values.clip(2, 4))


def test_a_draw_depends_on_seed_purpose_and_client_alone() -> None:
    law = LogNormalDraw(lognormal=LogNormalLaw(median=1.0, sigma=1.0))
    few, many = drawn(law, 1, "speed", 10, {}), drawn(law, 1, "speed", 1000, {})
    assert np.array_equal(few, many[:10])
    assert not np.array_equal(few, drawn(law, 1, "link", 10, {}))
    assert not np.array_equal(few, drawn(law, 2, "speed", 10, {}))


def test_a_column_is_a_clients_own_value_or_an_error_that_names_it() -> None:
    assert drawn(ColumnDraw(column="speed"), 1, "speed", 2, {"speed": np.array([3.0, 4.0])}).tolist() == [3, 4]
    with pytest.raises(SpecError, match=r"scarcity\.compute\.speed\.column is 'sped': no such column of the table"):
        world(3, compute={"speed": {"column": "sped"}})


def order_mean(place: int, n: int, sigma: float) -> float:
    """The mean of the place-th smallest of n log-normals with median 1."""

    def value(u: float) -> float:
        return float(np.exp(sigma * stats.norm.ppf(u)) * stats.beta.pdf(u, place, n - place + 1))

    return float(integrate.quad(value, 0, 1, points=[place / (n + 1)], limit=200)[0])


@pytest.mark.parametrize(("sigma", "n", "seconds"), [(0.5, 10, 2.258), (0.5, 100, 3.590), (0.6, 10, 2.687), (1.1, 10, 6.835)])
def test_a_round_waits_for_the_slowest(sigma: float, n: int, seconds: float) -> None:
    assert order_mean(n, n, sigma) == pytest.approx(seconds, rel=1e-3)
    made = world(n, compute={"speed": 1.0, "jitter": sigma})
    times = np.diff([0, *(one.columns["clock_seconds"] for one in played(made, 1500, n))])
    assert times.mean() == pytest.approx(seconds, abs=4 * times.std() / 1500**0.5)


@pytest.mark.parametrize(("needed", "selected", "seconds"), [(10, 13, 1.375), (100, 130, 1.438)])
def test_the_first_of_those_selected_are_taken(needed: int, selected: int, seconds: float) -> None:
    # Clients that were not waited for stay busy, so each world plays one round.
    times = []
    for seed in range(800):
        made = world(selected, seed=seed, compute={"speed": 1.0, "jitter": 0.5})
        first = next(iter(played(made, 1, needed, Answer(over_selection=1.3))))
        assert (~first.plan.lost).sum() == needed
        times.append(first.columns["clock_seconds"])
    assert order_mean(needed, selected, 0.5) == pytest.approx(seconds, rel=1e-3)
    assert np.mean(times) == pytest.approx(seconds, abs=4 * np.std(times) / 800**0.5)


def shares(p: tuple[float, ...]) -> list[float]:
    """Of each client in the mean of those that are there: p_i times the integral of prod_{j != i} (1 - p_j + p_j s) over s."""

    def of(i: int) -> float:
        others = [q for j, q in enumerate(p) if j != i]
        return p[i] * float(integrate.quad(lambda s: np.prod([1 - q + q * s for q in others]), 0, 1)[0])

    found = np.array([of(i) for i in range(len(p))])
    return list(found / found.sum())


@pytest.mark.parametrize("p", [(1.0, 0.1), (0.9, 0.3), (1.0, 1.0, 0.1, 0.1)])
def test_the_mean_of_those_present_is_biased_as_the_closed_form_says(p: tuple[float, ...]) -> None:
    made = World.of(
        Scarcity.model_validate({"availability": {"kind": "bernoulli", "p": {"column": "p"}}}),
        Population(5, len(p), None, {"p": np.array(p)}),
    )
    weights, rounds = np.zeros(len(p)), 0
    for one in played(made, 2500, len(p)):
        if len(one.plan.ids):
            weights[one.plan.ids] += 1 / len(one.plan.ids)
            rounds += 1
    assert weights / rounds == pytest.approx(shares(p), abs=0.025)
    if p == (0.9, 0.3):
        assert shares(p) == pytest.approx([0.8226, 0.1774], abs=1e-4)


def test_presence_by_label_rises_with_a_clients_lowest_class() -> None:
    availability = {"kind": "bernoulli", "by_label": {"low": 0.1, "high": 0.9}}
    made = world(3, labels=np.array([0.0, 0.5, 1.0]), availability=availability)
    there = np.mean([made.presence.at(np.arange(3), 0, round) for round in range(4000)], axis=0)
    assert there == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    with pytest.raises(SpecError, match=r"scarcity\.availability\.by_label .* a regression has no classes: use p"):
        world(3, availability=availability)


def test_a_markov_chain_has_its_share_and_memory() -> None:
    made = world(400, availability={"kind": "markov", "on": 10.0, "off": 40.0})
    ids = np.arange(400)
    states = np.array([made.presence.at(ids, second * SECOND, 0) for second in range(1, 500)], dtype=float)
    assert states.mean() == pytest.approx(0.2, abs=0.015)
    together = np.corrcoef(states[:-1].ravel(), states[1:].ravel())[0, 1]
    assert together == pytest.approx(0.875, abs=0.01)  # 1 - 1/10 - 1/40
    across = np.corrcoef(states[:, 0], states[:, 1])[0, 1]
    assert abs(across) < 0.15


def test_a_chain_answers_for_any_moment_without_the_moments_before() -> None:
    made = world(50, availability={"kind": "markov", "on": 5.0, "off": 5.0})
    ids, times = np.arange(50), np.arange(50) * 7 * SECOND + 123
    assert np.array_equal(made.presence.at(ids, times, 0), [made.presence.at(ids[i : i + 1], int(times[i]), 0)[0] for i in range(50)])


def test_a_chain_does_not_depend_on_what_it_was_asked_before() -> None:
    def presence() -> Any:
        return world(50, availability={"kind": "markov", "on": 5.0, "off": 3.0, "groups": 20}).presence

    draw, asked, ids = np.random.default_rng(1), presence(), np.arange(50)
    for _ in range(15):  # back and forth, over epochs of 512 s, at a time for each
        times = draw.integers(0, 2000, 50) * SECOND
        assert np.array_equal(asked.at(ids, times, 0), presence().at(ids, times, 0))
        assert asked.next(ids[:2], int(times[0])) == presence().next(ids[:2], int(times[0]))


def test_groups_come_and_go_together() -> None:
    made = world(60, availability={"kind": "markov", "on": 5.0, "off": 5.0, "groups": 3})
    states = np.array([made.presence.at(np.arange(60), second * SECOND, 0) for second in range(200)])
    assert 2 <= len(np.unique(states.T, axis=0)) <= 3


def test_more_clients_are_there_at_the_peak_of_the_day() -> None:
    made = world(2000, availability={"kind": "diurnal", "mean": 0.5, "amplitude": 0.6})
    peak, night = (made.presence.at(np.arange(2000), int(hour * 3600 * SECOND), 0).mean() for hour in (6, 18))
    assert peak == pytest.approx(0.8, abs=0.04)
    assert night == pytest.approx(0.2, abs=0.04)  # a fourfold swing


def test_a_trace_says_when_clients_are_there() -> None:
    spans = Spans(np.array([0, 2, 2, 3]), np.array([10, 30, 5]), np.array([20, 40, 15]))
    presence = Trace(path="x").presence(Population(1, 3, None, {}, spans))
    ids = np.arange(3)
    assert presence.at(ids, 10, 0).tolist() == [True, False, True]
    assert presence.at(ids, 20, 0).tolist() == [False, False, False]
    assert presence.at(ids, np.array([35, 35, 14]), 0).tolist() == [True, False, True]
    assert presence.next(ids, 10) == 30
    assert presence.next(ids, 30) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"budget": {"joules": 3.0}}, "budget.joules needs energy"),
        ({"availability": {"kind": "diurnal", "mean": 0.9}}, "no probability"),
        ({"compute": {"speed": {"uniform": {"low": 3.0, "high": 1.0}}}}, "low is 3, above high, 1"),
    ],
)
def test_impossible_settings_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Scarcity.model_validate(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"compute": {"speed": {"choices": [0.0, 1.0]}}}, r"scarcity\.compute\.speed is 0\.0: some clients would have 0"),
        ({"availability": {"kind": "bernoulli", "p": 1.5}}, r"scarcity\.availability\.p is 1\.5: a probability is at most 1"),
    ],
)
def test_impossible_values_are_refused_with_their_place(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        world(40, **spec)


@pytest.mark.parametrize(
    "spec", [{"kind": "markov", "on": 4.0, "off": 50.0}, {"kind": "diurnal", "mean": 0.02, "slot": 3.0, "period": 50.0}]
)
def test_the_next_time_somebody_is_there_is_the_first(spec: dict[str, Any]) -> None:
    made = world(3, availability=spec)
    ids = np.arange(3)
    grid = 1 if spec["kind"] == "markov" else 3  # seconds at which presence may change
    for second in range(0, 900, 31):
        first = next(t for t in range(second + 1, 20_000) if t % grid == 0 and made.presence.at(ids, t * SECOND, 0).any())
        assert made.presence.next(ids, second * SECOND) == first * SECOND


def test_a_device_that_is_too_slow_for_the_clock_takes_years() -> None:
    world = World.of(Scarcity.model_validate({"compute": {"speed": 1e-18}}), Population(1, 2, None, {}))
    nothing = np.zeros(2, dtype=np.int64)
    assert (world.turn(1, np.arange(2), np.full(2, 1e9), nothing, nothing).total == 10**15).all()


@pytest.mark.parametrize(
    "draw",
    [
        2.0,
        {"lognormal": {"median": 3.0, "sigma": 0.7, "minimum": 2.0, "maximum": 4.0}},
        {"uniform": {"low": 1.0, "high": 5.0}},
        {"choices": [1.0, 4.0]},
        {"column": "own", "times": 2.0},
    ],
)
def test_a_scaled_draw_gives_each_client_so_many_times_its_own(draw: Any) -> None:
    law, own = TypeAdapter(Draw).validate_python(draw), {"own": np.arange(30.0)}
    np.testing.assert_allclose(drawn(scaled(law, 1.25), 1, "x", 30, own), 1.25 * drawn(law, 1, "x", 30, own), rtol=1e-14)


def test_a_chain_that_comes_from_an_object_store_is_the_same_chain() -> None:
    """Arrays that Ray hands over are read-only."""
    made = Markov(on=3.0, off=4.0).presence(Population(1, 5, None, {}))
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(sent, buffers=[bytes(buffer) for buffer in buffers])
    ids = np.arange(5)
    for second in (3, 40, 41, 900):
        assert np.array_equal(received.at(ids, second * SECOND, 1), made.at(ids, second * SECOND, 1))
