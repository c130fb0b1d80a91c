"""Screening: mistakes are found, by who made them, and honest clients are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.moments import Clients, messages, regression
from torch import nn

from scarcity_ray.actors.expert import Expert
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.ensemble.learning import learn
from scarcity_ray.ensemble.outsiders import admit
from scarcity_ray.ensemble.representation import bandwidth, survey
from scarcity_ray.ensemble.ridge import fit
from scarcity_ray.ensemble.screening import Finding, Screened, screen, screen_surveys
from scarcity_ray.strategies.sf_hfe import SfHfe
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem

SIZES = (4, 9, 9, 12, 15, 22, 30) * 5
WRONG = 12


def found(clients: Clients, outputs: int = 2, task: Any = "regression") -> Screened:
    return screen(*messages(clients, task, outputs))


def changed(clients: Clients, how: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]], *who: int) -> Clients:
    return [how(*pair) if place in who else pair for place, pair in enumerate(clients)]


def one_input(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x * torch.tensor([1, 1000.0, 1, 1, 1]), y


MISTAKES = {
    "inputs": lambda x, y: (1000 * x, y),
    "inputs in centimetres": lambda x, y: (100 * x, y),
    "inputs, one": one_input,
    "targets": lambda x, y: (x, 1000 * y),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_unit_is_found(mistake: str, seed: int) -> None:
    screened = found(changed(regression(SIZES, seed=seed), MISTAKES[mistake], WRONG))
    (place,) = screened.findings
    finding = screened.findings[place]
    assert (place, finding.reason) == (WRONG, mistake.split()[0].rstrip(","))
    true = 100 if "centimetres" in mistake else 1000
    assert finding.times is not None
    assert true / 2.5 < finding.times < 2.5 * true
    assert 0 < screened.weights[WRONG] < 1e-2
    assert np.flatnonzero(~screened.sound).tolist() == [WRONG]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_several_do_not_hide_each_other(mistake: str) -> None:
    assert sorted(found(changed(regression(SIZES), MISTAKES[mistake], 3, 8, WRONG, 20, 31)).findings) == [3, 8, WRONG, 20, 31]


def test_a_client_of_classes_in_another_unit_is_found() -> None:
    clients = [(x, (y[:, 0] > 3).long()) for x, y in regression(SIZES)]
    assert found(clients, 2, "classification").findings == {}
    assert list(found(changed(clients, MISTAKES["inputs"], WRONG), 2, "classification").findings) == [WRONG]


def test_an_offset_hides_nothing() -> None:
    # As where the mistake has spoiled the common mean and deviation, by which all clients' inputs were then standardised.
    clients = changed(regression(SIZES), MISTAKES["inputs"], WRONG)
    rows = torch.cat([x for x, _ in clients])
    assert list(found([((x - rows.mean(0)) / rows.std(0), y) for x, y in clients]).findings) == [WRONG]


@pytest.mark.parametrize("ordered", [True, False])
def test_the_first_of_two_names_stays(ordered: bool) -> None:
    clients = regression(SIZES)
    again = torch.arange(len(clients[WRONG][0])) if ordered else torch.randperm(len(clients[WRONG][0]), generator=torch.manual_seed(0))
    copy = tuple(part[again] for part in clients[WRONG])
    screened = found([*clients, copy, copy])
    assert screened.findings == {35: Finding("copy", WRONG), 36: Finding("copy", WRONG)}
    assert screened.weights.tolist() == [1.0] * 35 + [0.0] * 2


def test_with_more_features_than_rows_a_copy_is_found_too() -> None:
    clients = regression(SIZES, width=50)
    assert found([*clients, clients[5]]).findings == {35: Finding("copy", 5)}


def test_clients_that_answer_the_same_few_questions_are_no_copies() -> None:
    draw, agreeing = np.random.default_rng(0), 0
    for _ in range(10):
        x = (draw.random((60, 20, 1)) < 0.3).astype(np.float32)
        y = (draw.random((60, 20)) < 0.2 + 0.3 * x[..., 0]).astype(np.int64)
        clients = [(torch.from_numpy(part), torch.from_numpy(answers)) for part, answers in zip(x, y, strict=True)]
        agreeing += 60 - len(np.unique(messages(clients, "classification", 2)[1], axis=0))
        assert found(clients, 2, "classification").findings == {}
    assert agreeing > 50  # whose messages are those of another


def groups(draw: np.random.Generator) -> Clients:
    """Three hidden groups; one has two clients of 40."""
    heads, members = 3 * draw.standard_normal((3, 5, 2)), [0] * 30 + [1] * 8 + [2] * 2
    made = []
    for group in members:
        x = draw.standard_normal((int(draw.integers(3, 40)), 5))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(x @ heads[group] + 0.1 * draw.standard_normal((len(x), 2))).float()))
    return made


def shifted(draw: np.random.Generator) -> Clients:
    """Inputs of clients with means and scales of their own; heads too."""
    head, made = draw.standard_normal((5, 2)), []
    for _ in range(40):
        n, scale = int(draw.lognormal(2.5, 1)) + 1, draw.lognormal(0, 0.7, (1, 5))
        x = scale * draw.standard_normal((n, 5)) + 2 * draw.standard_normal((1, 5))
        y = x @ (head + 0.3 * draw.standard_normal((5, 2))) + draw.standard_normal((n, 2))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
    return made


def heavy(draw: np.random.Generator) -> Clients:
    """Student's t with 2 degrees of freedom, and one client that lies far outside and follows the same law."""
    head, made = draw.standard_normal((5, 2)), []
    for client in range(40):
        x = draw.standard_t(2, (int(draw.lognormal(2.5, 1)) + 1, 5)) * (20 if client == 3 else 1)
        made.append((torch.from_numpy(x).float(), torch.from_numpy(x @ head + draw.standard_normal((len(x), 2))).float()))
    return made


