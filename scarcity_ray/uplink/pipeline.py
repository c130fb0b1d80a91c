"""A strategy's uplink transforms in order: encoding on clients, decoding of the mean on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.randomness import stream
from scarcity_ray.core.uplink import UplinkTransform
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.problem import Problem

Values = Mapping[str, Tensor]


class Pipeline:
    """The transforms of one strategy, for the uploads whose value the server broadcasts; other uploads are sent as they are.

    uploads: one client's value of each upload, by name. broadcast: what the server broadcasts.
    """

    def __init__(self, transforms: Sequence[UplinkTransform], problem: Problem, uploads: Values, broadcast: Values) -> None:
        self.transforms, self.problem = transforms, problem
        self.packings = {name: _Packing(one, problem.layout) for name, one in uploads.items() if name in broadcast}

    def init_memory(self) -> dict[str, Tensor]:
        """What one client keeps for all transforms and uploads."""
        return {
            _place(i, name, key): value
            for i, transform in enumerate(self.transforms)
            for name, packing in self.packings.items()
            for key, value in transform.init_memory(self._sizes(name)[i]).items()
        }

    def encode(
        self, sent: Mapping[str, Any], broadcast: Values, memory: Values, ids: NDArray[np.int64], round: int
    ) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, NDArray[np.int64]]]:
        """Encoded uploads of clients `[k]`, their new memory, and the bytes `[k]` of each upload that was encoded.

        sent: value and weight of each upload (and the row it is for). memory: `[k, ...]` each.
        """
        encoded = dict(sent)
        kept: dict[str, Tensor] = {}
        sizes: dict[str, NDArray[np.int64]] = {}
        for name, packing in self.packings.items():
            if name not in sent:
                continue
            value, weight, *to = sent[name]
            base = broadcast[name][to[0]] if to else broadcast[name][None]
            delta = packing.pack(value - base)
            size: Any = delta.shape[1] * delta.element_size()
            for i, transform in enumerate(self.transforms):
                known = {key: memory[_place(i, name, key)] for key in transform.init_memory(delta.shape[1])}
                rng = [stream(self.problem.seed, f"uplink {i} {name}", client, round) for client in ids.tolist()]
                delta, new, packed = transform.encode(delta, known, rng)
                size = size if packed is None else packed
                kept |= {_place(i, name, key): one for key, one in new.items()}
            encoded[name] = (delta, weight if weight[0].numel() == 1 else packing.pack(weight), *to)
            sizes[name] = np.broadcast_to(np.asarray(size, dtype=np.int64), len(ids))
        return encoded, kept, sizes

    def decoded(self, name: str, encoded: Tensor, round: int) -> Tensor:
        """Deltas `[rows, n]` from encoded ones, or from their means, `[rows, m]`."""
        sizes = self._sizes(name)
        for i, transform in reversed(list(enumerate(self.transforms))):
            encoded = transform.on_sum(encoded, sizes[i], stream(self.problem.seed, f"uplink {i} {name} on sum", round))
        return encoded

    def _sizes(self, name: str) -> list[int]:
        """How many numbers of an upload come into each transform, in order; last, how many are sent."""
        return list(accumulate(self.transforms, lambda size, one: one.encoded_size(size), initial=self.packings[name].size))

    def moved(self, name: str, old: Tensor, deltas: Tensor) -> Tensor:
        """The server's value plus deltas, `[rows, n]`."""
        move = self.packings[name].unpack(deltas.reshape(-1, deltas.shape[-1]))
        return (old.double() + move.reshape(old.shape).double()).to(old.dtype)


class _Packing:
    """Values `[k, ...]` as numbers `[k, n]` without padding, and back. like: one client's value."""

    def __init__(self, like: Tensor, layout: Layout) -> None:
        self.shape, row = like.shape, like.ndim == 1 and len(like) == layout.width
        self.mask = layout.mask(*(part.name for part in layout.slices)) if row else torch.ones(like.numel(), dtype=torch.bool)
        self.size = int(self.mask.sum())

    def pack(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), -1)[:, self.mask]

    def unpack(self, numbers: Tensor) -> Tensor:
        values = numbers.new_zeros(len(numbers), len(self.mask))
        values[:, self.mask] = numbers
        return values.reshape(len(numbers), *self.shape)


def _place(i: int, name: str, key: str) -> str:
    return f"uplink.{i}.{name}.{key}"
