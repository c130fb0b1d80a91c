"""Label mix: do experts follow which classes their clients have (P(y)), rather than how inputs and classes are related (P(y | x))?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scarcity_ray.ensemble.ridge import Rows


def share_of_labels(clients: list[Rows], members: NDArray[np.int64]) -> float | None:
    """The share of the variance of clients' class shares that lies between experts, from about 0 to 1; None for a single expert.

    clients: rows with one-hot targets. members: the expert of each client `[M]`.
    Corrected for the number of experts, so that it is 0 on average if experts do not depend on classes, and may be below: epsilon
    squared (Kelley, "An unbiased correlation ratio measure", PNAS 1935). Near 1, clients of an expert have the same classes, and
    a difference of their heads cannot be told from one of their labels.
    """
    experts, place = np.unique(members, return_inverse=True)
    if len(experts) < 2 or len(members) <= len(experts):
        return None
    shares = torch.empty(len(members), clients[0].targets.shape[2], dtype=torch.float64)
    for part in clients:
        counts = (part.features[..., -1:].mT @ part.targets)[:, 0]  # the constant's products with one-hot codes
        shares[part.clients] = counts / counts.sum(1, keepdim=True)
    code = torch.eye(len(experts), dtype=torch.float64)[torch.from_numpy(place)]
    means = code.mT @ shares / code.sum(0)[:, None]
    within = float((shares - code @ means).square().sum()) / (len(members) - len(experts))
    whole = float((shares - shares.mean(0)).square().sum()) / (len(members) - 1)
    return 1 - within / whole if whole > 0 else 0.0
