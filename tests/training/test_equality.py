"""The trainer against the loop everybody writes: one client after the other, one torch module, one torch optimizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.models import CNN, MLP, Linear, build
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.explicit import Explicit
from scarcity_ray.training.local import Local
from scarcity_ray.training.looped import Looped
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

COUNTS = [500, 250, 90, 40, 41, 21, 20, 19, 12, 7, 3, 2]
OPTIMIZERS = {
    "sgd": {"lr": 0.05},
    "decay": {"lr": 0.05, "weight_decay": 0.01},
    "momentum": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01},
    "adam": {"lr": 0.003, "optimizer": "adam", "weight_decay": 0.01},
    "clipped": {"lr": 0.05, "clip_norm": 0.5, "momentum": 0.5},
}


class Residual(nn.Module):
    """A module whose layers the explicit path does not know."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(inputs, inputs), nn.GroupNorm(1, inputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.nn.functional.silu(self.norm(self.first(x))))


def federation(counts: list[int], shape: tuple[int, ...], outputs: int, regression: bool = False, seed: int = 0) -> Shards:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sum(counts), *shape), dtype=np.float32)
    y = rng.standard_normal((len(x), outputs), dtype=np.float32) if regression else rng.integers(0, outputs, len(x))
    x.flags.writeable = y.flags.writeable = False  # as in a shared object store
    return Shards(x, y, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def torch_loop(problem: Problem, task: Task, minibatches: list[list[tuple[Tensor, Tensor]]]) -> tuple[Tensor, list[float]]:
    """Plain PyTorch on the same minibatches: rows of trained parameters, and each client's mean loss met."""
    local, rows, losses = problem.local, [], []
    classification = problem.task == "classification"
    for own in minibatches:
        module = copy.deepcopy(problem.module).to(problem.layout.dtype)
        if local.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(module.parameters(), lr=local.lr, weight_decay=local.weight_decay)
        else:
            optimizer = torch.optim.SGD(module.parameters(), lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay)
        total, met = 0.0, 0
        for x, y in own:
            optimizer.zero_grad()
            scores = module(x)
            loss = nn.functional.cross_entropy(scores, y) if classification else nn.functional.mse_loss(scores, y)
            loss.backward()
            if local.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), local.clip_norm)
            optimizer.step()
            total, met = total + loss.item() * len(x), met + len(x)
        rows.append(problem.layout.row(module.state_dict()))
        losses.append(total / met)
    return torch.stack(rows), losses


def minibatches(task: Task) -> list[list[tuple[Tensor, Tensor]]]:
    """Each client's minibatches, without padding."""
    result: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(task.k)]
    for batch in task.batches():
        for i, size in enumerate(batch.sizes.tolist()):
            result[i].append((batch.x[i, :size], batch.y[i, :size]))
    return result


def worst(problem: Problem, shards: Shards) -> float:
    """The largest difference to the loop, relative to the update, over all clients."""
    result = 0.0
    ids = np.arange(problem.population)
    for chunk in chunks(problem, shards, ids, problem.local.steps_for(shards.counts)):
        task = Task(problem, shards, chunk, round=3)
        start = problem.row.clone()
        y = task.local_sgd(problem.row[None])
        expected, losses = torch_loop(problem, task, minibatches(task))
        assert torch.equal(problem.row, start)
        np.testing.assert_allclose(task.train_loss, losses, rtol=1e-4)
        result = max(result, float(((y - expected).norm(dim=1) / (expected - start).norm(dim=1)).max()))
    return result


