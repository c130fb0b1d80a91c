"""FedAvg, then fine-tuning. Matsuda, Sasaki, Xiao and Onizuka, "Benchmark for Personalized Federated Learning", IEEE Open

Journal of the Computer Society, 2024; Yu, Bagdasaryan and Shmatikov, "Salvaging Federated Learning by Local Adaptation", 2020.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import State
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.strategies.fed_avg import OneModel
from scarcity_ray.training.local import Local
from scarcity_ray.training.parameters import part_of
from scarcity_ray.training.task import Task


@STRATEGIES.register
class FineTune(SampledStrategy, OneModel):
    """Rounds of FedAvg; before a client is tested it trains the global model further, on its own training rows.

    That costs no bytes, and neither the server nor the client keeps its result. The global model is tested beside it.
    """

    kind: Literal["fine_tune"] = "fine_tune"
    sends: ClassVar[str] = "a model's weights, each round"
    receives: ClassVar[str] = "the model, each round"
    adapt_steps: Annotated[
        int | None,
        Field(ge=0, description="local steps from the global model before a client is tested; as many as in a round if left out"),
    ] = None
    parts: Annotated[Literal["all", "head"], Field(description="what is fine-tuned: all weights, or those of the last layer")] = "all"

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return local.steps_for(samples, self.adapt_steps)

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        free = None if self.parts == "all" else part_of(task.problem, "head")
        return {"adapted": task.local_sgd(broadcast["x"][None], free=free)}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"global": broadcast["x"][None], "personal": client["adapted"]}
