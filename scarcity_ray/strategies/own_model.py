"""What strategies share whose clients keep a model of their own beside the global one."""

from __future__ import annotations

import torch
from torch import Tensor

from scarcity_ray.core.exchange import State
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.problem import Problem


class OwnModel(Strategy):
    """Each client keeps a row `own`, from the common initial one, which is tested; until its first round the global model x is.

    `took_part` is 1 for a client that has been in a round, else 0.
    """

    def init_client(self, problem: Problem) -> State:
        return {"own": problem.row, "took_part": problem.row.new_zeros(1)}

    def kept(self, own: Tensor) -> State:
        """The new state of clients whose own rows are now `[k, P]`."""
        return {"own": own, "took_part": own.new_ones(len(own), 1)}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        x = broadcast["x"][None]
        return {"global": x, "personal": torch.where(client["took_part"] > 0, client["own"], x)}
