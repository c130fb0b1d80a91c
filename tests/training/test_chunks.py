"""The same bits for any chunking: training, losses, norms and evaluation of a client do not know its company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.models import CNN, MLP, Linear, build
from scarcity_ray.training.batches import padded_rows
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import evaluate
from scarcity_ray.training.layers import product
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

OPTIMIZERS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    {"lr": 0.01, "optimizer": "adam"},
    {"lr": 0.1, "clip_norm": 0.3},
]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, Shards, bool]:
    kind = draw(st.sampled_from(["mlp", "mlp", "linear", "cnn"]))
    outputs = draw(st.integers(1, 12))
    regression = draw(st.booleans())
    batch_size = draw(st.integers(1, 40))
    counts = draw(st.lists(st.integers(1, 90), min_size=2, max_size=12))
    shape: tuple[int, ...] = (draw(st.integers(1, 150)),)
    spec: Linear | MLP | CNN = Linear(bias=draw(st.booleans()))
    if kind == "mlp":
        hidden = draw(st.lists(st.integers(1, 90), min_size=1, max_size=2))
        spec = MLP(hidden=hidden, activation=draw(st.sampled_from(["relu", "tanh"])))
    elif kind == "cnn":
        shape = (draw(st.integers(1, 3)), draw(st.integers(4, 13)), draw(st.integers(4, 13)))
        spec = CNN(channels=draw(st.lists(st.integers(1, 9), min_size=1, max_size=2)), hidden=draw(st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((sum(counts), *shape), dtype=np.float32)
    y = rng.standard_normal((len(x), outputs), dtype=np.float32) if regression else rng.integers(0, outputs, len(x))
    shards = Shards(x, y, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    local = Local(epochs=2, batch_size=batch_size, **draw(st.sampled_from(OPTIMIZERS)))
    task = "regression" if regression else "classification"
    module = build(spec, shape, outputs, 3)
    problem = make_problem(module, local=local, task=task, outputs=outputs, shape=shape, samples=shards.counts, seed=1)
    return problem, shards, draw(st.booleans())


def everything(problem: Problem, shards: Shards, groups: list[np.ndarray], norms: bool) -> dict[int, bytes]:
    """All that is computed of each client, as bytes."""
    result: dict[int, bytes] = {}
    grad_offset = torch.linspace(-0.1, 0.1, problem.layout.width)[None] * (problem.row != 0)
    for group in groups:
        task = Task(problem, shards, group, round=2, norms=norms)
        y = task.local_sgd(problem.row[None])
        z = task.local_sgd(y, grad_offset=grad_offset, prox_weight=0.1, prox_center=problem.row[None])
        numbers = [task.train_loss, *task.grad_norms, task.loss(y), task.predictive_entropy(y)]
        numbers += [*evaluate(problem, y, shards, group), *evaluate(problem, problem.row[None], shards, group)]
        gradient = task.grad(y, next(task.batches()))
        for i, client in enumerate(group.tolist()):
            result[client] = b"".join(part[i].numpy().tobytes() for part in (y, z, gradient)) + b"".join(n[i].tobytes() for n in numbers)
    return result


def same_bits(case: tuple[Problem, Shards, bool], data: st.DataObject) -> None:
    problem, shards, norms = case
    ids = np.arange(problem.population)
    steps = problem.local.steps_for(shards.counts)
    widths = padded_rows(shards.counts, problem.local.batch_size)
    whole = [same[np.lexsort((same, -steps[same]))] for width in np.unique(widths) for same in [ids[widths == width]]]
    parts = []
    for group in whole:
        cuts = sorted(data.draw(st.sets(st.integers(1, max(len(group) - 1, 1)))))
        parts += [part for part in np.split(group, cuts) if len(part)]
    expected = everything(problem, shards, whole, norms)
    assert everything(problem, shards, parts, norms) == expected
    assert everything(problem, shards, chunks(problem, shards, ids, steps), norms) == expected


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.data())
def test_same_bits_for_any_chunking(case: tuple[Problem, Shards, bool], data: st.DataObject) -> None:
    same_bits(case, data)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.data())
def test_same_bits_for_any_chunking_in_many_cases(case: tuple[Problem, Shards, bool], data: st.DataObject) -> None:
    same_bits(case, data)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("inputs", [1, 24])
@pytest.mark.parametrize("rows", [1, 17])
def test_a_lone_client_has_the_products_of_company(rows: int, inputs: int, outputs: int) -> None:
    """On AVX-512 processors the library takes another way to a lone product whose shape has a 1."""
    torch.manual_seed(rows + inputs + outputs)
    x, w, bias, delta = (
        torch.randn(4, rows, inputs),
        torch.randn(4, outputs, inputs),
        torch.randn(4, 1, outputs),
        torch.randn(4, rows, outputs),
    )

    def products(clients: slice) -> list[torch.Tensor]:
        a, b, c, d = x[clients], w[clients], bias[clients], delta[clients]
        k = len(a)
        return [
            product(a, b.transpose(1, 2), a.new_empty(k, rows, outputs), c),
            product(d, b, a.new_empty(k, rows, inputs)),
            product(d.transpose(1, 2), a, a.new_empty(k, outputs, inputs)),
        ]

    for i in range(4):
        assert all(torch.equal(lone[0], whole[i]) for lone, whole in zip(products(slice(i, i + 1)), products(slice(0, 4)), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=80),
    st.integers(1, 50),
    st.lists(st.integers(0, 40), min_size=80, max_size=80),
    st.integers(1, 4000),
)
def test_chunks_hold_every_client_once_in_order(counts: list[int], batch_size: int, steps: list[int], features: int) -> None:
    shards = Shards(np.zeros((sum(counts), features), np.float32), np.zeros(sum(counts), np.int64), np.cumsum([0, *counts]))
    problem = make_problem(
        nn.Linear(features, 2), local=Local(batch_size=batch_size), task="classification", outputs=2, shape=(features,),
        samples=shards.counts, seed=0,
    )  # fmt: skip
    ids = np.flatnonzero(np.arange(len(counts)) % 3 < 2)
    given_steps = np.array(steps)[: len(ids)]
    found = chunks(problem, shards, ids, given_steps)
    assert sorted(np.concatenate(found).tolist()) == ids.tolist()
    for chunk in found:
        here = given_steps[np.searchsorted(ids, chunk)]
        assert np.all(np.lexsort((chunk, -here)) == np.arange(len(chunk)))
        assert len(set(padded_rows(shards.counts[chunk], batch_size).tolist())) == 1
        Task(problem, shards, chunk, 0, here)  # takes them


def test_a_task_refuses_what_chunks_would_not_give() -> None:
    shards = Shards(np.zeros((30, 2), np.float32), np.zeros(30, np.int64), np.array([0, 5, 15, 30]))
    problem = make_problem(
        nn.Linear(2, 2), local=Local(batch_size=10), task="classification", outputs=2, shape=(2,), samples=shards.counts, seed=0
    )
    with pytest.raises(ValueError, match="chunks"):
        Task(problem, shards, np.array([0, 1]), 1, np.array([2, 1]))
    with pytest.raises(ValueError, match="chunks"):
        Task(problem, shards, np.array([1, 2]), 1)


def test_padding_depends_on_the_client_alone_and_is_small() -> None:
    rows = np.arange(1, 1000)
    padded = padded_rows(rows, 512)
    assert np.all(padded >= np.minimum(rows, 512))
    assert np.all(padded <= np.minimum(rows * 1.125 + 1, 512))
    assert padded_rows(np.array([0]), 512).tolist() == [1]
    assert [int(padded_rows(np.array([n]), 512)[0]) for n in (5, 17, 33, 600)] == [5, 18, 36, 512]
