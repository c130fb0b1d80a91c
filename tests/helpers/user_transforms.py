"""Uplink transforms and aggregators of a user's own, as CONTRIBUTING.md shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.core.aggregation import Aggregator
from scarcity_ray.core.uplink import UplinkTransform


class Sign(UplinkTransform):
    """Karimireddy et al., ICML 2019: signs and one size, and what they leave out is added to the next round's delta."""

    kind: str = "import"

    def init_memory(self, size: int) -> Mapping[str, Tensor]:
        return {"error": torch.zeros(size)}

    def encode(self, delta: Tensor, memory: Mapping[str, Tensor], rng: Sequence[np.random.Generator]) -> tuple[Any, ...]:
        wanted = delta + memory["error"]
        sent = wanted.abs().mean(1, keepdim=True) * torch.where(wanted < 0, -1.0, 1.0)
        return sent, {"error": wanted - sent}, -(-delta.shape[1] // 8) + 4


class Rotation(UplinkTransform):
    """A random rotation, undone on the server: what is sent has another form than the model."""

    kind: str = "import"

    def encoded_size(self, size: int) -> int:
        return size + 1

    def encode(self, delta: Tensor, memory: Mapping[str, Tensor], rng: Sequence[np.random.Generator]) -> tuple[Any, ...]:
        return torch.cat([delta @ rotation(delta.shape[1]), torch.zeros(len(delta), 1)], 1), {}, None

    def on_sum(self, mean: Tensor, size: int, rng: np.random.Generator) -> Tensor:
        return mean[:, :-1] @ rotation(size).T.to(mean.dtype)


def rotation(size: int) -> Tensor:
    draws = np.random.default_rng(size).standard_normal((size, size))
    return torch.from_numpy(np.linalg.qr(draws)[0]).float()


class ServerNoise(UplinkTransform):
    """Noise that the server alone adds."""

    kind: str = "import"
    size: float = 0.1

    def encode(self, delta: Tensor, memory: Mapping[str, Tensor], rng: Sequence[np.random.Generator]) -> tuple[Any, ...]:
        return delta, {}, None

    def on_sum(self, mean: Tensor, size: int, rng: np.random.Generator) -> Tensor:
        return mean + self.size * torch.from_numpy(rng.standard_normal(mean.shape))


class Spoiled(UplinkTransform):
    """The encoded update of client 0 is not finite, where its generator says so in one round of two."""

    kind: str = "import"

    def encode(self, delta: Tensor, memory: Mapping[str, Tensor], rng: Sequence[np.random.Generator]) -> tuple[Any, ...]:
        bad = torch.tensor([float("nan") if one.random() < 0.5 else 0.0 for one in rng])
        return delta + bad[:, None], {}, None


class CoordinateMedian(Aggregator):
    """Yin et al., ICML 2018: the median of each number over the clients, who count the same."""

    kind: str = "import"

    def combine(self, values: Tensor, weights: Tensor) -> Tensor:
        return torch.quantile(values.double(), 0.5, dim=0)
