"""What a task shows a strategy: minibatches, numbers of each client, losses, norms; and the rows they live in."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.spec import SpecError
from scarcity_ray.models import CNN, MLP, build
from scarcity_ray.training.evaluate import evaluate
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.learner import make_learner
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task


def federation(counts: list[int], features: int = 3, outputs: int = 4) -> Shards:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sum(counts), features), dtype=np.float32)
    x[:, 0] = np.arange(len(x))  # so that a row says which it is
    return Shards(x, rng.integers(0, outputs, len(x)), np.cumsum([0, *counts]))


def linear(shards: Shards, local: Local, dtype: torch.dtype = torch.float32) -> Problem:
    torch.manual_seed(0)
    return make_problem(
        nn.Linear(3, 4), local=local, task="classification", outputs=4, shape=(3,), samples=shards.counts, seed=5, dtype=dtype
    )


def rows_met(task: Task) -> list[list[list[int]]]:
    """The rows of each client's minibatches, by client and step."""
    met: list[list[list[int]]] = [[] for _ in range(task.k)]
    for batch in task.batches():
        for i, size in enumerate(batch.sizes.tolist()):
            met[i].append([int(v) for v in batch.x[i, :size, 0]])
            torch.testing.assert_close(batch.weight[i, :size], torch.full((size,), 1 / size))
            assert not batch.weight[i, size:].any()
    return met


