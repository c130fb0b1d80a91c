"""Transforms of what clients send: compression, clipping, noise. A strategy's `uplink` is a list of them, applied in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.registry import Part, Registry


class UplinkTransform(Part):
    """Changes an upload's delta, the client's value minus the one that was broadcast, before the server adds the deltas up.

    It has settings alone; what a client keeps from round to round is its memory, which the client's actor holds.
    """

    def init_memory(self, size: int) -> Mapping[str, Tensor]:
        """What one client keeps for an upload of so many numbers, as it is before its first round; empty where it keeps nothing."""
        return {}

    def encoded_size(self, size: int) -> int:
        """How many numbers it makes of an upload of so many: as many, unless overridden."""
        return size

    def encode(
        self, delta: Tensor, memory: Mapping[str, Tensor], rng: Sequence[np.random.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor], NDArray[np.int64] | int | None]:
        """The client side, for k clients at once.

        delta: `[k, n]`, numbers without padding. memory: `[k, ...]` each. rng: a generator for each client, the same in every repeat.
        Returns the encoded delta `[k, m]`, the new memory, and the bytes that it takes when it is packed, `[k]` or the same for all;
        None where they are those of the delta that came in.
        """
        raise NotImplementedError

    def on_sum(self, mean: Tensor, size: int, rng: np.random.Generator) -> Tensor:
        """The server side: from the weighted mean of encoded deltas `[rows, m]` to that of the deltas, `[rows, size]`.

        The same, unless overridden: a sketch is decoded here, and noise that only the server adds.
        """
        return mean


UPLINK: Registry[UplinkTransform] = Registry("uplink transform", UplinkTransform)
