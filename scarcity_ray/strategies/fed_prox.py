"""FedProx. Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,

Algorithm 2.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scarcity_ray.core.exchange import ClientResult, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, too_steep
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FedProx(SampledStrategy, OneModel):
    """FedAvg, whose local training minimises f_i(w) + mu / 2 |w - x|^2: it is held near the global model x.

    Clients may do different amounts of work (a schedule says how much), and what a slow client has done counts. With mu 0 it is FedAvg.
    """

    kind: Literal["fed_prox"] = "fed_prox"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    mu: Annotated[float, Field(ge=0, description="weight of the proximal term; the paper tries 0.001, 0.01, 0.1 and 1")] = 0.01

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        return super().refused(problem, federation) + too_steep("mu", self.mu, problem.local)

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        return ClientResult({"x": (task.local_sgd(x, prox_weight=self.mu, prox_center=x), self.weights(task))})
