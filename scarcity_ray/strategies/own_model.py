"""What strategies share whose clients keep a model of their own beside the global one."""

from __future__ import annotations

import torch
from torch import Tensor

from scarcity_ray.core.exchange import State
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


class OwnModel(Strategy):
    """Each client keeps a row `own`, from the common initial one, which is tested; until its first round the global model x is.

    `took_part` is 1 for a client that has trained in a round, else 0.
    """

    def init_client(self, problem: Problem) -> State:
        return {"own": problem.row, "took_part": problem.row.new_zeros(1)}

    def kept(self, task: Task, client: State, own: Tensor) -> State:
        """The new state of clients whose training led to their own rows `[k, P]`; a client without steps keeps its state."""
        trained = task.steps > 0
        return {"own": torch.where(trained, own, client["own"]), "took_part": torch.where(trained, 1, client["took_part"])}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        x = broadcast["x"][None]
        return {"global": x, "personal": torch.where(client["took_part"] > 0, client["own"], x)}
