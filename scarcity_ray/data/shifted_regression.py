"""Linear regression on inputs whose mean differs from client to client: the smallest non-IID federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from scarcity_ray.core.randomness import stream
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Pool, refuse_too_large
from scarcity_ray.data.sizes import Sizes, client_sizes


class ShiftedRegression(Spec):
    """y = <w, x> + noise, with one w for all clients, and x ~ N(shift u_m, I) with u_m ~ N(0, I) for client m.

    |w|^2 is the number of features, so a model that always predicts 0 has a squared error of about
    features (1 + shift^2): 20 by default. Targets are not standardised.
    A client's rows depend on the seed and its id alone.
    """

    kind: Literal["shifted_regression"] = "shifted_regression"
    features: Annotated[int, Field(ge=1, description="numbers in one input")] = 10
    samples_per_client: Annotated[Sizes, Field(description="rows of each client: a number, or {lognormal: {...}}")] = 100
    shift: Annotated[float, Field(ge=0, description="how far clients' input means lie apart, in standard deviations of an input")] = 1.0
    noise: Annotated[float, Field(ge=0, description="standard deviation of the noise in the target")] = 0.1

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """Generates the rows, one client after the other."""
        if clients is None:
            raise SpecError(("data", "clients"), None, "shifted_regression is generated: say how many clients, as `clients: 5`")
        counts = client_sizes(self.samples_per_client, clients, seed)
        ends = np.cumsum(counts)
        rows = int(ends[-1])
        refuse_too_large(("data", "source", "samples_per_client"), self.samples_per_client, rows, self.features)

        w = stream(seed, "shifted weights").standard_normal(self.features)
        w *= np.sqrt(self.features) / np.linalg.norm(w)
        x, y = np.empty((rows, self.features), dtype=np.float32), np.empty((rows, 1), dtype=np.float32)
        for client, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
            draw = stream(seed, "shifted rows", client)
            inputs = self.shift * draw.standard_normal(self.features) + draw.standard_normal((end - start, self.features))
            x[start:end] = inputs
            # einsum adds in the same order on every machine; a BLAS product does not
            y[start:end, 0] = np.einsum("nd,d->n", inputs, w) + self.noise * draw.standard_normal(end - start)
        return Pool(x, y, "regression", 1, np.repeat(np.arange(clients), counts))
