"""FedEM's synthetic mixture: every client's labels come from the same few linear models, mixed in proportions of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.randomness import stream
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Pool, refuse_too_large

CLIENTS = 300


class FedEM(Spec):
    """The synthetic mixture of Marfoq et al. (Federated Multi-Task Learning under a Mixture of Distributions, NeurIPS 2021).

    Client m holds min(lognormal(4, 2) + 50, 1000) rows with x ~ U(-1, 1). Each is labelled by a component k drawn from the client's
    weights, Dirichlet(alpha): y = round(sigmoid(<x, theta_k> + eps)), with theta_k ~ U(-1, 1) and eps ~ N(0, noise). What is a
    client's group here is the component with the largest weight; which one labelled a row is not recorded.

    As in the authors' `data/synthetic/generate_data.py` (repository omarfoq/FedEM), sizes, weights and components are drawn in that
    order from one NumPy RandomState: the scenario's seed 12345 gives theirs, 67,758 rows. The rows follow the same law, from a stream
    for each client: the authors' sequence has 5,000 more test rows a client between them, which are not held here.
    """

    kind: Literal["fedem"] = "fedem"
    dimensions: Annotated[int, Field(ge=1, description="numbers in one input")] = 150
    components: Annotated[int, Field(ge=1, description="linear models that the clients mix")] = 3
    alpha: Annotated[
        float, Field(ge=0.05, description="Dirichlet concentration of a client's weights: small for one component a client")
    ] = 0.4
    noise: Annotated[float, Field(ge=0, description="standard deviation of the noise in the logit")] = 0.1

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """Draws the clients in order; 300 of them unless `clients` says otherwise."""
        if seed >= 2**32:
            raise SpecError(("seed",), seed, "fedem seeds NumPy's RandomState, which takes seeds below 2**32")
        tasks = clients or CLIENTS
        draw = np.random.RandomState(seed)  # the published recipe is this generator's sequence
        counts: NDArray[np.int64] = np.minimum(draw.lognormal(4, 2, tasks).astype(np.int64) + 50, 1000)
        weights = np.stack([draw.dirichlet(np.full(self.components, self.alpha)) for _ in range(tasks)])
        theta = draw.uniform(-1, 1, (self.components, self.dimensions))

        ends = np.cumsum(counts)
        rows = int(ends[-1])
        refuse_too_large(("data", "source", "dimensions"), self.dimensions, rows, self.dimensions)
        x, y = np.empty((rows, self.dimensions), dtype=np.float32), np.empty(rows, dtype=np.int64)
        for task, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
            own = stream(seed, "fedem rows", task)
            mine, component = own.uniform(-1, 1, (end - start, self.dimensions)), own.choice(self.components, end - start, p=weights[task])
            x[start:end] = mine
            # einsum, because it adds up in one order on every machine; a logit above 0 is what round(sigmoid) makes a 1
            y[start:end] = np.einsum("nd,nd->n", mine, theta[component]) + self.noise * own.standard_normal(end - start) > 0
        return Pool(x, y, "classification", 2, np.repeat(np.arange(tasks), counts), group=weights.argmax(axis=1))
