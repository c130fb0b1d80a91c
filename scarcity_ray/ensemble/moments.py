"""Moments: the sums of products that the least-squares fit of a linear head needs. It needs nothing else of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.training.objective import TaskKind

_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Moments:
    """The moments of one shard, or of k shards with a leading dimension k in each shape. Float64.

    Let f be a row's features followed by a constant 1 (`width` numbers), and y its target, or the one-hot code of its
    class (`outputs` numbers).
    gram: sum of f f^T, `[width, width]`.
    cross: sum of f y^T, `[width, outputs]`.
    square: sum of |y|^2.
    samples: number of rows.

    Moments are additive: the sum over clients equals the moments of the pooled rows. So a skew of labels between clients
    does no harm (Fani et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers" (Fed3R), ICML
    2024; He et al., "AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models", CVPR 2025).

    Privacy: the moments of a single client reveal its class counts and the mean features of each of its classes. If it has
    fewer rows than features, they also reveal the span of its feature vectors, from which rows may be reconstructed. A sum
    over clients reveals this of the group only. Learning needs only sums, except for the leave-one-client-out choice of
    strengths, which reads the moments of each client.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    samples: Tensor

    @staticmethod
    def of(features: Tensor, y: Tensor, task: TaskKind, outputs: int) -> Moments:
        """The moments of one shard: features `[n, width - 1]` without the constant, y `[n]` classes or `[n, outputs]` targets."""
        f = with_constant(features.double())
        z = targets(y, task, outputs)
        return Moments(f.T @ f, f.T @ z, z.square().sum(), torch.tensor(float(len(f)), dtype=torch.float64))


def with_constant(features: Tensor) -> Tensor:
    """Features `[n, width - 1]` followed by the constant 1: `[n, width]`."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def targets(y: Tensor, task: TaskKind, outputs: int) -> Tensor:
    """The targets that a head is fitted to, float64 `[n, outputs]`: y itself, or the one-hot codes of classes `[n]`."""
    return torch.eye(outputs, dtype=torch.float64)[y.long()] if task == "classification" else y.double().reshape(len(y), outputs)


@dataclass(frozen=True)
class Packing:
    """How one client's moments are sent: the upper triangle of gram, then cross, then square.

    width: number of features, with the constant. Every insight contains the number of rows already. It is the last entry of
    gram and, for one-hot targets, also square, so these are left out.
    """

    width: int
    outputs: int
    task: TaskKind

    @property
    def size(self) -> int:
        """Number of float32 numbers in one client's message."""
        return self.width * (self.width + 1) // 2 - 1 + self.width * self.outputs + (self.task == "regression")

    def pack(self, moments: Moments) -> Tensor:
        """One shard's moments as a message: float32 `[size]`."""
        upper = torch.triu_indices(self.width, self.width)
        parts = [moments.gram[upper[0], upper[1]][:-1], moments.cross.flatten()]
        if self.task == "regression":
            parts.append(moments.square[None])
        return torch.cat(parts).float()

    def unpack(self, rows: NDArray[np.floating], samples: NDArray[np.int64]) -> Moments:
        """The moments of k clients from their messages `[k, size]` and numbers of rows `[k]`."""
        values = torch.from_numpy(np.asarray(rows, dtype=np.float64))
        counts = torch.from_numpy(np.asarray(samples, dtype=np.float64))
        upper = torch.triu_indices(self.width, self.width)
        triangle = upper.shape[1] - 1
        upper = upper[:, :-1]
        gram = values.new_empty(len(values), self.width, self.width)
        gram[:, upper[0], upper[1]] = values[:, :triangle]
        gram[:, upper[1], upper[0]] = values[:, :triangle]
        gram[:, -1, -1] = counts
        cross = values[:, triangle : triangle + self.width * self.outputs].reshape(-1, self.width, self.outputs)
        return Moments(gram, cross, values[:, -1] if self.task == "regression" else counts, counts)

    def only(self, rows: NDArray[np.float32], columns: NDArray[np.int64]) -> tuple[Packing, NDArray[np.float32]]:
        """The packing and the messages `[k, size]` of some features, at these rising places, and of the constant."""
        if len(columns) == self.width - 1:
            return self, rows
        kept = np.append(columns, self.width - 1)
        first, second = (kept[place] for place in np.triu_indices(len(kept)))
        triangle = self.width * (self.width + 1) // 2 - 1
        gram = first * self.width - first * (first + 1) // 2 + second
        cross = triangle + (kept[:, None] * self.outputs + np.arange(self.outputs)).ravel()
        square = np.arange(rows.shape[1] - (self.task == "regression"), rows.shape[1])
        return Packing(len(kept), self.outputs, self.task), rows[:, np.concatenate([gram[:-1], cross, square])]

    def chunks(self, count: int) -> Iterator[slice]:
        """Slices of `count` clients. The unpacked moments of each slice take about 64 MiB."""
        step = max(_CHUNK_BYTES // (8 * self.width * (self.width + self.outputs)), 1)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def total(self, rows: NDArray[np.float32], samples: NDArray[np.int64]) -> Moments:
        """The moments of all clients together, from their messages `[k, size]`, summed in this order.

        Raises ValueError for a message that is not finite, because the sum would not be finite either.
        """
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise ValueError(f"the moments in rows {bad[:5].tolist()} are not finite: leave these rows out of the sum")
        total = np.zeros(self.size)
        for chunk in self.chunks(len(rows)):
            total += rows[chunk].sum(0, dtype=np.float64)
        one = self.unpack(total[None], np.asarray([samples.sum()]))
        return Moments(one.gram[0], one.cross[0], one.square[0], one.samples[0])
