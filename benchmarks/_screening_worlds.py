"""Honest federations for screening.py: none of their clients may be accused. Each world is a function of a seed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _federations_list import REALS
from _federations_runs import data_of
from numpy.typing import NDArray

from scarcity_ray.core.federation import Federation
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse

Rows = list[tuple[NDArray[np.float32], NDArray[Any]]]
"""Each client's inputs `[n, d]` and targets `[n, 1]` (float32), or classes `[n]` (int64)."""

Draw = np.random.Generator
_CLIENTS = 60
_FEDERATIONS = (_CLIENTS, 20, 8)  # clients, in turn by the seed


def _sizes(draw: Draw, clients: int = _CLIENTS, middle: float = 12, spread: float = 1.0) -> list[int]:
    return np.maximum(draw.lognormal(np.log(middle), spread, clients).astype(int), 1).tolist()


def _law(draw: Draw, inputs: list[NDArray[np.float64]], heads: list[NDArray[np.float64]] | None = None, noise: float = 1.0) -> Rows:
    """Targets linear in the inputs, by one head or by each client's own."""
    head = draw.standard_normal((inputs[0].shape[1], 1))
    own = heads or [head + 0.3 * draw.standard_normal(head.shape) for _ in inputs]
    made = [(x, x @ w + noise * draw.standard_normal((len(x), 1))) for x, w in zip(inputs, own, strict=True)]
    return [(x.astype(np.float32), y.astype(np.float32)) for x, y in made]


def normal(draw: Draw) -> Rows:
    return _law(draw, [draw.standard_normal((n, 5)) for n in _sizes(draw)])


def shifted(draw: Draw) -> Rows:
    """Means and scales of inputs differ between clients."""
    made = [draw.lognormal(0, 0.7, (1, 5)) * draw.standard_normal((n, 5)) + 2 * draw.standard_normal((1, 5)) for n in _sizes(draw)]
    return _law(draw, made)


def heavy(draw: Draw) -> Rows:
    """Inputs of Student's t with 2 degrees of freedom, targets with lognormal noise."""
    rows = _law(draw, [draw.standard_t(2, (n, 4)) for n in _sizes(draw)])
    return [(x, y + draw.lognormal(0, 1.5, y.shape).astype(np.float32)) for x, y in rows]


def sums(draw: Draw) -> Rows:
    """Money: lognormal inputs, whose level differs by client, and targets that grow with them."""
    made = [np.exp(draw.normal(0, 1.0) + draw.normal(0, 1.2, (n, 3))) for n in _sizes(draw)]
    return [(x.astype(np.float32), (x.sum(1, keepdims=True) * draw.lognormal(0, 0.3, (len(x), 1))).astype(np.float32)) for x in made]


def few(draw: Draw) -> Rows:
    """One to three rows."""
    return _law(draw, [draw.standard_normal((n, 5)) for n in draw.integers(1, 4, _CLIENTS)])


def groups(draw: Draw) -> Rows:
    """Three hidden groups with heads of their own, one of three clients; targets have little noise."""
    heads = [3 * draw.standard_normal((5, 1)) for _ in range(3)]
    own = [heads[group] for group in draw.permutation([0] * (_CLIENTS - 15) + [1] * 12 + [2] * 3)]
    return _law(draw, [draw.standard_normal((n, 5)) for n in _sizes(draw)], own, noise=0.1)


def far(draw: Draw) -> Rows:
    """One client lies far outside, and follows the common law."""
    made = [draw.standard_normal((n, 5)) for n in _sizes(draw)]
    made[3] = 15 * made[3] + 10
    head = draw.standard_normal((5, 1))
    return _law(draw, made, [head] * _CLIENTS)


def one_large(draw: Draw) -> Rows:
    """One client has most rows; its head is another."""
    sizes = [3000, *_sizes(draw)[1:]]
    return _law(draw, [draw.standard_normal((n, 5)) for n in sizes])


def counts(draw: Draw) -> Rows:
    """Poisson counts with rates from 0.05 to hundreds."""
    rates = draw.lognormal(1, 1.5, _CLIENTS)
    made = [(draw.standard_normal((n, 3)), rate) for n, rate in zip(_sizes(draw), rates, strict=True)]
    return [(x.astype(np.float32), draw.poisson(rate * np.exp(0.4 * x[:, :1])).astype(np.float32)) for x, rate in made]


