"""Made-up answers of a model to rows of clients, as blocks that metrics are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.core.metrics import Block, Metric, Stat


@dataclass(frozen=True)
class Answers:
    """client `[n]`, outputs `[n, outputs]` log-probabilities or residuals, y `[n]` classes or `[n, outputs]` targets."""

    client: np.ndarray
    outputs: Tensor
    y: Tensor

    @classmethod
    def of_classes(cls, clients: np.ndarray, classes: int, seed: int, sharpness: float = 1.5) -> Answers:
        """Classes that the probabilities say something of."""
        draw = np.random.default_rng(seed)
        scores = sharpness * draw.normal(size=(len(clients), classes))
        y = (scores + draw.gumbel(size=scores.shape)).argmax(1)
        return cls(clients, torch.log_softmax(torch.from_numpy(scores).float(), -1), torch.from_numpy(y))

    @classmethod
    def of_numbers(cls, clients: np.ndarray, seed: int, targets: int = 1) -> Answers:
        """Residuals about half as large as the targets' spread."""
        draw = np.random.default_rng(seed)
        y, residuals = draw.normal(size=(2, len(clients), targets))
        return cls(clients, torch.from_numpy(residuals / 2).float(), torch.from_numpy(y).float())

    @property
    def p(self) -> np.ndarray:
        return self.outputs.double().exp().numpy()

    def of(self, client: int) -> Answers:
        """The rows of one client."""
        rows = self.client == client
        return Answers(self.client[rows], self.outputs[torch.from_numpy(rows)], self.y[torch.from_numpy(rows)])

    def stat(self, metric: Metric, parts: int = 3, scale: float = 1.0, seed: int = 0) -> Stat:
        """Clients dealt out to so many processes, the rows of each in two blocks, some of which only fill a block; and all of it merged."""
        draw = np.random.default_rng(seed)
        ids = np.unique(self.client)
        dealt, stats = draw.integers(parts, size=len(ids)), []
        for part in range(parts):
            mine = ids[dealt == part]
            stats.append(metric.start(mine, scale))
            rows = np.flatnonzero(np.isin(self.client, mine))
            for chosen in np.array_split(rows, 2):
                if not len(chosen):
                    continue
                index = torch.from_numpy(np.concatenate([chosen, chosen[:2]]))
                real = np.arange(len(index)) < len(chosen)
                outputs, y = self.outputs[index], self.y[index]
                stats[-1].update(Block(np.searchsorted(mine, self.client[index]), real, outputs, y, outputs[:, 0]))
        return Stat.merge(stats)
