"""SF-HFE from messages to personal heads, on digits and by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from torch import nn

from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.federation import Shards
from scarcity_ray.core.insights import make, merge, wire_bytes
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.ensemble import pilot
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.heads import as_rows
from scarcity_ray.strategies.afl import Afl
from scarcity_ray.strategies.prototypes import Prototypes
from scarcity_ray.strategies.sf_hfe import SfHfe
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import evaluate
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task


def problem_of(strategy: Strategy, train: Shards, task: Any, outputs: int, seed: int = 0) -> Problem:
    shape = train.x.shape[1:]
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), outputs))
    made = make_problem(module, local=Local(), task=task, outputs=outputs, shape=shape, samples=train.counts, seed=seed)
    return strategy.problem(made)


@dataclass
class Played:
    """What is left at the end; traffic: bytes [up, down] of a client."""

    state: ServerState
    memory: dict[str, torch.Tensor]
    traffic: list[int]
    summary: Mapping[str, Any]


def play(strategy: SfHfe, problem: Problem, train: Shards, company: int | None = None) -> Played:
    """All rounds, as actors of `company` clients each would play them."""
    ids, k = np.arange(problem.population), company or problem.population
    memory = {name: value.expand(len(ids), -1).clone() for name, value in strategy.init_client(problem).items()}
    learner, state, traffic = MetaLearner(strategy, problem), strategy.init_server(problem), [0, 0]

    def tasks(round: int) -> list[Task]:
        parts = []
        for start in range(0, len(ids), k):
            part = ids[start : start + k]
            cut = chunks(problem, train, part, np.zeros(len(part), dtype=np.int64))
            parts += [Task(problem, train, chunk, round, np.zeros(len(chunk), dtype=np.int64)) for chunk in cut]
        return parts

    for round in range(1, 4):
        batches = []
        for task in tasks(round):
            mine = {name: value[task.ids] for name, value in memory.items()}
            payload = strategy.client_update(task, state.received(task.ids), mine).payload
            scalars: dict[str, Any] = dict.fromkeys(("expert_id", "steps", "lr", "epochs", "mean_grad", "std_grad", "uncertainty"), 0)
            scalars |= {"client_id": task.ids, "num_samples": train.counts[task.ids]}
            scalars |= dict.fromkeys(("loss_before", "loss_after", "train_seconds"), 0.0)
            batches.append(make("", round, scalars, {name: value.numpy() for name, value in payload.items()}))
        traffic[0] += wire_bytes(strategy.payload(problem, round))
        traffic[1] += state.new_bytes or 0
        update, _, rejections = learner.learn(merge(batches), round, state)
        assert rejections == []
        state = strategy.with_experts(update, {i: Expert(i).fit(*order) for i, order in update.experts.items()})
        if update.done:
            break
    traffic[1] += state.new_bytes or 0
    for task in tasks(round):
        for name, value in strategy.receive(task, state.received(task.ids), {n: v[task.ids] for n, v in memory.items()}).items():
            memory[name][task.ids] = value
    return Played(state, memory, traffic, update.learned)


def digits(clients: int = 100, seed: int = 0) -> tuple[Shards, Shards]:
    """Train and test shards of 8 images each, whose class proportions differ: images sorted by class within random blocks."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))[: clients * 16].reshape(10, -1)
    order = np.concatenate([block[np.argsort(y[block], kind="stable")] for block in order])  # a client: one or two classes
    order = np.concatenate([rng.permutation(part) for part in np.split(order, clients)]).reshape(clients, 2, 8)
    starts = np.arange(clients + 1) * 8
    train, test = (
        Shards((x[i] / 16).astype(np.float32), y[i].astype(np.int64), starts) for i in (order[:, 0].ravel(), order[:, 1].ravel())
    )
    return train, test


