"""Selection of clients: each rule against its definition, and what a run with one keeps and counts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.interrupted import interrupt_after
from helpers.scenarios import scenario
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray import resume, simulate
from scarcity_ray.actors.report import Report
from scarcity_ray.actors.selecting import Selector
from scarcity_ray.core import insights
from scarcity_ray.core.schedule import Ids, RoundInput
from scarcity_ray.core.selection import SELECTIONS, Candidates, Costs, Heard, Selection, State
from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.scenario.diagnostics import SpecErrors
from scarcity_ray.schedules.uniform import sample
from scarcity_ray.selection.draws import drawn_by
from scarcity_ray.selection.energy import Energy
from scarcity_ray.selection.fast import Fast
from scarcity_ray.selection.insight import Insight
from scarcity_ray.selection.oort import Oort
from scarcity_ray.selection.power_of_choice import PowerOfChoice
from scarcity_ray.strategies.fed_avg import FedAvg

N = 12


def offered(seed: int = 0, round: int = 1, count: int = 4, n: int = N, free: bool = False) -> Candidates:
    """Some candidates whose turns cost different seconds and joules, or nothing."""
    draw = np.random.default_rng(seed)
    costs = Costs.free(n) if free else Costs(*draw.lognormal(0, 0.7, (4, n)), draw.uniform(20, 60, n))
    rows = draw.integers(1, 50, n)
    return Candidates(seed, round, np.arange(n) * 3, count, rows, rows.astype(float), draw.integers(2, 9, n), costs)


@pytest.mark.parametrize("rule", [Fast(), Energy(), Insight(floor=1000)])
def test_where_all_are_alike_it_is_the_uniform_draw(rule: Selection) -> None:
    given = offered(free=True)
    given = Candidates(given.seed, 1, given.ids, 4, np.full(N, 9), np.ones(N), np.full(N, 5), given.costs)
    places, steps = rule.select(rule.start(60), given)
    assert np.sort(given.ids[places]).tolist() == sample(given.seed, 1, given.ids, 4).tolist()
    assert (steps == 5).all()


def test_fast_takes_the_shortest_turns() -> None:
    given = offered()
    seconds = [s + k * each for s, k, each in zip(given.costs.seconds, given.steps, given.costs.step_seconds, strict=True)]
    places, steps = Fast().select({}, given)
    assert sorted(places.tolist()) == sorted(sorted(range(N), key=seconds.__getitem__)[:4])
    assert steps.tolist() == given.steps[places].tolist()


def test_energy_takes_who_can_pay_for_most_turns_and_mains_first() -> None:
    given = offered()
    given.costs.joules_left[[2, 5]] = np.inf
    joules = given.costs.joules + given.steps * given.costs.step_joules
    rest = [i for i in np.argsort(-given.costs.joules_left / joules).tolist() if i not in (2, 5)]
    assert set(Energy().select({}, given)[0].tolist()) == {2, 5, *rest[:2]}


def test_draws_without_replacement_have_the_chances_of_one_draw_after_the_other() -> None:
    chances, times = np.array([1.0, 2.0, 0.0, 5.0]), 5_000
    found = np.zeros((4, 4))
    for round in range(times):
        first, second = drawn_by(offered(round=round, n=4), chances, 2, "test")
        found[first, second] += 1
    wanted = np.array([[0.0 if i == j else a * b / (8 - a) / 8 for j, b in enumerate(chances)] for i, a in enumerate(chances)])
    assert np.abs(found / times - wanted).max() < 4 * np.sqrt(0.25 / times)


def test_power_of_choice_takes_the_highest_losses_of_those_drawn_and_unknown_clients_first() -> None:
    rule, given = PowerOfChoice(candidates=6), offered()
    state = rule.learned(rule.start(60), Heard(1, given.ids[3:], given.rows[3:], np.arange(9.0), np.arange(9.0)))
    drawn = drawn_by(given, given.rows.astype(float), 6, "power of choice").tolist()
    loss = {place: np.inf if place < 3 else place for place in drawn}
    assert sorted(rule.select(state, given)[0].tolist()) == sorted(sorted(drawn, key=loss.__getitem__)[-4:])
    assert PowerOfChoice(candidates=N).select(state, given)[0].tolist()[:3] != []
    everybody = set(PowerOfChoice(candidates=N).select(state, given)[0].tolist())
    assert everybody == {0, 1, 2, 11}
    silent = rule.learned(state, Heard(2, given.ids[:1], given.rows[:1], np.full(1, np.nan), np.full(1, np.nan)))
    assert np.isinf(silent["loss"][0])


def oort_utility(known: dict[int, tuple[float, int, float]], round: int, percentile: float, penalty: float) -> dict[int, float]:
    """By the words of the paper and its code. known: by place, n sqrt(mean l^2), the round last heard, and seconds."""
    clip = float(np.quantile([u for u, _, _ in known.values()], 0.95))
    cut = {i: min(u, clip) for i, (u, _, _) in known.items()}
    low, high = min(cut.values()), max(cut.values())
    preferred = float(np.quantile([t for _, _, t in known.values()], percentile / 100))
    found = {}
    for i, (_, last, seconds) in known.items():
        utility = (cut[i] - low) / (high - low) + np.sqrt(0.1 * np.log(round) / last)
        found[i] = utility * (preferred / seconds) ** penalty if seconds > preferred else utility
    return found


def test_oort_exploits_by_the_papers_utility_and_explores_the_fast() -> None:
    rule, given = Oort(exploration=0.25), offered(round=9)
    state = rule.start(60)
    for round, some in ((3, slice(0, 5)), (7, slice(4, 8))):
        loss = np.linspace(1, 2, len(given.ids[some]))
        state = rule.learned(state, Heard(round, given.ids[some], given.rows[some], loss, loss + 0.5))
    norms = dict(enumerate([*np.linspace(1, 2, 5)[:4] + 0.5, *np.linspace(1, 2, 4) + 0.5]))
    known = {i: (float(given.rows[i] * norms[i]), 3 if i < 4 else 7, float(given.seconds[i])) for i in range(8)}
    utility = oort_utility(known, 9, 30.0, 2.0)
    least = sorted(utility.values())[-3]
    chances = np.array([utility.get(i, 0.0) if utility.get(i, 0.0) >= 0.95 * least else 0.0 for i in range(N)])
    fresh = np.array([0.0 if i < 8 else 1 / given.seconds[i] for i in range(N)])
    wanted = [*drawn_by(given, chances, 3, "oort exploits"), *drawn_by(given, fresh, 1, "oort explores")]
    assert rule.select(state, given)[0].tolist() == wanted


def test_oort_explores_less_from_round_to_round_and_its_pacer_waits_longer_where_utility_falls() -> None:
    rule, given = Oort(pacer_rounds=2, pacer_step=5), offered(count=10, n=40)
    some = given.ids[:20]
    state = rule.learned(rule.start(200), Heard(1, some, given.rows[:20], np.ones(20), np.ones(20)))
    fresh = [int((rule.select(state, offered(round=round, count=10, n=40))[0] >= 20).sum()) for round in (1, 30, 60, 300)]
    assert fresh == [9, 5, 3, 2]
    percentiles = []
    for round, loss in ((2, 4.0), (3, 1.0), (4, 1.0), (5, 5.0), (6, 5.0)):
        state = rule.learned(state, Heard(round, some, given.rows[:20], np.full(20, loss), np.full(20, loss)))
        percentiles.append(float(state["percentile"][0]))
    assert percentiles == [30, 30, 35, 35, 35]  # 1 + 4 > 1 + 1, then 1 + 1 < 5 + 5


@pytest.mark.parametrize("rule", [Oort(exploration=0.0), PowerOfChoice(candidates=N)])
def test_a_loss_without_end_selects_nobody(rule: Selection) -> None:
    ids, rows, steps = np.arange(N), np.full(N, 9), np.ones(N, dtype=np.int64)
    selector = Selector(rule, FedAvg(), N, None)
    for round, said in enumerate((np.arange(N, dtype=np.float64), np.where(ids == 2, np.inf, ids)), 1):
        selector.learn(round, Report(ids, said, said, steps, steps, {}), np.ones(N, dtype=np.bool_), rows)
    chosen = selector.select(RoundInput(0, 3, ids, rows, steps, 1), Costs.free(N)).clients.tolist()
    assert chosen in ([11], [10])  # the highest loss, or about as high a utility


def batch(ids: list[int], improvement: list[float], uncertainty: list[float]) -> pa.RecordBatch:
    nothing = np.zeros(len(ids))
    columns: dict[str, Any] = {name: nothing for name in insights.SCHEMA.names if name not in ("run", "round", "loss_improvement")}
    columns |= {name: nothing.astype(int) for name in ("expert_id", "steps")}
    columns |= {"client_id": np.array(ids), "num_samples": np.ones(len(ids), int)}
    columns |= {"uncertainty": np.array(uncertainty), "loss_before": np.array(improvement), "loss_after": nothing}
    return insights.make("", 5, columns)


def test_insight_follows_gains_as_a_kalman_filter_does() -> None:
    rule = Insight(drift=0.1, noise=0.5, bonus=0.0, floor=1000)
    ids, rows, nothing = np.array([1, 4]), np.ones(2, int), np.zeros(2)
    state = rule.learned(rule.start(6), Heard(5, ids, rows, nothing, nothing, batch([1, 4], [3.0, 1.0], [0.2, 0.6])))
    # Relative gains 1.5 and 0.5 (their level is 4 / 2), noise 0.25 and 0.75, prior mean and variance 1.
    for place, observed, noise in ((1, 1.5, 0.25), (4, 0.5, 0.75)):
        precision = 1 + 1 / noise
        assert state["mean"][place] == pytest.approx((1 + observed / noise) / precision)
        assert state["variance"][place] == pytest.approx(1 / precision)
    later = rule.learned(state, Heard(8, ids[:1], rows[:1], nothing[:1], nothing[:1], batch([1], [7.0], [0.2])))
    variance = min(state["variance"][1] + 0.3, 1.0)  # three rounds of drift; alone in the round, it has the gain expected of it
    assert later["mean"][1] == pytest.approx(state["mean"][1])
    assert later["variance"][1] == pytest.approx(1 / (1 / variance + 1 / 0.5))
    assert later["heard"].tolist() == [0, 8, 0, 0, 5, 0]


def test_no_insight_moves_gains_beyond_those_of_its_round() -> None:
    nothing, ids = np.zeros(4), np.array([0, 3, 6, 9])
    rule, rows = Insight(drift=0.0), np.ones(4, int)
    state = rule.start(60)
    for round, (improvement, unsure) in enumerate([
        ([1.2e30, -1.2e30, 0.3, 0.2], [0.5] * 4),  # they add up to next to nothing
        ([1e-38, -1e30, 0.0, 0.0], [0.0, 0.5, 0.5, 0.5]),
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.5, 0.5, 0.5]),  # who was certain before is certain again
    ], 1):  # fmt: skip
        before = state["mean"][ids].sum()
        state = rule.learned(state, Heard(round, ids, rows, nothing, nothing, batch(ids.tolist(), improvement, unsure)))
        assert ((state["mean"][ids] >= 0) & (state["mean"][ids] <= before)).all()
        assert np.isfinite(state["variance"]).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", ["seconds", "joules", "auto"])
def test_insight_finds_the_best_round_of_all(seed: int, unit: Any) -> None:
    rule, given = Insight(unit=unit, bonus=0.0, floor=1000, least_steps=1.0, among=10), offered(seed, count=3, n=8)
    state = {**rule.start(30), "mean": np.random.default_rng(seed).uniform(0, 2, 30)}
    worth = given.weights * state["mean"][given.ids]
    seconds, joules = given.seconds, given.joules
    second = 1 / np.median(seconds) if unit != "joules" else 0.0
    joule = 1 / (joules.mean() * 3) if unit != "seconds" else 0.0

    def ratio(places: Any) -> float:
        chosen = list(places)
        return float(worth[chosen].sum() / (1 + second * seconds[chosen].max() + joule * joules[chosen].sum()))

    best = max(map(ratio, itertools.combinations(range(8), 3)))
    places, steps = rule.select(state, given)
    assert ratio(places) == pytest.approx(best, rel=1e-9)
    assert steps.tolist() == given.steps[places].tolist()


def test_insight_gives_slow_clients_fewer_steps_and_now_and_then_takes_those_that_waited() -> None:
    rule, given = Insight(floor=4, least_steps=0.25, among=10), offered(round=101, count=6)
    state = {**rule.start(60), "heard": np.arange(60.0)[::-1].copy()}
    places, steps = rule.select(state, given)
    assert ((steps >= np.floor(0.25 * given.steps[places])) & (steps >= 1) & (steps <= given.steps[places])).all()
    length = (given.costs.seconds[places] + steps * given.costs.step_seconds[places]).max()
    assert (steps < given.steps[places]).any()
    assert length < given.seconds[places].max()
    waited, full = rule.select(state, offered(round=104, count=6))
    assert sorted(waited.tolist()) == list(range(6, 12))
    assert full.tolist() == given.steps[waited].tolist()


@given(
    kind=st.sampled_from(sorted(SELECTIONS.classes)),
    seed=st.integers(0, 10**6),
    n=st.integers(2, 30),
    data=st.data(),
)
def test_every_selection_takes_that_many_each_once_with_no_more_steps(kind: str, seed: int, n: int, data: Any) -> None:
    rule: Selection = SELECTIONS.classes[kind]()
    count = data.draw(st.integers(1, n - 1))
    state: State = rule.start(3 * n)
    draw = np.random.default_rng(seed)
    for round in range(1, 6):
        given = offered(seed + round, round, count, n, free=bool(seed % 2))
        places, steps = rule.select(state, given)
        assert len(np.unique(places)) == len(places) == count
        assert ((steps >= 1) & (steps <= given.steps[places])).all()
        ids: Ids = np.sort(given.ids[places])
        loss = draw.exponential(size=count)
        rest = batch(ids.tolist(), (loss - 0.5).tolist(), draw.uniform(0, 1, count).tolist())
        state = rule.learned(state, Heard(round, ids, np.ones(count, dtype=np.int64), loss, loss, rest))


WORLD = {"compute": {"speed": {"lognormal": {"median": 0.001, "sigma": 1.0}}}, "network": {}, "energy": {}, "dropout": {"after": 0.1}}


def run(selection: Any, out: Path, **changes: Any) -> dict[str, Any]:
    content = scenario(rounds=6, scarcity=WORLD, strategies=[{"kind": "fed_avg", "clients_per_round": 4, "selection": selection}])
    results = simulate({**content, "evaluation": {"every": 6}, **changes}, out=out)
    return {"hash": results.summary["strategies"]["fed_avg"]["result_hash"], "rounds": results.rounds.to_pandas(), "results": results}


@pytest.mark.parametrize(("selection", "said"), [("uniform", 0), ("fast", 0), ("oort", 4), ("power_of_choice", 4), ("insight", 52)])
def test_what_clients_say_for_it_is_counted(selection: str, said: int, tmp_path: Path) -> None:
    found = run(selection, tmp_path / "run")
    model = 4 * sum(tensor.numel() for tensor in found["results"].tensors("fed_avg").values())
    rows = found["rounds"][found["rounds"]["strategy"] == "fed_avg"]
    assert (rows["uplink_bytes"] == rows["clients"] * (model + said)).all()
    assert (found["results"].table("insights").num_rows > 0) == (selection == "insight")


@pytest.mark.parametrize("selection", ["oort", {"kind": "insight", "floor": 3}])
def test_packing_and_an_interruption_change_nothing(selection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = {"ray": False, "checkpoint_every": 1}
    whole = run(selection, tmp_path / "whole", execution=execution)["hash"]
    assert run(selection, tmp_path / "packed", execution={**execution, "actors": 3})["hash"] == whole
    assert run("uniform", tmp_path / "uniform", execution=execution)["hash"] != whole
    interrupt_after(monkeypatch, 3, lambda: run(selection, tmp_path / "cut", execution=execution))
    assert resume(tmp_path / "cut").summary["strategies"]["fed_avg"]["result_hash"] == whole


class Twice(Selection):
    """A selection of a user's own that takes its first client twice."""

    kind: str = "import"
    again: int = 0

    def select(self, state: State, candidates: Candidates) -> tuple[Ids, Ids]:
        return np.array([0, self.again]), candidates.steps[:2]