@pytest.mark.parametrize("world", [groups, shifted, heavy])
def test_honest_clients_are_not_accused(world: Callable[[np.random.Generator], Clients]) -> None:
    accused = [screened.findings for seed in range(25) if (screened := found(world(np.random.default_rng(seed)))).findings]
    assert len(accused) <= 1  # one in 1,000


def test_of_a_few_clients_nobody_is_judged() -> None:
    clients = regression((9, 9, 9, 9))
    assert found(changed(clients, MISTAKES["inputs"], 1)).findings == {}
    assert found([clients[0], clients[0]]).sound.all()


def test_surveys_show_a_wrong_unit_before_it_widens_the_kernel() -> None:
    clients = regression(SIZES)
    spoiled = changed(clients, MISTAKES["inputs"], WRONG)
    samples = np.array(SIZES)
    surveys, honest = (torch.stack([survey(x) for x, _ in some]).numpy() for some in (spoiled, clients))
    screened = screen_surveys(surveys, samples)
    assert list(screened.findings) == [WRONG]
    assert screen_surveys(honest, samples).findings == {}
    kept = screened.sound
    assert bandwidth(surveys[kept], samples[kept]) == pytest.approx(bandwidth(honest, samples), rel=0.1)
    assert bandwidth(surveys, samples) > 50 * bandwidth(honest, samples)


def test_what_surveys_show_follows_the_clients() -> None:
    weights = np.array([1.0, 0.5, 1.0, 0.25])
    surveyed = Screened(weights, {1: Finding("inputs", times=100.0), 3: Finding("inputs", times=200.0)})
    later = surveyed.of(np.array([2, 4, 6, 8]), np.array([1, 2, 4, 8, 9]))
    assert later.weights.tolist() == [1, 1, 0.5, 0.25, 1]
    assert later.findings == {2: Finding("inputs", times=100.0), 3: Finding("inputs", times=200.0)}


