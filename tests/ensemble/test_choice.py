"""The choice of a block of features: its errors are those of rows left out, and it finds what the targets are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.moments import Clients, messages

from scarcity_ray.ensemble.choice import Choice, choose, left_out_error, trial
from scarcity_ray.ensemble.differing import Personal, differing
from scarcity_ray.ensemble.learning import learn
from scarcity_ray.ensemble.moments import Packing, targets, with_constant
from scarcity_ray.ensemble.personal import personal_head
from scarcity_ray.ensemble.representation import WavesAndInputs
from scarcity_ray.ensemble.ridge import all_rows, choose_strength, fit
from scarcity_ray.training.objective import TaskKind

WAVES, INPUTS = np.arange(28), np.arange(28, 30)
BLOCKS = {"identity": INPUTS, "waves": WAVES, "both": np.arange(30), "both_7": np.append(WAVES[:7], INPUTS)}


def federation(kind: str, seed: int, sizes: tuple[int, ...] = (12,) * 40) -> Clients:
    """Clients whose targets are a line, a wave, or both of two inputs, each with a line of its own about it; or noise alone.

    low: the line and a longer wave.
    """
    rng = np.random.default_rng(seed)
    to, made = WavesAndInputs(2, 28, seed=1, bandwidth=1.5), []
    for n in sizes:
        x = rng.uniform(-1.5, 1.5, (n, 2))
        line, wave = x @ (np.array([1.0, -2.0]) + 0.5 * rng.standard_normal(2)), 2 * np.sin(3 * x[:, 0])
        low = 4 * line + np.cos(1.5 * x[:, 0])
        y = {"line": line, "wave": wave, "both": 4 * line + 2 * wave, "low": low, "noise": 0 * line}[kind] + 0.3 * rng.standard_normal(n)
        made.append((to(torch.from_numpy(x).float()), torch.from_numpy(y[:, None]).float()))
    return made


def tried(every: Clients, personal: Personal = "auto") -> dict[str, Choice]:
    """What the clients' answers to a trial choose, by which block is the usual one."""
    packing, rows, samples = messages(every, "regression", 1)
    squares = np.zeros((len(every), len(BLOCKS)))
    for b, columns in enumerate(BLOCKS.values()):
        heads, scatter = trial(*packing.only(rows, columns), samples, personal)
        covariance = None if scatter is None else scatter.covariance
        for m, (f, y) in enumerate(every):
            squares[m, b] = left_out_error(with_constant(f[:, columns].double()), y.double(), heads[m], covariance)
    return {usual: choose(list(BLOCKS), usual, squares, float(samples.sum())) for usual in BLOCKS}


@pytest.mark.parametrize(("kind", "good"), [("line", {"identity"}), ("wave", {"waves", "both"}), ("both", {"both"}), ("low", {"both_7"})])
@pytest.mark.parametrize("seed", range(3))
def test_what_the_targets_are_made_of_is_found(kind: str, good: set[str], seed: int) -> None:
    """Whichever is the usual block. Beside the waves that a wave takes, inputs do neither harm nor good."""
    for found in tried(federation(kind, seed)).values():
        assert found.name in good
        assert found.errors[found.name] < 1.02 * min(found.errors.values())


@pytest.mark.parametrize(("lower", "name", "gain"), [
    ([1.0, 0.0, 0.0, 0.0, -0.01], "both", 0.987),  # one client alone, however much it gains
    ([1.0, 1.0, 0.0, 0.0, 0.0], "waves", 1.633),
    ([1.0, 1.0, 1.0, 0.0, 0.0], "waves", 2.449),
    ([1.0, 1.0, -1.0, 0.5, -0.5], "both", 0.492),
    ([0.0, 0.0, 0.0, 0.0, 0.0], "both", 0.0),
])  # fmt: skip
def test_a_block_stays_unless_another_is_better_by_a_standard_error(lower: list[float], name: str, gain: float) -> None:
    """Gains are Student's t of the clients' differences."""
    squares = 5 + np.stack([np.full(5, 9.0), -np.array(lower), np.zeros(5)], axis=1)
    found = choose(["identity", "waves", "both"], "both", squares, 20.0)
    assert found.name == name
    assert found.gains["waves"] == pytest.approx(gain, abs=1e-3)
    assert found.errors == pytest.approx({"identity": 70 / 20, "waves": (25 - sum(lower)) / 20, "both": 25 / 20})


def test_of_clearly_better_blocks_the_best_is_taken() -> None:
    squares = np.random.default_rng(0).uniform(1, 2, (30, 1)) + np.array([0.0, 0.3, 1.0])
    assert choose(["identity", "waves", "both"], "both", squares, 30.0).name == "identity"