def test_each_epoch_is_a_fresh_permutation_and_the_last_batch_is_ragged() -> None:
    shards = federation([25, 23, 11])
    task = Task(linear(shards, Local(epochs=3, batch_size=10)), shards, np.arange(3), 1)
    assert task.steps[:, 0].tolist() == [9, 9, 6]
    for client, met in enumerate(rows_met(task)):
        own = list(range(int(shards.starts[client]), int(shards.starts[client + 1])))
        per_epoch = len(met) // 3
        epochs = [[row for batch in met[e * per_epoch : (e + 1) * per_epoch] for row in batch] for e in range(3)]
        assert all(sorted(epoch) == own for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert [len(batch) for batch in met[:per_epoch]] == [10] * (len(own) // 10) + [len(own) % 10]


def test_steps_go_on_over_epochs_until_they_are_used() -> None:
    shards = federation([25, 12, 4, 4, 0])
    problem = linear(shards, Local(steps=7, batch_size=10))
    whole = rows_met(Task(problem, shards, np.array([0, 1]), 1))
    assert [len(met) for met in whole] == [7, 7]
    assert [len(batch) for batch in whole[0]] == [10, 10, 5, 10, 10, 5, 10]
    guided = Task(problem, shards, np.array([0, 1]), 1, steps=np.array([4, 2]))
    assert rows_met(guided) == [whole[0][:4], whole[1][:2]]
    assert problem.local.steps_for(shards.counts).tolist() == [7, 7, 7, 7, 0]


def test_minibatches_are_a_function_of_seed_client_round_and_epoch() -> None:
    shards = federation([25, 25])
    problem = linear(shards, Local(batch_size=10))
    first = rows_met(Task(problem, shards, np.array([0, 1]), 1))
    assert first == rows_met(Task(problem, shards, np.array([0, 1]), 1))
    assert first != rows_met(Task(problem, shards, np.array([0, 1]), 2))
    assert [[v - 25 for v in batch] for batch in first[1]] != first[0]


def test_orders_are_uniform() -> None:
    """Chi-square of the first row of an epoch over 600 clients of 4 rows: 3 degrees of freedom, 0.9999 quantile 21.1."""
    shards = federation([4] * 600)
    met = rows_met(Task(linear(shards, Local(batch_size=4)), shards, np.arange(600), 1))
    first = np.bincount([batch[0][0] % 4 for batch in met], minlength=4)
    assert ((first - 150) ** 2 / 150).sum() < 21.1


def test_long_clients_are_gathered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = federation([95, 33, 14])
    problem = linear(shards, Local(epochs=2, batch_size=10))
    task = Task(problem, shards, np.arange(3), 1)
    expected, y = rows_met(task), task.local_sgd(problem.row[None])
    monkeypatch.setattr("scarcity_ray.training.batches._BLOCK_BYTES", 12 * 10 * 3 * 4)
    assert rows_met(task) == expected
    assert torch.equal(task.local_sgd(problem.row[None]), y)


@pytest.mark.parametrize("together", [1, 5, 64])
def test_short_epochs_are_gathered_together(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = federation([25, 12, 10, 11])
    problem = linear(shards, Local(steps=40, batch_size=10))
    task = Task(problem, shards, np.arange(4), 1, steps=np.array([40, 33, 17, 2]))
    expected, y, loss = rows_met(task), task.local_sgd(problem.row[None]), task.train_loss
    monkeypatch.setattr("scarcity_ray.training.batches._BLOCK_STEPS", together)
    assert rows_met(task) == expected
    assert torch.equal(task.local_sgd(problem.row[None]), y)
    assert task.train_loss.tobytes() == loss.tobytes()


def test_numbers_of_each_client() -> None:
    shards = federation([12, 8, 8])
    task = Task(linear(shards, Local(steps=2, batch_size=4, lr=0.25)), shards, np.array([0, 1, 2]), 1, steps=np.array([3, 2, 0]))
    assert task.samples[:, 0].tolist() == [12, 8, 8]
    assert task.steps[:, 0].tolist() == [3, 2, 0]
    assert task.lr[:, 0].tolist() == [0.25] * 3
    x, y = task.rows(1)
    assert x[:, 0].tolist() == list(range(12, 20))
    assert y.tolist() == shards.y[12:20].tolist()
    before = task.problem.row[None]
    after = task.local_sgd(before)
    assert torch.equal(after[2], before[0])
    assert np.isnan(task.train_loss).tolist() == [False, False, True]


def test_loss_entropy_and_gradient_by_hand() -> None:
    """A model of zeros is uniform over 4 classes: loss and entropy log 4; the bias gradient is 1/4 - share of the class."""
    shards = federation([6, 5])
    problem = linear(shards, Local(batch_size=6), torch.float64)
    task = Task(problem, shards, np.array([0]), 1)
    zeros = torch.zeros_like(problem.row)[None]
    np.testing.assert_allclose(task.loss(zeros), np.log(4))
    np.testing.assert_allclose(task.predictive_entropy(zeros), np.log(4))
    batch = next(task.batches())
    share = np.bincount(shards.y[:6], minlength=4) / 6
    np.testing.assert_allclose(problem.layout.views(task.grad(zeros, batch))["bias"][0], 0.25 - share, atol=1e-12)


def test_gradient_norms_by_hand() -> None:
    """With steps too small to move, every full-batch step has the norm of the one gradient, and no spread."""
    shards = federation([6, 5])
    problem = linear(shards, Local(epochs=3, batch_size=8, lr=1e-12), torch.float64)
    task = Task(problem, shards, np.array([0]), 1, norms=True)
    norm = float(task.grad(problem.row[None], next(task.batches())).norm())
    task.local_sgd(problem.row[None])
    np.testing.assert_allclose(task.grad_norms[0], [norm], rtol=1e-9)
    np.testing.assert_allclose(task.grad_norms[1], [0], atol=1e-6)


def test_evaluate_by_hand_and_where_there_is_nothing_to_say() -> None:
    shards = federation([6, 0, 700, 1])
    problem = linear(shards, Local())
    x, y = torch.from_numpy(shards.x), torch.from_numpy(shards.y)
    scores = problem.module(x).detach()
    losses = nn.functional.cross_entropy(scores, y, reduction="none").double().numpy()
    hits = (scores.argmax(1) == y).double().numpy()
    loss, accuracy = evaluate(problem, problem.row[None], shards, np.arange(4))
    for i in (0, 2, 3):
        np.testing.assert_allclose(loss[i], losses[shards.rows(i)].mean(), rtol=1e-5)
        np.testing.assert_allclose(accuracy[i], hits[shards.rows(i)].mean())
    assert np.isnan([loss[1], accuracy[1]]).all()
    own = problem.row.repeat(4, 1)
    own[2] = torch.nan
    own[3] = torch.inf
    personal, _ = evaluate(problem, own, shards, np.arange(4))
    assert personal[0] == loss[0]
    assert not np.isfinite(personal[1:]).any()


def test_a_diverged_client_does_not_touch_the_others() -> None:
    shards = federation([20, 20])
    problem = linear(shards, Local(epochs=2))
    start = problem.row.repeat(2, 1)
    start[0] = torch.inf
    for norms in (False, True):
        task = Task(problem, shards, np.array([0, 1]), 1, norms=norms)
        y = task.local_sgd(start)
        assert not torch.isfinite(y[0]).all()
        assert torch.equal(y[1], Task(problem, shards, np.array([1]), 1, norms=norms).local_sgd(problem.row[None])[0])


@pytest.mark.parametrize("spec", [MLP(hidden=[5, 6]), CNN(channels=[3, 4], hidden=7)])
def test_rows_and_state_dicts_are_the_same_weights(spec: MLP | CNN) -> None:
    module = build(spec, (2, 8, 8), 3, 0)
    layout = Layout(module)
    row = layout.row(module.state_dict())
    assert layout.num_parameters == sum(p.numel() for p in module.parameters())
    assert int((row != 0).sum()) <= layout.num_parameters <= layout.width
    other = build(spec, (2, 8, 8), 3, 1)
    other.load_state_dict(layout.state_dict(row))
    x = torch.randn(4, 2, 8, 8)
    assert torch.equal(other(x), module(x))
    stacked = layout.state_dicts(torch.stack([row, 2 * row]))
    assert all(torch.equal(stacked[name][1], 2 * value) for name, value in module.state_dict().items())
    assert int(layout.mask("0.bias", "1.bias").sum()) == sum(part.numel for part in layout.slices if part.name in ("0.bias", "1.bias")) > 0


def test_buffers_and_frozen_and_shared_parameters_are_in_the_state_dict() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    module[2].bias.requires_grad_(False)
    module.register_buffer("scale", torch.ones(1))
    layout = Layout(module)
    assert layout.num_parameters == 12
    module.load_state_dict(layout.state_dict(layout.row(module.state_dict())))
    shards = federation([8])
    problem = make_problem(module, local=Local(), task="regression", outputs=3, shape=(3,), samples=shards.counts, seed=0)
    regression = Shards(shards.x, np.zeros((8, 3), np.float32), shards.starts)
    Task(problem, regression, np.array([0]), 1).local_sgd(problem.row[None])


def test_a_problem_travels() -> None:
    shards = federation([12, 12])
    problem = linear(shards, Local(epochs=2))
    other = pickle.loads(pickle.dumps(problem))
    a, b = (Task(p, shards, np.array([0, 1]), 1).local_sgd(p.row[None]) for p in (problem, other))
    assert torch.equal(a, b)
    assert problem.population == 2
    assert problem.bytes == 64


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 3, num_layers=2, dropout=0.1)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "GroupNorm"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), "drops out"),
        (Dropping(), "drops out"),
        (nn.ReLU(), "no parameters"),
        (nn.LazyLinear(3), "lazy"),
        (nn.ParameterList([torch.ones(2, dtype=torch.complex64)]), "floating point"),
    ],
)
def test_modules_that_cannot_be_trained_are_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        make_learner(module, "regression")
    assert caught.value.field == ("model",)


def test_a_module_of_another_shape_is_refused() -> None:
    for shape, words in (((5,), "fails"), ((3,), "returns")):
        with pytest.raises(SpecError, match=words):
            make_problem(nn.Linear(3, 3), local=Local(), task="regression", outputs=2, shape=shape, samples=np.array([1]), seed=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": True}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"momentum": 1.0},
        {"optimizer": "adam", "momentum": 0.5}, {"weight_decay": -1.0}, {"clip_norm": 0.0}, {"optimizer": "sgdm"}, {"rate": 1.0},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Local.model_validate(bad)


def test_local_defaults_to_one_epoch() -> None:
    assert Local().epochs == 1
    assert Local(steps=3).epochs is None
    assert Local(epochs=2, batch_size=10).steps_for(np.array([0, 1, 10, 11])).tolist() == [0, 2, 2, 4]
