"""Reptile and Per-FedAvg against plain loops, and the outer step size they learn."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, play, server, shards
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from scarcity_ray.core.exchange import Aggregate, ServerState
from scarcity_ray.core.federation import Federation
from scarcity_ray.strategies import FedAvg, PerFedAvg, Reptile
from scarcity_ray.strategies.outer_step import BETA, OuterStep
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

COUNTS = [23, 17, 9, 5, 1]


def classes(counts: list[int] = COUNTS) -> Federation:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sum(counts), 6))
    return federation(shards(x, rng.integers(0, 3, len(x)), counts))


def targets(counts: list[int] = COUNTS) -> Federation:
    """Each client has a linear function of its own, near a common one."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((sum(counts), 4))
    w = np.repeat(rng.standard_normal((len(counts), 4)) * 0.3 + [1, -2, 0.5, 0], counts, axis=0)
    return federation(shards(x, ((x * w).sum(1, keepdims=True) + 0.1).astype(np.float32), counts))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def rows(held: Federation) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each client's inputs with a constant, and targets, in float64."""
    x = np.concatenate([held.train.x, np.ones((len(held.train.x), 1))], axis=1).astype(np.float64)
    return [(x[held.train.rows(i)], held.train.y[held.train.rows(i), 0].astype(np.float64)) for i in range(held.clients)]


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 2 * x.T @ (x @ w - y) / len(x)


def weights(problem: Problem, row: Tensor) -> np.ndarray:
    """Weights and bias of the line."""
    state = problem.layout.state_dict(row)
    return np.concatenate([state["weight"][0].numpy(), state["bias"].numpy()]).astype(np.float64)


def mean_loss(w: list[np.ndarray], held: Federation) -> float:
    return float(np.mean([np.mean((x @ own - y) ** 2) for own, (x, y) in zip(w, rows(held), strict=True)]))


