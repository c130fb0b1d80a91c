"""Hierarchical federated averaging. Liu, Zhang, Song and Letaief, "Client-Edge-Cloud Hierarchical Federated Learning", ICC

2020, Algorithm 1 (HierFAVG).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, State, Uploads
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class HierFedAvg(SampledStrategy):
    """Averages near the clients each round, and over all only now and then. A client's edge is its group in the data.

    Every round: w_e <- mean over the cohort's clients i of edge e of w_i, from local training (kappa_1 steps) that starts
    at w_e. Every `period` (kappa_2) rounds: w_e <- w = mean over all edges of w_e. Clients count by training rows in the
    first mean, edges by those of all their clients in the second, whether sampled or not. Without groups there is one
    edge, and this is FedAvg. A client is tested with the model of its edge.

    Bytes: a model up and down between client and edge each round. The models between edges and cloud every `period`
    rounds, one up and one down an edge, are shared out evenly over clients and rounds, rounded up.
    """

    adapts: ClassVar[bool] = True
    kind: Literal["hier_fed_avg"] = "hier_fed_avg"
    period: Annotated[int, Field(ge=1, description="rounds of edges between two averages over all edges")] = 5

    def start(self, problem: Problem) -> State:
        held = np.bincount(problem.groups, weights=problem.samples if self.weighted else None).astype(np.float64)
        share, round = torch.from_numpy(held / held.sum()), torch.zeros(1, dtype=torch.int64)
        return {"edges": problem.row.repeat(len(held), 1), "share": share, "round": round}

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        edge = torch.from_numpy(task.problem.groups[task.ids])
        return {"edges": (task.local_sgd(server["edges"][edge]), self.weights(task), edge)}, mine

    def aggregate(self, server: State, mean: State) -> State:
        state = {**server, "edges": mean["edges"], "round": server["round"] + 1}
        if int(state["round"]) % self.period:
            return state
        cloud = (server["share"] @ mean["edges"].double()).to(mean["edges"].dtype)
        return state | {"edges": cloud.expand_as(mean["edges"])}

    def adapt(self, task: Task, server: State, mine: State) -> State:
        return {"expert": torch.from_numpy(task.problem.groups[task.ids])}

    def experts_of(self, mine: State) -> Tensor:
        return mine["expert"]

    def answer(self, server: State, mine: State) -> Tensor:
        return server["edges"][mine["expert"]]

    def traffic(self, problem: Problem) -> tuple[int, int]:
        edges, shared = len(np.unique(problem.groups)), self.period * self.sampled(problem.population)
        each = problem.bytes + -(-edges * problem.bytes // shared)
        return each, each

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        return problem.layout.constants | problem.layout.state_dicts(server["edges"])
