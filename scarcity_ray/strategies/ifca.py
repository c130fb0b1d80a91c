"""IFCA. Ghosh, Chung, Yin and Ramchandran, "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020,

Algorithm 1 with model averaging.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.revealed import WEIGHTS
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class Ifca(SampledStrategy):
    """A model for each cluster of clients, where a client is of the cluster whose model fits its training rows best.

        j = argmin_j f_i(theta_j),    theta_j <- mean over the clients of cluster j of w_i

    with w_i from local training that starts at theta_j. All models go down; one comes up, with its cluster's number. A
    client without training rows is of cluster 0. A model that nobody chose stays as it is.
    """

    kind: Literal["ifca"] = "ifca"
    sends: ClassVar[str] = "a model's weights and its number, each round"
    receives: ClassVar[str] = "all experts' models, of which a client takes the best"
    reveals: ClassVar[str] = f"{WEIGHTS}; and which of the models fits its rows best"
    experts: Annotated[int, Field(ge=1, description="number of clusters, each with a model of its own")] = 3

    @property
    def extra_passes(self) -> float:
        """The loss of each model."""
        return float(self.experts)

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState({"experts": _starts(problem, self.experts)})

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        chosen = self._choice(task, broadcast)
        return ClientResult({"experts": (task.local_sgd(broadcast["experts"][chosen]), self.weights(task), chosen)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        return ServerUpdate(ServerState({"experts": aggregate.mean["experts"]}))

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros_like(samples)

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        return {"expert": self._choice(task, broadcast)}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": broadcast["experts"][client["expert"]]}

    def uploads(self, problem: Problem, state: ServerState) -> State:
        return {"experts": problem.row}

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return problem.layout.constants | problem.layout.state_dicts(state.broadcast["experts"])

    def _choice(self, task: Task, broadcast: State) -> Tensor:
        """The expert of lowest loss, int64 `[k]`; the first of equals, and never one whose loss is no number."""
        losses = np.stack([task.loss(row[None]) for row in broadcast["experts"]])
        return torch.from_numpy(np.where(np.isnan(losses), np.inf, losses).argmin(0))


def _starts(problem: Problem, experts: int) -> Tensor:
    """Rows to start from, `[experts, P]`: the problem's, then those of its layers drawn again, by the seed alone.

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
