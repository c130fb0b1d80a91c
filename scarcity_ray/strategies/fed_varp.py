"""FedVARP. Jhunjhunwala, Sharma, Nagarkatti and Joshi, "FedVARP: Tackling the Variance Due to Partial Client Participation in

Federated Learning", UAI 2022, Algorithm 1.
"""

from __future__ import annotations

from typing import Literal

import torch

from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.strategies.mifa import KeepsMoves


@STRATEGIES.register
class FedVarp(KeepsMoves):
    """What clients that are away last did corrects the mean of those that are heard, S:

        x <- x + server_lr (mean_S (move_i - g_i) + sum_i p_i g_i),    then g_i is move_i for i in S

    With S drawn uniformly the step is the mean of all clients' moves in expectation, and varies less than FedAvg's.
    """

    kind: Literal["fed_varp"] = "fed_varp"

    def step(self, change: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return change + before
