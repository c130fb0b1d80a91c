"""Reptile. Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999, 2018, Algorithm 2."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import State
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.strategies.outer_step import OuterStep
from scarcity_ray.training.local import Local
from scarcity_ray.training.task import Task


@STRATEGIES.register
class Reptile(OuterStep):
    """An initial model from which each client's own training gets far: x <- x + outer * mean_i (w_i - x).

    w_i comes from local training that starts at x. With an outer step of 1 the rounds are FedAvg's. Each client is
    tested after training from x again, on its own training rows; that costs no bytes.
    """

    kind: Literal["reptile"] = "reptile"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    adapt_steps: Annotated[
        int | None,
        Field(ge=0, description="local steps from the common model before a client is tested; as many as in a round if left out"),
    ] = None

    def trained(self, task: Task, x: Tensor) -> Tensor:
        return task.local_sgd(x)

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return local.steps_for(samples, self.adapt_steps)

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        return {"adapted": task.local_sgd(broadcast["x"][None])}
