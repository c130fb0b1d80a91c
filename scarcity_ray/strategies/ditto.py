"""Ditto. Li, Hu, Beirami and Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,

Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scarcity_ray.core.exchange import ClientResult, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, too_steep
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.strategies.own_model import OwnModel
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


@STRATEGIES.register
class Ditto(OwnModel, SampledStrategy, OneModel):
    """Beside FedAvg's global model x each client keeps its own, v_i = argmin_v f_i(v) + lam / 2 |v - x|^2.

        v_i <- v_i - lr (grad f_i(v_i) + lam (v_i - x)),    for as many steps as the round's, on the same minibatches

    Both trainings of a round start from what was kept and what came down: v_i is pulled to the x that the client received. The
    clients' own models are tested, and the global one beside them. With lam 0 they are those of clients alone.
    """

    kind: Literal["ditto"] = "ditto"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    lam: Annotated[
        float, Field(ge=0, description="how strongly a client's own model is pulled to the global one; the paper tries 0.1, 1, 2")
    ] = 1.0

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        return super().refused(problem, federation) + too_steep("lam", self.lam, problem.local)

    @property
    def gradients(self) -> float:
        """One for x and one for the own model."""
        return 2.0

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        x = broadcast["x"][None]
        y = task.local_sgd(x)  # before the own model's: what the tables say of training is said of the models that are tested
        v = task.local_sgd(client["own"], prox_weight=self.lam, prox_center=x)
        return ClientResult({"x": (y, self.weights(task))}, self.kept(task, client, v))
