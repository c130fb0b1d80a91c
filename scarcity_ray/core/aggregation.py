"""Aggregators that need each client's own value, as robust ones do. The exact weighted mean needs sums alone, and is no aggregator."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from scarcity_ray.core.registry import Part, Registry


class Aggregator(Part):
    """Makes one value of the clients' values. The server then holds all of a round's values, and sees each of them."""

    memory_mb: Annotated[float, Field(gt=0, description="the most MiB that the clients' values of a round may take on the server")] = 1024.0

    def combine(self, values: Tensor, weights: Tensor) -> Tensor:
        """One value `[...]` from those of n clients, `[n, ...]` by rising id, n at least 1.

        weights: float64 `[n, 1]`, or one for each number.
        """
        raise NotImplementedError


AGGREGATORS: Registry[Aggregator] = Registry("aggregator", Aggregator)