# -- Reptile -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["auto", 0.7])
@pytest.mark.parametrize("weighted", [True, False])
def test_reptile_is_its_formula_written_as_a_loop(outer: Any, weighted: bool) -> None:
    """Full batches, so that the loop needs no order of rows: 2 gradient steps a round, 5 rounds."""
    held = targets()
    made = server(Reptile(outer=outer, weighted=weighted, adapt_steps=3), held, line(), Local(epochs=2, batch_size=100, lr=0.05))
    x, size, before = weights(made.problem, made.problem.row), 1.0 if outer == "auto" else outer, np.zeros(5)
    share = np.array(COUNTS) / sum(COUNTS) if weighted else np.full(len(COUNTS), 1 / len(COUNTS))
    for _ in range(5):
        result = made.run_round()
        moves = []
        for own_x, own_y in rows(held):
            w = x
            for _ in range(2):
                w = w - 0.05 * gradient(w, own_x, own_y)
            moves.append(w - x)
        move = share @ np.array(moves)
        if outer == "auto" and before.any():
            size *= 1 + BETA * move @ before / (np.linalg.norm(move) * np.linalg.norm(before))
        x, before = x + size * move, move
        np.testing.assert_allclose(weights(made.problem, made.state.broadcast["x"]), x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(float(made.state.private["outer"]), size, rtol=1e-5)
        adapted = []
        for own_x, own_y in rows(held):
            w = x
            for _ in range(3):
                w = w - 0.05 * gradient(w, own_x, own_y)
            adapted.append(w)
        np.testing.assert_allclose(result.row["test_loss"], mean_loss(adapted, held), rtol=1e-4)
    assert outer != "auto" or size > 1.2


@pytest.mark.parametrize("sampling", [{}, {"fraction": 0.5}, {"clients_per_round": 2, "weighted": False}])
def test_reptile_with_an_outer_step_of_1_and_no_adaptation_is_fed_avg(sampling: dict[str, Any]) -> None:
    held, local = classes(), Local(epochs=2, batch_size=4, lr=0.2)
    a = server(Reptile(outer=1.0, adapt_steps=0, **sampling), held, mlp(), local)
    b = server(FedAvg(**sampling), held, mlp(), local)
    ours, theirs = play(a, 4)[-1], play(b, 4)[-1]
    torch.testing.assert_close(a.state.broadcast["x"], b.state.broadcast["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.row["test_loss"], theirs.row["test_loss"], rtol=1e-5)
    assert (ours.row["uplink_bytes"], ours.row["downlink_bytes"]) == (theirs.row["uplink_bytes"], theirs.row["downlink_bytes"])


def test_reptile_adapts_by_a_rounds_training_unless_told_otherwise() -> None:
    local = Local(epochs=3, batch_size=10)
    assert Reptile().adaptation(local, np.array([25, 0])).tolist() == [9, 0]
    assert Reptile(adapt_steps=4).adaptation(local, np.array([25, 0])).tolist() == [4, 0]


# -- Per-FedAvg ----------------------------------------------------------------------------------------------------------


def problem_of(held: Federation, module: nn.Module, local: Local) -> Problem:
    return make_problem(
        module, local=local, task=held.task, outputs=held.outputs, shape=held.shape, samples=held.train.counts, seed=1
    )  # fmt: skip


def met(task: Task) -> list[list[tuple[Tensor, Tensor]]]:
    """Each client's minibatches, without padding."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(task.k)]
    for batch in task.batches():
        for i, size in enumerate(batch.sizes.tolist()):
            found[i].append((batch.x[i, :size], batch.y[i, :size]))
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize(
    "optimizer",
    [{}, {"momentum": 0.8, "weight_decay": 0.01}, {"optimizer": "adam", "lr": 0.01}, {"clip_norm": 0.3, "weight_decay": 0.02}],
)
def test_per_fed_avg_is_its_formula_written_as_a_loop(alpha: float, optimizer: dict[str, Any]) -> None:
    """Torch modules and optimizers, a client at a time, on the same minibatches: every second one is a D'."""
    held, local = classes(), Local(**({"epochs": 3, "batch_size": 4, "lr": 0.2} | optimizer))
    problem = problem_of(held, mlp(), local)
    task = Task(problem, held.train, np.array([0, 1, 2, 3]), 2)
    y = PerFedAvg(alpha=alpha).trained(task, problem.row[None])
    pairs = met(Task(problem, held.train, task.ids, 2, 2 * task.plan.steps))
    for i, own in enumerate(pairs):
        module = copy.deepcopy(problem.module)
        parameters, losses = list(module.parameters()), []
        optim: Any = torch.optim.Adam if local.optimizer == "adam" else torch.optim.SGD
        settings = {"lr": local.lr, "weight_decay": local.weight_decay} | ({"momentum": local.momentum} if local.momentum else {})
        optim = optim(parameters, **settings)
        for (x1, y1), (x2, y2) in zip(own[::2], own[1::2], strict=True):
            ahead = copy.deepcopy(module)
            ahead.zero_grad()
            nn.functional.cross_entropy(ahead(x1), y1).backward()
            with torch.no_grad():
                for p in ahead.parameters():
                    p -= alpha * p.grad
            ahead.zero_grad()
            loss = nn.functional.cross_entropy(ahead(x2), y2)
            loss.backward()
            losses += [loss.item()] * len(x2)
            for p, q in zip(parameters, ahead.parameters(), strict=True):
                p.grad = q.grad.clone()
            if local.clip_norm:
                nn.utils.clip_grad_norm_(parameters, local.clip_norm)
            optim.step()
        expected = problem.layout.row(module.state_dict())
        assert float((y[i] - expected).norm() / (expected - problem.row).norm()) < 1e-5
        np.testing.assert_allclose(task.train_loss[i], np.mean(losses), rtol=1e-4)
        assert len(own) == 2 * int(task.steps[i])


def test_on_full_batches_per_fed_avg_without_adaptation_is_fed_avg() -> None:
    held, local = classes(), Local(epochs=3, batch_size=100, lr=0.2)
    a, b = server(PerFedAvg(alpha=0.0, outer=1.0), held, mlp(), local), server(FedAvg(), held, mlp(), local)
    ours, theirs = play(a, 3)[-1], play(b, 3)[-1]
    torch.testing.assert_close(a.state.broadcast["x"], b.state.broadcast["x"], rtol=1e-5, atol=1e-6)
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(ours.row[name], theirs.row[name], rtol=1e-5)


def test_per_fed_avg_tests_after_one_step_on_all_training_rows() -> None:
    """By hand in float64: x - alpha grad f_i(x), whatever the minibatches. The last client has no rows, and no loss."""
    held = targets([23, 9, 5, 0])
    made = server(PerFedAvg(alpha=0.1), held, line(), Local(batch_size=4, lr=0.05))
    result = play(made, 2)[-1]
    x = weights(made.problem, made.state.broadcast["x"])
    adapted = [x - 0.1 * gradient(x, own_x, own_y) for own_x, own_y in rows(held)[:3]]
    expected = [np.mean((own_x @ w - own_y) ** 2) for w, (own_x, own_y) in zip(adapted, rows(held), strict=False)]
    assert result.clients is not None
    np.testing.assert_allclose(result.clients["test_loss"][:3], expected, rtol=1e-5)
    assert np.isnan(result.clients["test_loss"][3])


# -- the outer step ------------------------------------------------------------------------------------------------------

moves = st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4).filter(lambda v: np.linalg.norm(v) > 0.01)


def stepped(strategy: OuterStep, *means: np.ndarray) -> float:
    """The outer step size after rounds whose clients moved by `means` from wherever x was."""
    state = ServerState({"x": torch.zeros(4)}, private={"move": torch.zeros(4), "outer": torch.ones(1, dtype=torch.float64)})
    context: Any = None  # not read
    for mean in means:
        aggregate = Aggregate({"x": state.broadcast["x"] + torch.from_numpy(mean).float()})
        state = strategy.server_update(context, state, aggregate).state
    return float(state.private["outer"])


@given(moves, moves, st.floats(0.1, 10))
def test_the_outer_step_grows_with_the_cosine_of_two_moves_whatever_their_length(a: list[float], b: list[float], scale: float) -> None:
    first, second = np.array(a), np.array(b)
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    np.testing.assert_allclose(stepped(Reptile(), first, second), 1 + BETA * cosine, atol=2e-4)
    np.testing.assert_allclose(stepped(Reptile(), first * scale, second), 1 + BETA * cosine, atol=2e-4)


def test_the_first_move_and_a_standstill_leave_the_outer_step_as_it_is() -> None:
    some = np.array([1.0, 2.0, 0.0, -1.0])
    assert stepped(Reptile(), some) == 1
    assert stepped(PerFedAvg(), some, 0 * some, some) == 1


@pytest.mark.parametrize("strategy", [Reptile(), PerFedAvg()])
def test_the_saved_model_is_the_common_one(strategy: OuterStep) -> None:
    made = server(strategy, classes(), mlp(), Local(epochs=1, batch_size=4))
    play(made, 2)
    module = strategy.module(made.problem, made.state)
    module.load_state_dict(strategy.saved(made.problem, made.state))
    x = torch.from_numpy(classes().train.x)
    torch.testing.assert_close(module(x), made.problem.learner.scores(made.state.broadcast["x"][None], x[None])[0])


@pytest.mark.parametrize("strategy", [Reptile(), PerFedAvg(alpha=0.3)])
def test_a_client_is_tested_the_same_in_any_company(strategy: OuterStep) -> None:
    """To the bit: adapted with everybody, or alone."""
    made = server(strategy, classes(), mlp(), Local(epochs=2, batch_size=4))
    result = play(made, 2)[-1]
    client = made.clients.workers[0]  # type: ignore[attr-defined]
    alone = np.concatenate([client.evaluate(made.state, np.array([i]))["test_loss"] for i in range(len(COUNTS))])
    assert result.clients is not None
    assert result.clients["test_loss"].tolist() == alone.tolist()