# -- what sf_hfe makes of it -----------------------------------------------------------------------------------------


def learned(clients: Clients, **settings: Any) -> tuple[ServerState, dict[str, Any], dict[str, np.ndarray]]:
    strategy = SfHfe.model_validate({"representation": {"kind": "identity"}, **settings})
    samples = np.array([len(x) for x, _ in clients])
    made = make_problem(nn.Linear(5, 2), local=Local(), task="regression", outputs=2, shape=(5,), samples=samples, seed=0)
    problem = strategy.problem(made)
    rows = torch.stack([strategy.message(problem, *pair) for pair in clients]).numpy()
    update = strategy.learned(problem, ServerState(), np.arange(len(clients)), samples, rows)
    state = strategy.with_experts(update, {k: Expert(k).fit(*order) for k, order in update.experts.items()})
    return state, dict(update.learned), dict(update.clients)


def distance(one: ServerState, other: ServerState) -> float:
    return float((one.private["heads"][0] - other.private["heads"][0]).norm() / other.private["heads"][0].norm())


@pytest.mark.parametrize("mistake", ["inputs", "targets"])
def test_others_learn_what_they_would_without_the_mistake(mistake: str) -> None:
    clients = regression(SIZES)
    spoiled = changed(clients, MISTAKES[mistake], WRONG)
    without = learned([pair for place, pair in enumerate(clients) if place != WRONG])[0]
    off, weighed, refused = (learned(spoiled, screening=way) for way in ("off", "weigh", "refuse"))
    assert distance(refused[0], without) < 1e-9
    assert distance(weighed[0], without) < 1e-3
    assert distance(off[0], without) > 0.3
    assert refused[1]["screened"][0]["client"] == WRONG
    assert refused[2]["screening_weight"].tolist() == [float(place != WRONG) for place in range(35)]
    assert weighed[2]["screening_weight"][WRONG] == weighed[1]["screened"][0]["weight"] > 0
    assert off[1]["screened"] == []
    assert np.isnan(off[2]["screening_weight"]).all()


def test_without_a_finding_results_have_the_same_bits() -> None:
    clients = regression(SIZES)
    off, weighed, refused = (learned(clients, screening=way)[0] for way in ("off", "weigh", "refuse"))
    for state in (weighed, refused):
        for name, value in off.private.items():
            assert torch.equal(value, state.private[name]), name


def test_a_copy_gets_the_expert_of_its_original_and_counts_nothing() -> None:
    draw = np.random.default_rng(4)
    heads, made = 3 * draw.standard_normal((2, 5, 2)), []
    for client in range(40):
        x = draw.standard_normal((20, 5))
        y = x @ heads[client % 2] + draw.standard_normal((20, 2))
        made.append((torch.from_numpy(x).float(), torch.from_numpy(y).float()))
    for original in (4, 5):
        once, twice = learned(made, experts=2), learned([*made, made[original]], experts=2)
        assert twice[2]["expert_id"][40] == twice[2]["expert_id"][original] == once[2]["expert_id"][original]
        assert np.isnan(twice[2]["confidence"][40])
        assert torch.equal(once[0].private["heads"], twice[0].private["heads"])


def test_a_weight_near_one_enters_the_head_as_the_message_would() -> None:

    packing, rows, samples = messages(regression(SIZES), "regression", 2)
    kept = np.arange(len(rows)) != WRONG
    part = learn(packing, rows[kept], samples[kept], experts=1, most=1, personal="none", router="density", seed=0)
    whole, experts = admit(part, packing, rows[~kept], samples[~kept], np.ones(1))
    assert experts.tolist() == [0]
    wanted = fit(packing.total(rows, samples), part.groups[0].strength)
    torch.testing.assert_close(fit(whole.groups[0].fitted, whole.groups[0].strength), wanted, rtol=1e-5, atol=1e-6)
