"""The torch module a saved model belongs to, made again from what was saved beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import nn

from scarcity_ray.models import AnyModel, Linear, build
from scarcity_ray.spec import Spec
from scarcity_ray.strategies import AnyStrategy
from scarcity_ray.strategies.strategy import Guidance, InsightStrategy, Strategy
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


def metadata_of(strategy: Strategy, model: Spec | None, problem: Problem) -> dict[str, Any]:
    """What `rebuild` needs to know of a model: its strategy's settings, the model's (None where the strategy brings its
    own), and the task, the shape of one input and the number of outputs."""
    return {
        "strategy": strategy.model_dump(mode="json"),
        "model": None if model is None else model.model_dump(mode="json"),
        "problem": {"task": problem.task, "shape": list(problem.shape), "outputs": problem.outputs},
    }


def rebuild(metadata: Mapping[str, Any]) -> nn.Module:
    """The module of a model saved with `metadata_of`; its weights are yet to be loaded. Raises KeyError for other metadata."""
    settings, model, told = (metadata[key] for key in ("strategy", "model", "problem"))
    strategy: Strategy = _read(AnyStrategy, settings)
    shape, outputs = tuple(told["shape"]), int(told["outputs"])
    module = build(Linear() if model is None else _read(AnyModel, model), shape, outputs, 0)
    nobody = np.ones(2, dtype=np.int64)  # no module depends on the clients' rows, their training or the seed
    problem = make_problem(module, local=Local(lr=1.0), task=told["task"], outputs=outputs, shape=shape, samples=nobody, seed=0)
    server: Any = Guidance() if isinstance(strategy, InsightStrategy) else {}
    return strategy.module(strategy.problem(problem), server)


def _read(kind: Any, settings: Any) -> Any:
    """Through JSON, because that is where a strict model takes lists for tuples."""
    return TypeAdapter(kind).validate_json(json.dumps(settings))
