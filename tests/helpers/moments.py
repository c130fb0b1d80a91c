"""Clients of a regression, and the messages of moments that they send."""

from __future__ import annotations

import numpy as np
import torch

from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.training.objective import TaskKind

Clients = list[tuple[torch.Tensor, torch.Tensor]]
SIZES = (1, 2, 3, 7, 12, 30)


def regression(sizes: tuple[int, ...] = SIZES, width: int = 5, outputs: int = 2, seed: int = 0) -> Clients:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((width, outputs))
    made = []
    for n in sizes:
        x = rng.standard_normal((n, width)).astype(np.float32)
        made.append((torch.from_numpy(x), torch.from_numpy((x @ truth + 3 + rng.standard_normal((n, outputs))).astype(np.float32))))
    return made


def messages(clients: Clients, task: TaskKind, outputs: int) -> tuple[Packing, np.ndarray, np.ndarray]:
    packing = Packing(clients[0][0].shape[1] + 1, outputs, task)
    rows = torch.stack([packing.pack(Moments.of(x, y, task, outputs)) for x, y in clients]).numpy()
    return packing, rows, np.array([len(x) for x, _ in clients])
