"""Gaussian blobs, one for each class: a classification task of any size, generated client by client."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from scarcity_ray.core.randomness import hash64, stream, unit
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Pool, refuse_too_large
from scarcity_ray.data.sizes import Sizes, client_sizes

_BLOCK = 16  # clients whose class means are added in one call: they still fit in the cache, and fewer calls are needed


class Blobs(Spec):
    """Each row is its class's mean plus normal noise of standard deviation 1 in every input; classes are equally likely, or with `alpha`
    by a mix of each client's own, drawn from a symmetric Dirichlet law.

    The means lie `separation / sqrt(2)` from the origin in seeded random directions, so two of them are `separation`
    apart in the root mean square (nearly all pairs within a few hundredths of it where inputs are many).
    A client's rows depend on the seed and its id alone: client 3 is the same among 10 clients and among 1,000.
    """

    kind: Literal["blobs"] = "blobs"
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(strict=False, min_length=1, description="shape of one input, as [784] or [1, 28, 28]"),
    ] = (784,)
    classes: Annotated[int, Field(ge=2, description="number of classes")] = 62
    samples_per_client: Annotated[Sizes, Field(description="rows of each client: a number, or {lognormal: {...}}")] = 100
    alpha: Annotated[
        float | None, Field(ge=1e-3, description="Dirichlet concentration of a client's classes: small for few classes; null: all alike")
    ] = None
    separation: Annotated[float, Field(ge=0, description="distance between two class means, in standard deviations of the noise")] = 7.0

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """Generates the rows, one client after the other."""
        if clients is None:
            raise SpecError(("data", "clients"), None, "blobs are generated: say how many clients, as `clients: 100`")
        counts = client_sizes(self.samples_per_client, clients, seed)
        ends, width = np.cumsum(counts), math.prod(self.shape)
        rows = int(ends[-1])
        refuse_too_large(("data", "source", "samples_per_client"), self.samples_per_client, rows, width)

        direction = stream(seed, "blobs mean").standard_normal((self.classes, width))
        means = self.separation / math.sqrt(2) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        means = means.astype(np.float32)

        owner = np.repeat(np.arange(clients), counts)
        place = np.arange(rows) - np.repeat(ends - counts, counts)
        y = (hash64(seed, "blobs class", owner, place) % np.uint64(self.classes)).astype(np.int64)
        if self.alpha is not None:
            u = unit(seed, "blobs own class", owner, place)
            for client in range(clients):
                mix = stream(seed, "blobs mix", client).dirichlet(np.full(self.classes, self.alpha))
                rows_here = slice(ends[client] - counts[client], ends[client])
                y[rows_here] = np.minimum(np.searchsorted(np.cumsum(mix), u[rows_here], side="right"), self.classes - 1)
        x = np.empty((rows, width), dtype=np.float32)
        keys, starts = hash64(seed, "blobs noise", np.arange(clients)).tolist(), [0, *ends.tolist()]
        for block in range(0, clients, _BLOCK):
            last = min(block + _BLOCK, clients)
            for client in range(block, last):
                noise = np.random.Generator(np.random.Philox(key=keys[client]))
                noise.standard_normal(out=x[starts[client] : starts[client + 1]], dtype=np.float32)
            rows_here = slice(starts[block], starts[last])
            x[rows_here] += means[y[rows_here]]
        return Pool(x.reshape(rows, *self.shape), y, "classification", self.classes, owner)
