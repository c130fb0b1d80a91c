"""FedEM's synthetic mixture: all clients' labels come from the same few linear models, in different proportions for each client."""

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
    weights, Dirichlet(alpha): y = round(sigmoid(<x, theta_k> + eps)), with theta_k ~ U(-1, 1) and eps ~ N(0, noise). The group of a
    client is the component with the largest weight. The component of each row is not recorded.

    As in the authors' `data/synthetic/generate_data.py` (repository omarfoq/FedEM), sizes, weights and components are drawn in this
    order from one NumPy RandomState: the scenario's seed 12345 gives the authors' values, 67,758 rows. The rows have the authors'
    distribution, but each client has its own random stream: the authors' sequence also contains 5,000 test rows per client, which
    are not generated here.
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
            inputs = own.uniform(-1, 1, (end - start, self.dimensions))
            component = own.choice(self.components, end - start, p=weights[task])
            x[start:end] = inputs
            # einsum adds in the same order on every machine. round(sigmoid) is 1 if and only if the logit is above 0.
            y[start:end] = np.einsum("nd,nd->n", inputs, theta[component]) + self.noise * own.standard_normal(end - start) > 0
        return Pool(x, y, "classification", 2, np.repeat(np.arange(tasks), counts), group=weights.argmax(axis=1))