@pytest.mark.parametrize("again", [0, -N])
def test_a_selection_of_ones_own_is_held_to_the_contract(again: int) -> None:
    selector, ids = Selector(Twice(again=again), FedAvg(), N, None), np.arange(N)
    with pytest.raises(ValueError, match="each once"):
        selector.select(RoundInput(0, 1, ids, ids, np.ones(N, dtype=np.int64), 4), Costs.free(N))


@pytest.mark.parametrize(("strategy", "world", "why"), [
    ({"selection": "fast"}, None, r"selection is 'fast': no turn takes time.* add compute or network"),
    ({"selection": "energy"}, {"compute": {}}, r"selection is 'energy': no energy is counted: add energy"),
    ({"selection": "oort", "clients_per_round": None}, None, r"selection is 'oort': all 12 clients take part .* set clients_per_round"),
    ({"selection": {"kind": "power_of_choice", "candidates": 2}}, None, r"candidates is 2: a round takes 3 of them: draw at least as many"),
])  # fmt: skip
def test_what_has_nothing_to_select_is_refused(strategy: dict[str, Any], world: dict[str, Any] | None, why: str, tmp_path: Path) -> None:
    content = scenario(strategies=[{"kind": "fed_avg", "clients_per_round": 3, **strategy}])
    with pytest.raises((SpecError, SpecErrors), match=why):
        prepare(parse({**content, **({} if world is None else {"scarcity": world})}), tmp_path)