def rare(draw: Draw) -> Rows:
    """Most targets are 0, and a few are large, as costs of claims are."""
    made = [draw.standard_normal((n, 4)) for n in _sizes(draw)]
    return [
        (x.astype(np.float32), ((draw.random((len(x), 1)) < 0.1) * draw.lognormal(3, 1.5, (len(x), 1))).astype(np.float32)) for x in made
    ]


def categories(draw: Draw) -> Rows:
    """Two words of four and three kinds, and a class, in eight rows each."""
    first, second = (draw.integers(0, kinds, (_CLIENTS, 8)) for kinds in (4, 3))
    y = (draw.random((_CLIENTS, 8)) < 0.3 + 0.1 * first).astype(np.int64)
    x = np.concatenate([np.eye(4)[first], np.eye(3)[second]], axis=2).astype(np.float32)
    return list(zip(x, y, strict=True))


def yes_or_no(draw: Draw) -> Rows:
    """One question and one answer, in twenty rows each: many clients agree in all."""
    x = (draw.random((_CLIENTS, 20, 1)) < 0.3).astype(np.float32)
    return list(zip(x, (draw.random((_CLIENTS, 20)) < 0.2 + 0.3 * x[..., 0]).astype(np.int64), strict=True))


def three_questions(draw: Draw) -> Rows:
    """Three questions, mostly no, and a mark of 0 to 4, in six rows each."""
    x = (draw.random((_CLIENTS, 6, 3)) < 0.15).astype(np.float32)
    return list(zip(x, draw.binomial(4, 0.2 + 0.2 * x[..., :1]).astype(np.float32), strict=True))


def one_word(draw: Draw) -> Rows:
    """One row with one of forty words."""
    return [(np.eye(40, dtype=np.float32)[[k]], draw.integers(0, 2, 1)) for k in draw.integers(0, 40, _CLIENTS)]


def design(draw: Draw) -> Rows:
    """All clients are measured on the same ten days; whole numbers."""
    days = np.arange(10, dtype=np.float32)[:, None]
    return [(days, np.round(5 + draw.normal() + 0.5 * days + draw.standard_normal((10, 1))).astype(np.float32)) for _ in range(_CLIENTS)]


MADE: dict[str, Callable[[Draw], Rows]] = {
    world.__name__: world
    for world in (
        *(normal, shifted, heavy, sums, few, groups, far, one_large, counts, rare),
        *(categories, yes_or_no, three_questions, one_word, design),
    )
}

_DIGITS: dict[str, dict[str, Any]] = {
    "digits, Dirichlet 0.1": {"partition": {"kind": "dirichlet", "alpha": 0.1}},
    "digits, Dirichlet 0.3": {"partition": {"kind": "dirichlet", "alpha": 0.3}},
    "digits, permuted labels": {"partition": {"kind": "iid"}, "transforms": [{"kind": "permute_labels", "groups": 3}]},
    "digits, rotated": {"partition": {"kind": "iid"}, "transforms": [{"kind": "rotate", "groups": 4}]},
}


def dealt(name: str, seed: int) -> Federation:
    """A world of digits, or one of the real federations, split for this seed."""
    folder = Path(tempfile.mkdtemp(prefix="scarcity-benchmark-"))
    try:
        if name in REALS:
            data = data_of(REALS[name], folder)
        else:
            data = {"source": {"kind": "digits"}, "clients": 100, "test_fraction": 0.5, **_DIGITS[name]}
        strategies = [{"kind": "afl", "representation": {"kind": "identity"}}]
        settings = {"name": "deal", "rounds": 1, "data": data, "strategies": strategies, "seed": seed, "execution": {"ray": False}}
        return prepare(parse(settings), Path()).federation
    finally:
        shutil.rmtree(folder, ignore_errors=True)


DEALT = (*_DIGITS, *REALS)


def honest(name: str, seed: int) -> tuple[Rows, str, int]:
    """A world's clients with rows, the task, and outputs."""
    if name in MADE:
        rows = MADE[name](np.random.default_rng([seed, len(name), *name.encode()]))[: _FEDERATIONS[seed % 3]]
        classes = rows[0][1].dtype.kind == "i"
        return rows, "classification" if classes else "regression", 2 if classes else 1
    held = dealt(name, seed)
    shards = [(held.train.x[rows], held.train.y[rows]) for rows in map(held.train.rows, range(held.clients)) if rows.stop > rows.start]
    return [(x.reshape(len(x), -1), y) for x, y in shards], held.task, held.outputs
