"""Hierarchical federated averaging. Liu, Zhang, Song and Letaief, "Client-Edge-Cloud Hierarchical Federated Learning", ICC

2020, Algorithm 1 (HierFAVG).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.revealed import WEIGHTS
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_NUMBER = 4  # bytes of an edge's number, which a client does not send: the edge knows itself


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

    kind: Literal["hier_fed_avg"] = "hier_fed_avg"
    sends: ClassVar[str] = "a model's weights to the client's group, each round; groups average now and then"
    receives: ClassVar[str] = "its group's model, each round"
    reveals: ClassVar[str] = f"{WEIGHTS}; and its group"
    period: Annotated[int, Field(ge=1, description="rounds of edges between two averages over all edges")] = 5

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"edges": problem.row.repeat(int(problem.groups.max()) + 1, 1)})

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        edge = torch.from_numpy(task.problem.groups[task.ids])
        return ClientResult({"edges": (task.local_sgd(broadcast["edges"][edge]), self.weights(task), edge)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        edges = aggregate.mean["edges"]
        if context.round % self.period == 0:
            held = np.bincount(context.problem.groups, weights=self.client_weights(context.problem.samples))
            edges = (torch.from_numpy(held / held.sum()) @ edges.double()).to(edges.dtype).expand_as(edges)
        return ServerUpdate(ServerState({"edges": edges}))

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros_like(samples)

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        return {"expert": torch.from_numpy(task.problem.groups[task.ids])}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": broadcast["edges"][client["expert"]]}

    def uploads(self, problem: Problem, state: ServerState) -> State:
        return {"edges": problem.row}

    def traffic(self, problem: Problem, up: NDArray[np.int64], down: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        edges, shared = len(np.unique(problem.groups)), self.period * self.sampled(problem.population)
        relayed = -(-edges * problem.bytes // shared)
        return np.maximum(up - _NUMBER, 0) + relayed, np.full_like(down, problem.bytes + relayed)

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return problem.layout.constants | problem.layout.state_dicts(state.broadcast["edges"])
