"""The number of rows of each client of a generated source."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import Spec


class LogNormal(Spec):
    """The parameters of a log-normal number of rows, cut to a range."""

    mean: Annotated[float, Field(ge=0, le=20, description="mean of the logarithm of a client's rows")] = 4.0
    sigma: Annotated[float, Field(ge=0, le=10, description="standard deviation of the logarithm of a client's rows")] = 2.0
    minimum: Annotated[int, Field(ge=1, description="fewest rows of a client")] = 20
    maximum: Annotated[int, Field(ge=1, description="most rows of a client")] = 500

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum is {self.minimum}, above maximum, {self.maximum}")
        return self


class LogNormalSizes(Spec):
    """Few clients with many rows, many with few."""

    lognormal: Annotated[LogNormal, Field(description="a client's rows are exp(normal(mean, sigma)), cut to minimum .. maximum")]


Sizes = Annotated[int, Field(ge=1)] | LogNormalSizes


def client_sizes(sizes: Sizes, clients: int, seed: int) -> NDArray[np.int64]:
    """Rows of each client, int64 `[clients]`. The number of a client depends on the seed and its id alone."""
    if isinstance(sizes, int):
        return np.full(clients, sizes, dtype=np.int64)
    law = sizes.lognormal
    angle, radius = ((hash64(seed, "client size", np.arange(clients), part) >> np.uint64(11)) * 2.0**-53 for part in (0, 1))
    normal = np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)  # Box and Muller, 1958
    rows: NDArray[np.int64] = np.clip(np.exp(law.mean + law.sigma * normal), law.minimum, law.maximum).astype(np.int64)
    return rows
