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
        self,
        sent: Mapping[str, Any],
        broadcast: Values,
        memory: Values,
        ids: NDArray[np.int64],
        round: int,
        good: NDArray[np.bool_],
    ) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, NDArray[np.int64]]]:
        """Encoded uploads of clients `[k]`, their new memory, and the bytes `[k]` of each upload that was encoded.

        sent: value and weight of each upload (and the row it is for). memory: `[k, ...]` each. good: `[k]`; of the others, whose
        numbers may be anything, transforms see zeros. Raises ValueError for a transform that returns something else than it says.
        """
        encoded = dict(sent)
        kept: dict[str, Tensor] = {}
        sizes: dict[str, NDArray[np.int64]] = {}
        for name, packing in self.packings.items():
            if name not in sent:
                continue
            value, weight, *to = sent[name]
            usable = torch.from_numpy(good)
            base = broadcast[name][torch.where(usable, to[0], 0)] if to else broadcast[name][None]
            delta = torch.where(usable[:, None], packing.pack(value - base), 0)
            size: Any = delta.shape[1] * delta.element_size()
            for i, transform in enumerate(self.transforms):
                known = {key: memory[_place(i, name, key)] for key in transform.init_memory(delta.shape[1])}
                rng = [stream(self.problem.seed, f"uplink {i} {name}", client, round) for client in ids.tolist()]
                wanted = len(ids), transform.encoded_size(delta.shape[1])
                delta, new, packed = transform.encode(delta, known, rng)
                _require(transform, wanted, known, delta, new, packed)
                size = size if packed is None else packed
                kept |= {_place(i, name, key): one for key, one in new.items()}
            encoded[name] = (delta, weight if weight[0].numel() == 1 else packing.pack(weight), *to)
            sizes[name] = np.broadcast_to(np.asarray(size, dtype=np.int64), len(ids))
        return encoded, kept, sizes

    def resized(self, name: str) -> bool:
        """Whether so many numbers are sent of an upload that none has a place in its value, and a weight of its own."""
        return name in self.packings and self._sizes(name)[-1] != self.packings[name].size

    def decoded(self, name: str, encoded: Tensor, round: int) -> Tensor:
        """Deltas `[rows, n]` from encoded ones, or from their means, `[rows, m]`."""
        sizes = self._sizes(name)
        for i, transform in reversed(list(enumerate(self.transforms))):
            rows = len(encoded)
            encoded = transform.on_sum(encoded, sizes[i], stream(self.problem.seed, f"uplink {i} {name} on sum", round))
            if not isinstance(encoded, Tensor) or encoded.shape != (rows, sizes[i]):
                raise ValueError(f"{_title(transform)}: on_sum returned {_looks(encoded)}, not {[rows, sizes[i]]}")
        return encoded

    def unpacked_weights(self, name: str, weights: Tensor) -> Tensor:
        """Weights `[rows, 1]` as they are; those of each number that is sent, as those of each number of the server's value."""
        return weights if weights.shape[1] == 1 else self.packings[name].unpack(weights).reshape(len(weights), -1)

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
        self.shape, rows = like.shape, like.ndim > 0 and like.shape[-1] == layout.width and like.dtype == layout.dtype
        there = layout.mask(*(part.name for part in layout.slices))
        self.mask = there.repeat(like.numel() // layout.width) if rows else torch.ones(like.numel(), dtype=torch.bool)
        self.size = int(self.mask.sum())

    def pack(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), -1)[:, self.mask]

    def unpack(self, numbers: Tensor) -> Tensor:
        values = numbers.new_zeros(len(numbers), len(self.mask))
        values[:, self.mask] = numbers
        return values.reshape(len(numbers), *self.shape)


def _place(i: int, name: str, key: str) -> str:
    return f"uplink.{i}.{name}.{key}"


def _require(transform: UplinkTransform, wanted: tuple[int, int], known: Values, delta: object, new: object, told: object) -> None:
    """What `encode` returned has the form that the transform says. wanted: the encoded delta's shape. known: the memory before it."""
    title = _title(transform)
    if not isinstance(delta, Tensor) or not delta.is_floating_point() or delta.shape != wanted:
        raise ValueError(f"{title}: encode returned {_looks(delta)}, not {list(wanted)} as encoded_size says")
    if not isinstance(new, Mapping) or not set(new) <= set(known):
        names = ", ".join(map(str, new)) if isinstance(new, Mapping) else _looks(new)
        raise ValueError(f"{title}: encode returned a memory of {names}, and init_memory has {', '.join(known) or 'nothing'}")
    for key, value in new.items():
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (known[key].shape, known[key].dtype):
            raise ValueError(f"{title}: encode returned {_looks(value)} as its memory {key}, not {_looks(known[key])}")
    size = np.asarray(0 if told is None else told)
    if size.dtype.kind not in "iu" or size.shape not in ((), wanted[:1]) or (size < 0).any():
        raise ValueError(f"{title}: encode returned bytes that are no whole number for each client")


def _title(transform: UplinkTransform) -> str:
    return f"uplink transform {type(transform).__name__}"


def _looks(value: object) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