@pytest.mark.parametrize(("personal", "lowest"), [("auto", 0.75), ("none", 0.9)])
def test_errors_predict_those_on_new_rows(personal: Personal, lowest: float) -> None:
    """Those on 400 further rows of each client, of its head from all of its 15."""
    every = federation("both", 7, (415,) * 60)
    own = [(f[:15], y[:15]) for f, y in every]
    said = tried(own, personal)["both"].errors
    packing, rows, samples = messages(own, "regression", 1)
    true = {name: on_new_rows(packing, rows, samples, columns, every, personal) for name, columns in BLOCKS.items()}
    assert sorted(said, key=said.__getitem__) == sorted(true, key=true.__getitem__)
    assert all(lowest < said[name] / true[name] < 1.15 for name in BLOCKS)


def test_waves_that_the_truth_does_not_need_do_harm() -> None:
    """Clients' slopes differ, and the variance that they need is that of each wave too."""
    every = federation("low", 0, (115,) * 40)
    packing, rows, samples = messages([(f[:15], y[:15]) for f, y in every], "regression", 1)
    error = {name: on_new_rows(packing, rows, samples, BLOCKS[name], every, "auto") for name in ("identity", "both", "both_7")}
    assert error["both_7"] < 0.8 * min(error["identity"], error["both"])


def on_new_rows(packing: Packing, rows: np.ndarray, samples: np.ndarray, columns: np.ndarray, every: Clients, personal: Personal) -> float:
    """Mean squared error of what clients learn from their first 15 rows on the others."""
    own, sent = packing.only(rows, columns)
    group = learn(own, sent, samples, experts=1, most=1, personal=personal, router="density", seed=0).groups[0]
    common, squares = fit(group.fitted, group.strength), []
    for features, target in every:
        f, y = with_constant(features[:, columns].double()), target.double()
        head = common if group.scatter is None else personal_head(f[:15], y[:15], common, group.scatter.covariance)
        squares.append((y[15:] - f[15:] @ head).square())
    return float(torch.cat(squares).mean())


@pytest.mark.parametrize("form", ["diagonal", "full", None])
@pytest.mark.parametrize("n", [1, 4, 33])
def test_each_row_is_left_out_in_turn(n: int, form: str | None) -> None:
    (features, target), rng = federation("both", 3, (n,))[0], np.random.default_rng(0)
    f, y = with_constant(features.double()), target.double()
    root, head = torch.from_numpy(rng.standard_normal((31, 31))) / 5, torch.from_numpy(rng.standard_normal((31, 1)))
    q = None if form is None else root @ root.T if form == "full" else root.diagonal().square()
    wanted = 0.0
    for i in range(n):
        others = torch.arange(n) != i
        own = head if q is None else personal_head(f[others], y[others], head, q)
        wanted += float((y[i] - f[i] @ own).square().sum())
    assert left_out_error(f, y, head, q) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("personal", ["slopes", "none"])
def test_a_client_has_no_say_in_the_head_that_it_tries(task: TaskKind, personal: Personal) -> None:
    """The head is that of the others' rows, fitted again: of targets with the same weights, those of generalised least squares."""
    every = [(f[:, -2:], y) for f, y in federation("both", 3, (1, 4, 33, 9))]
    if task == "classification":
        every = [(f, (y[:, 0] > 0).long()) for f, y in every]
    packing, rows, samples = messages(every, task, 2 if task == "classification" else 1)
    heads, scatter = trial(packing, rows, samples, personal)
    total, clients = packing.total(rows, samples), all_rows(packing, rows, samples)
    found = differing(task, total, clients, *choose_strength(total, clients), personal)
    for m in range(len(every)):
        gram, cross = torch.zeros(3, 3, dtype=torch.float64), torch.zeros_like(heads[0])
        for i, (features, y) in enumerate(every):
            f, z = with_constant(features.double()), targets(y, task, packing.outputs)
            v = torch.eye(len(f), dtype=torch.float64)
            if scatter is not None and task == "regression":
                v = v + f * scatter.covariance @ f.T
            if i != m:
                gram, cross = gram + f.T @ torch.linalg.solve(v, f), cross + f.T @ torch.linalg.solve(v, z)
        penalty = torch.diag(torch.tensor([found.strength, found.strength, 0.0], dtype=torch.float64))
        assert torch.allclose(heads[m], torch.linalg.solve(gram + penalty, cross), rtol=1e-4, atol=1e-5)
