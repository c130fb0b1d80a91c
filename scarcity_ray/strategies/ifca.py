"""IFCA. Ghosh, Chung, Yin and Ramchandran, "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020,

Algorithm 1 with model averaging.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, State, Uploads
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class Ifca(SampledStrategy):
    """A model for each cluster of clients, where a client is of the cluster whose model fits its training rows best.

        j = argmin_j f_i(theta_j),    theta_j <- mean over the clients of cluster j of w_i

    with w_i from local training that starts at theta_j. All models go down; one comes up, with its cluster's number. A
    client without training rows is of cluster 0. A model that nobody chose stays as it is.
    """

    adapts: ClassVar[bool] = True
    kind: Literal["ifca"] = "ifca"
    experts: Annotated[int, Field(ge=1, description="number of clusters, each with a model of its own")] = 3

    def start(self, problem: Problem) -> State:
        return {"experts": _starts(problem, self.experts)}

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        chosen = self._choice(task, server)
        return {"experts": (task.local_sgd(server["experts"][chosen]), self.weights(task), chosen)}, mine

    def aggregate(self, server: State, mean: State) -> State:
        return mean

    def adapt(self, task: Task, server: State, mine: State) -> State:
        return {"expert": self._choice(task, server)}

    def experts_of(self, mine: State) -> Tensor:
        return mine["expert"]

    def answer(self, server: State, mine: State) -> Tensor:
        return server["experts"][mine["expert"]]

    def traffic(self, problem: Problem) -> tuple[int, int]:
        return problem.bytes + 4, self.experts * problem.bytes

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        return problem.layout.constants | problem.layout.state_dicts(server["experts"])

    def _choice(self, task: Task, server: State) -> Tensor:
        """The expert of lowest loss, int64 `[k]`; the first of equals, and never one whose loss is no number."""
        losses = np.stack([task.loss(row[None]) for row in server["experts"]])
        return torch.from_numpy(np.where(np.isnan(losses), np.inf, losses).argmin(0))


def _starts(problem: Problem, experts: int) -> Tensor:
    """Rows to start from, `[experts, P]`: the problem's, then its layers drawn anew, by the seed alone.

    Raises ValueError where they are alike, because no layer can draw its weights: clients could not choose between them.
    """
    rows = [problem.row]
    for j in range(1, experts):
        module = copy.deepcopy(problem.module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(hash64(problem.seed, "experts", j)) % 2**63)
            for layer in module.modules():
                draw: Any = getattr(layer, "reset_parameters", None)  # what torch's own layers draw their weights with
                if draw is not None:
                    draw()
        rows.append(problem.layout.row(module.state_dict()))
        if torch.equal(rows[j], problem.row):
            raise ValueError(f"the {experts} experts would start alike: {type(module).__name__} has no layer with reset_parameters()")
    return torch.stack(rows)
