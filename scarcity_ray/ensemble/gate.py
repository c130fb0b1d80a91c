"""A gate: it predicts the expert of an input, by ridge regression on the summed moments of the experts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scarcity_ray.ensemble import ridge
from scarcity_ray.ensemble.calibration import temperature
from scarcity_ray.ensemble.heads import placed
from scarcity_ray.ensemble.moments import Moments, with_constant
from scarcity_ray.ensemble.ridge import Rows


@dataclass(frozen=True)
class Gate:
    """A linear head from features to experts, as float32 tensors that can be saved.

    head: `[width, K]`, the constant's row last. It is fitted to the one-hot code of each row's expert and divided by the
    temperature, so that outputs are logits. A gate needs a thousandth of the memory of densities, but its decision
    boundaries are linear.
    """

    head: Tensor

    @staticmethod
    def of(experts: list[Moments], strength: float, temperature: float) -> Gate:
        """The gate from the summed moments of each expert's clients, with this strength and temperature.

        The moments contain the sum of the features. This sum times the expert's code is the cross moment of the gate.
        """
        return Gate((ridge.fit(gate_moments(experts), strength) / temperature).float().contiguous())

    @staticmethod
    def chosen(experts: list[Moments], clients: list[Rows], members: Sequence[int]) -> Gate:
        """The same, with the strength and temperature that predict left-out clients best.

        clients: rows of all clients (see `ridge.all_rows`). members: the expert of each client, in the order of these rows.
        """
        rows = gate_rows(clients, members, len(experts))
        strength, left_out = ridge.choose_strength(gate_moments(experts), rows)
        return Gate.of(experts, strength, temperature(rows, left_out.residuals))

    def scores(self, features: Tensor) -> Tensor:
        """Logits of the experts, float64 `[n, K]`, of features `[n, width - 1]`; their softmax estimates the posterior."""
        return with_constant(features.double()) @ self.head.double()

    def among(self, kept: Tensor) -> Gate:
        """The same for inputs with further features, of which nothing depends. kept: bool `[d of all]`, the features of these."""
        return Gate(torch.cat([placed(self.head[:-1], kept, 0), self.head[-1:]]))

    def tensors(self) -> dict[str, Tensor]:
        """The tensor to save, by name."""
        return {"gate.head": self.head}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Gate:
        """The gate whose `tensors` these are. Further tensors are ignored."""
        return Gate(tensors["gate.head"])


def gate_moments(experts: list[Moments]) -> Moments:
    """The moments of all rows with the one-hot code of their expert as target, from the moments of each expert."""
    samples = torch.stack([one.samples for one in experts]).sum()
    cross = torch.stack([one.gram[:, -1] for one in experts], dim=1)
    return Moments(torch.stack([one.gram for one in experts]).sum(0), cross, samples, samples)


def gate_rows(clients: list[Rows], members: Sequence[int], experts: int) -> list[Rows]:
    """The clients' rows with the one-hot code of their expert as target.

    The rows are a rotation of the true rows, so the code is multiplied by the constant's column, which has the same rotation.
    """
    codes = torch.eye(experts, dtype=torch.float64)[torch.as_tensor(members, dtype=torch.int64)]
    found = []
    for part, code in zip(clients, torch.split(codes, [len(part.rest) for part in clients]), strict=True):
        samples = part.numbers / part.targets.shape[2]
        targets = part.features[..., -1:] * code[:, None, :]
        rest = (samples - targets.square().sum((1, 2))).clamp(min=0)
        found.append(replace(part, targets=targets, rest=rest, numbers=samples * experts))
    return found
