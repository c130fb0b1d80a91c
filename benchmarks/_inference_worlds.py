"""Federations whose population gain is known, many at once: each client's ridge against one ridge on everybody's rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from scarcity_ray.core.randomness import stream

Floats = np.ndarray[Any, np.dtype[np.float64]]

FEATURES = 4
_CELLS = 3_000_000
"""Rows generated at a time: some 100 MB of inputs."""


@dataclass(frozen=True)
class World:
    """clients, rows: of each federation and client. metric: "squared" (lower squared error) or "accuracy". apart: standard
    deviation of clients' coefficients, which have the norm 1. luck: standard deviation of what training adds to the
    shared coefficients in each seed, norm. tested: share of rows that are test rows. signal: norm of the population's
    coefficients; noise has the standard deviation 1."""

    clients: int = 10
    rows: int = 16
    metric: str = "squared"
    apart: float = 0.3
    luck: float = 0.0
    tested: float = 0.5
    signal: float = 1.0

    @property
    def test_rows(self) -> int:
        """Of each client."""
        return max(1, round(self.rows * self.tested))


def gains(world: World, seeds: int, resplit: bool, federations: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Batches of (gains `[federations, seeds, clients]`, the shared coefficients `[federations, seeds, features]`)."""
    size = max(1, _CELLS // (world.clients * world.rows))
    for start in range(0, federations, size):
        draw = stream(seed, "inference worlds", start)
        count = min(size, federations - start)
        found, shared = np.empty((count, seeds, world.clients)), np.empty((count, seeds, FEATURES))
        for place in range(seeds):
            if place == 0 or not resplit:
                x, y = _federation(world, count, draw)
            order = draw.random((count, world.clients, world.rows)).argsort(axis=-1)
            train, test = order[..., world.test_rows :], order[..., : world.test_rows]
            found[:, place], shared[:, place] = _one_seed(world, x, y, train, test, draw)
        yield found, shared


@lru_cache
def truth(world: World, federations: int, seed: int) -> tuple[float, float]:
    """(the population's expected gain, the expected risk of the shared coefficients), over fresh clients, rows and training.

    Gains are simulated without the luck of training, whose expected cost, the shared coefficients' risk with it less the
    risk without it, is averaged over many draws of it."""
    calm = replace(world, luck=0.0)
    found, shared = (np.concatenate(part) for part in zip(*gains(calm, 1, False, federations, seed), strict=True))
    noise = world.luck / 2 * stream(seed, "luck").standard_normal((100 if world.luck else 1, *shared.shape))
    disturbed, undisturbed = float(np.mean([risk(world, shared + one).mean() for one in noise])), float(risk(world, shared).mean())
    return float(found.mean()) - (disturbed - undisturbed), disturbed


def _federation(world: World, count: int, draw: np.random.Generator) -> tuple[Floats, Floats]:
    shape = (count, world.clients)
    beta = np.full(FEATURES, world.signal / 2) + world.apart / 2 * draw.standard_normal((*shape, FEATURES))
    x = draw.standard_normal((*shape, world.rows, FEATURES))
    y = np.einsum("fcnp,fcp->fcn", x, beta) + draw.standard_normal((*shape, world.rows))
    return x, np.sign(y) if world.metric == "accuracy" else y


def _one_seed(world: World, x: Floats, y: Floats, train: Any, test: Any, draw: np.random.Generator) -> tuple[Floats, Floats]:
    inputs, labels = np.take_along_axis(x, train[..., None], axis=2), np.take_along_axis(y, train, axis=2)
    gram, moment = np.swapaxes(inputs, 2, 3) @ inputs, np.einsum("fcnp,fcn->fcp", inputs, labels)
    local = np.linalg.solve(gram + np.eye(FEATURES), moment[..., None])[..., 0]
    shared = np.linalg.solve(gram.sum(1) + np.eye(FEATURES), moment.sum(1)[..., None])[..., 0]
    shared = shared + world.luck / 2 * draw.standard_normal(shared.shape)
    inputs, labels = np.take_along_axis(x, test[..., None], axis=2), np.take_along_axis(y, test, axis=2)
    alone, federated = np.einsum("fcnp,fcp->fcn", inputs, local), np.einsum("fcnp,fp->fcn", inputs, shared)
    if world.metric == "accuracy":
        per_row = (np.sign(federated) == labels) * 1.0 - (np.sign(alone) == labels)
    else:
        per_row = (alone - labels) ** 2 - (federated - labels) ** 2
    return per_row.mean(-1), shared


def risk(world: World, shared: Floats) -> Floats:
    """The expected loss of shared coefficients `[..., features]` on the rows of a client of the population."""
    beta = np.full(FEATURES, world.signal / 2)
    if world.metric == "squared":
        return 1 + world.apart**2 / 4 * FEATURES + ((shared - beta) ** 2).sum(-1)
    clients = beta + world.apart / 2 * stream(0, "population").standard_normal((500 if world.apart else 1, FEATURES))
    length = np.linalg.norm(shared, axis=-1, keepdims=True)
    # both scores are normal: their signs differ with the chance arccos(correlation) / pi
    correlation = shared @ (clients / np.sqrt((clients**2).sum(1, keepdims=True) + 1)).T / length
    return np.asarray((np.arccos(correlation) / np.pi).mean(-1))