MODELS = {
    "linear": (Linear(), (20,)),
    "relu": (MLP(hidden=[33, 17]), (20,)),
    "wide": (MLP(hidden=[70], activation="tanh"), (8, 9)),
    "cnn": (CNN(channels=[4, 8], hidden=16), (3, 8, 9)),
    "flat cnn": (CNN(channels=[4], hidden=16), (64,)),
    "grey cnn": (CNN(channels=[4, 8], hidden=16), (8, 9)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("regression", [False, True])
def test_equals_the_loop_in_float64(model: str, optimizer: str, regression: bool) -> None:
    spec, shape = MODELS[model]
    counts = [c for c in COUNTS if c < 100] if "cnn" in model else COUNTS
    shards = federation(counts, shape, 5, regression)
    local = Local(epochs=3, batch_size=10, **OPTIMIZERS[optimizer])
    task = "regression" if regression else "classification"
    problem = make_problem(
        build(spec, shape, 5, 3), local=local, task=task, outputs=5, shape=shape, samples=shards.counts, seed=1, dtype=torch.float64
    )
    assert isinstance(problem.learner, Explicit)
    assert worst(problem, shards) <= 1e-10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["linear", "relu", "wide"])
def test_equals_the_loop_in_float32(model: str, optimizer: str) -> None:
    spec, shape = MODELS[model]
    shards = federation(COUNTS, shape, 5)
    local = Local(epochs=3, batch_size=10, **OPTIMIZERS[optimizer])
    problem = make_problem(
        build(spec, shape, 5, 3), local=local, task="classification", outputs=5, shape=shape, samples=shards.counts, seed=1
    )
    assert worst(problem, shards) <= 1e-5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_any_module_equals_the_loop(optimizer: str, dtype: torch.dtype, bound: float) -> None:
    counts = [60, 25, 21, 3, 2]
    shards = federation(counts, (7,), 4)
    torch.manual_seed(0)
    problem = make_problem(
        Residual(7, 4), local=Local(epochs=2, batch_size=10, **OPTIMIZERS[optimizer]), task="classification", outputs=4, shape=(7,),
        samples=shards.counts, seed=1, dtype=dtype,
    )  # fmt: skip
    assert isinstance(problem.learner, Looped)
    assert worst(problem, shards) <= bound


def test_both_paths_agree() -> None:
    class Hidden(nn.Sequential):
        """The same layers under a name the explicit path does not know."""

    shards = federation([30, 30, 12], (9,), 3)
    layers = [nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3)]
    known, unknown = (
        make_problem(
            kind(*layers),
            local=Local(epochs=2),
            task="classification",
            outputs=3,
            shape=(9,),
            samples=shards.counts,
            seed=1,
            dtype=torch.float64,
        )
        for kind in (nn.Sequential, Hidden)
    )
    assert isinstance(known.learner, Explicit)
    assert isinstance(unknown.learner, Looped)
    a, b = (Task(p, shards, np.arange(3), 1).local_sgd(p.row[None]) for p in (known, unknown))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_affine_step_is_the_proximal_loss() -> None:
    """`prox_weight (y - prox_center) + grad_offset` is the gradient of a term added to the loss."""
    shards = federation([30, 18], (6,), 3)
    module = nn.Linear(6, 3)
    for local in (Local(epochs=3, lr=0.1), Local(epochs=3, lr=0.1, momentum=0.9), Local(epochs=3, lr=0.01, optimizer="adam")):
        problem = make_problem(
            module, local=local, task="classification", outputs=3, shape=(6,), samples=shards.counts, seed=1, dtype=torch.float64
        )
        task = Task(problem, shards, np.array([0, 1]), 1)
        grad_offset, prox_center = torch.zeros(2, problem.layout.width, dtype=torch.float64), problem.row[None]
        grad_offset[:, :18] = 0.01
        y = task.local_sgd(problem.row[None], grad_offset=grad_offset, prox_weight=0.3, prox_center=prox_center)
        for i, own in enumerate(minibatches(task)):
            row = problem.row.clone().requires_grad_()
            optimizer = (
                torch.optim.Adam([row], lr=0.01) if local.optimizer == "adam" else torch.optim.SGD([row], lr=0.1, momentum=local.momentum)
            )
            for x, labels in own:
                optimizer.zero_grad()
                views = problem.layout.views(row[None])
                scores = x @ views["weight"][0].T + views["bias"][0]
                loss = (
                    nn.functional.cross_entropy(scores, labels)
                    + 0.15 * (row - prox_center[0]).square().sum()
                    + (grad_offset[i] * row).sum()
                )
                loss.backward()
                optimizer.step()
            torch.testing.assert_close(y[i], row.detach(), rtol=1e-10, atol=1e-12)