def schools(clients: int = 40, seed: int = 2) -> Shards:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 30, clients)
    x = rng.standard_normal((counts.sum(), 5)).astype(np.float32)
    y = x @ rng.standard_normal((5, 1)) + np.repeat(rng.standard_normal((clients, 1)), counts, axis=0) + rng.standard_normal((len(x), 1))
    return Shards(x, y.astype(np.float32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


@pytest.mark.slow
def test_digits_with_fourier_features() -> None:
    train, test = digits()
    accuracy = {}
    for personal in (True, False):
        strategy = SfHfe(personal=personal, experts=1)
        problem = problem_of(strategy, train, "classification", 10)
        end = play(strategy, problem, train)
        (theta,) = strategy.eval_models(end.state.broadcast, end.memory).values()
        found = evaluate(problem, theta, strategy.view(problem, end.state, test), np.arange(100))
        accuracy[personal] = found[1].mean()
        # Up: two scalar parts, a survey of 64 sums and their squares, the triangle of 257 less its end and 257 x 10. Down:
        # seed and bandwidth, the head, its scale, and slope and intercept where clients need them.
        assert end.traffic == [52 + 65 * 4 + 52 + 4 * (257 * 258 // 2 - 1 + 2570), 12 + 4 * 2570 + (12 if personal else 4)]
        assert sum(end.traffic) <= 153_600
    assert accuracy[False] > 0.95
    assert accuracy[True] > accuracy[False]


def test_the_bytes_of_a_school() -> None:
    settings = {"representation": {"kind": "identity"}, "experts": 1, "differences": "slopes"}
    strategy, train = SfHfe.model_validate(settings), schools()
    problem = problem_of(strategy, train, "regression", 1)
    assert play(strategy, problem, train).traffic == [52 + 4 * (20 + 6 + 1), 4 * 6 + 4 * 2]


def test_identity_gives_the_pooled_ridge_head() -> None:
    strategy, train = SfHfe.model_validate({"representation": {"kind": "identity"}, "personal": False, "experts": 1}), schools()
    problem = problem_of(strategy, train, "regression", 1)
    end = play(strategy, problem, train)
    pooled = Ridge(alpha=end.summary["experts"][0]["strength"]).fit(train.x.astype(np.float64), train.y.astype(np.float64))
    head = np.append(pooled.coef_.ravel(), pooled.intercept_)
    assert np.linalg.norm(end.state.broadcast["heads"][0, :, 0].numpy() - head) <= 1e-5 * np.linalg.norm(head)
    assert end.memory == {}
    theta = strategy.eval_models(end.state.broadcast, {})["global"]
    assert theta.shape == (1, problem.layout.width)


@pytest.mark.parametrize("representation", [
    {"kind": "identity"},
    {"kind": "random_fourier", "features": 24},
    {"kind": "random_fourier", "features": 24, "inputs": False},
    {"kind": "auto", "features": 24},
])  # fmt: skip
def test_the_same_bits_for_any_company(representation: dict[str, Any]) -> None:
    strategy, train = SfHfe.model_validate({"representation": representation}), schools(16)
    problem = problem_of(strategy, train, "regression", 1)
    end = play(strategy, problem, train)
    for company in (1, 7):
        other = play(strategy, problem, train, company)
        assert np.array_equal(end.state.broadcast["heads"], other.state.broadcast["heads"])
        assert torch.equal(end.memory["row"], other.memory["row"])


@pytest.mark.parametrize("inputs", [True, False])
def test_inputs_beside_the_waves_cost_no_bytes(inputs: bool) -> None:
    representation = {"kind": "random_fourier", "features": 24, "inputs": inputs}
    strategy, train = SfHfe.model_validate({"representation": representation, "experts": 1, "differences": "slopes"}), schools()
    end = play(strategy, problem_of(strategy, train, "regression", 1), train)
    assert end.traffic == [52 + 4 * 6 + 52 + 4 * (25 * 26 // 2 - 1 + 25 + 1), (8 + 4) + 4 * 25 + 8]


def test_inputs_that_leave_no_wave_are_refused() -> None:
    representation = {"kind": "random_fourier", "features": 5, "inputs": True}
    with pytest.raises(SpecError, match=r"representation\.inputs is True: a row has 5 inputs"):
        problem_of(SfHfe.model_validate({"representation": representation}), schools(), "regression", 1)


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_saved_module_reproduces_the_answers(task: Any, inputs: bool) -> None:
    settings = {"representation": {"kind": "random_fourier", "features": 24, "inputs": inputs}, "experts": 1}
    strategy, train = SfHfe.model_validate(settings), schools()
    outputs = 3 if task == "classification" else 1
    if task == "classification":
        train = Shards(train.x, np.digitize(train.y[:, 0], (-1.0, 1.0)).astype(np.int64), train.starts)
    problem = problem_of(strategy, train, task, outputs)
    end = play(strategy, problem, train)
    state = end.state
    saved = {name: value for name, value in strategy.saved(problem, state).items() if not name.startswith("ensemble.")}
    seen, x = torch.from_numpy(strategy.view(problem, state, train).x), torch.from_numpy(train.x)
    module = strategy.module(problem, ServerState())  # as it is made from the file alone
    heads = state.broadcast["heads"].double() / state.broadcast["scale"][0]
    for row, tensors in ((as_rows(heads), saved), (end.memory["row"][5:6], saved | problem.layout.state_dict(end.memory["row"][5]))):
        module.load_state_dict(tensors)
        assert torch.allclose(module(x), problem.learner.scores(row, seen[None])[0], rtol=1e-4, atol=1e-4)


def test_before_there_is_a_head_there_is_no_answer() -> None:
    strategy, train = SfHfe(), schools()
    problem = problem_of(strategy, train, "regression", 1)
    assert strategy.eval_models({}, {}) == {}
    assert strategy.saved(problem, strategy.init_server(problem)) == {}
    view = strategy.view(problem, strategy.init_server(problem), train)
    assert view.x.shape == (len(train.x), 256)
    assert not view.x.any()
    assert problem.shape == (5,)


def test_one_client_alone_is_refused() -> None:
    with pytest.raises(SpecError, match="leaving one client out"):
        problem_of(SfHfe(), schools(1), "regression", 1)


def test_the_bandwidth_by_evidence_takes_a_pilot() -> None:
    representation = {"kind": "random_fourier", "features": 24, "bandwidth": "evidence"}
    strategy, train = SfHfe.model_validate({"representation": representation, "experts": 1, "differences": "slopes"}), schools()
    problem = problem_of(strategy, train, "regression", 1)
    end = play(strategy, problem, train)
    pilots = 52 + 4 * 5 * (33 * 34 // 2 - 1 + 33 + 1)
    assert end.traffic == [52 + 4 * 6 + pilots + 52 + 4 * (25 * 26 // 2 - 1 + 25 + 1), (8 + 4) + 4 + 4 * 25 + 8]
    told = end.state.broadcast
    assert told["bandwidth"] / told["spread"] == pytest.approx(
        min(pilot.MULTIPLES, key=lambda m: abs(m - told["bandwidth"] / told["spread"]))
    )


# -- the choice of features --------------------------------------------------------------------------------------------------


def lines_or_waves(wave: float, task: Any = "regression") -> Shards:
    """30 clients of 20 rows of two inputs: a line, and so much of a wave, of each client's own."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-1.5, 1.5, (600, 2)).astype(np.float32)
    own = np.repeat(rng.standard_normal((30, 2)), 20, axis=0)
    y = (x * (0.3 * own + np.array([4.0, -2.0]))).sum(1) + wave * np.sin(4 * x[:, 0]) + 0.3 * rng.standard_normal(600)
    labels = (y + 9 * rng.standard_normal(600) > 0).astype(np.int64) if task == "classification" else y[:, None].astype(np.float32)
    return Shards(x, labels, np.arange(31) * 20)


AUTO = {"kind": "auto", "features": 24}


BOTH = {"kind": "random_fourier", "features": 24, "inputs": True}


@pytest.mark.parametrize(("wave", "chosen", "alike", "kept", "personal"), [
    (0.0, "identity", {"kind": "identity"}, 2, True),
    (0.0, "identity", {"kind": "identity"}, 2, False),
    (1.0, "both", BOTH, 24, True),
])  # fmt: skip
def test_what_is_learned_is_what_the_chosen_features_alone_give(
    wave: float, chosen: str, alike: dict[str, Any], kept: int, personal: bool
) -> None:
    """Predictions are those of the other representation, and no coefficient goes down that is 0."""
    train, settings, scores, down = lines_or_waves(wave), {"experts": 1, "differences": "slopes", "personal": personal}, [], []
    for representation in (AUTO, alike):
        strategy = SfHfe.model_validate({"representation": representation, **settings})
        problem = problem_of(strategy, train, "regression", 1)
        end = play(strategy, problem, train)
        (theta,) = strategy.eval_models(end.state.broadcast, end.memory).values()
        scores.append(problem.learner.scores(theta[-1:], torch.from_numpy(strategy.view(problem, end.state, train).x)[None])[0])
        down.append(end.traffic[1])
        if representation is AUTO:
            assert end.summary["representation"]["chosen"] == chosen
            assert end.traffic[0] == 52 + 4 * 3 + 52 + 4 * (25 * 26 // 2 - 1 + 25 + 1) + 52 + 4 * 4
            assert int((end.state.broadcast["heads"] != 0).sum()) == kept + 1
    assert torch.allclose(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    trial = 4 * (3 + 23 + 25 + 9) + 4 * 8 * personal  # the last block has 6 of the 22 waves
    assert down[0] == 12 + trial + 4 * (kept + 1) + 8 * personal + 1
    assert down[1] == down[0] - trial - 1 - 12 * (chosen == "identity")


@pytest.mark.parametrize("router", ["density", "gate"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_ensemble_of_a_chosen_block_answers_as_its_clients_heads(task: Any, router: str) -> None:
    train = lines_or_waves(0.0, task)
    settings = {"representation": AUTO, "experts": 2, "router": router, "max_experts": 2}
    strategy = SfHfe.model_validate(settings)
    problem = problem_of(strategy, train, task, 2 if task == "classification" else 1)
    end = play(strategy, problem, train)
    assert end.summary["representation"]["chosen"] == "identity"
    saved = strategy.saved(problem, end.state)
    own = problem.layout.state_dict(end.memory["row"][7])
    ensemble = Ensemble.of(strategy.mapping(problem, end.state.broadcast), task, saved)
    rows = train.rows(7)
    x, y = torch.from_numpy(train.x[rows]), torch.from_numpy(train.y[rows])
    f, head = ensemble.features(x), torch.cat([own["head.weight"].mT, own["head.bias"][None]]).double()
    expert, joined, covariance = ensemble.join(x, y)  # a new client of the same rows makes the same head
    assert torch.allclose(joined / ensemble.scale[expert], head, rtol=1e-3, atol=1e-3)
    assert not covariance[:22].any()
    mixture, weights = ensemble.predict(x)
    assert mixture.mean.isfinite().all()
    assert torch.allclose(weights.sum(1), torch.ones(len(x), dtype=torch.float64))
    changed = f.clone()
    changed[:, :22] = 1e3  # features that were left out
    assert np.array_equal(ensemble.route(changed), ensemble.route(f))
    assert torch.equal(ensemble.outputs(changed), ensemble.outputs(f))


def test_inputs_that_leave_nothing_to_choose_are_refused() -> None:
    with pytest.raises(SpecError, match=r"representation\.features is 5: a row has 5 inputs"):
        problem_of(SfHfe.model_validate({"representation": {"kind": "auto", "features": 5}}), schools(), "regression", 1)


@pytest.mark.parametrize("kind", [Afl, Prototypes])
def test_others_do_not_choose(kind: Any) -> None:
    strategy, train = kind.model_validate({"representation": {"kind": "auto"}}), lines_or_waves(0.0, "classification")
    with pytest.raises(SpecError, match=r"representation\.kind is 'auto': only sf_hfe compares inputs with waves"):
        problem_of(strategy, train, "classification", 2)
