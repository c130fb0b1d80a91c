"""The torch module a saved model belongs to, made again from what was saved beside its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.federation import Encoding
from scarcity_ray.core.spec import Spec
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.models import CNN, AnyModel, Linear, build
from scarcity_ray.results.recorder import MODEL_BYTES
from scarcity_ray.strategies import AnyStrategy
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


def metadata_of(strategy: Strategy, model: Spec | None, problem: Problem, encoding: Encoding | None = None) -> dict[str, Any]:
    """What `rebuild` needs to know of a model: its strategy's settings, the model's (None where the strategy brings its
    own), and the task, the shape of one input and the number of outputs. Then how a table becomes its inputs, and where
    its rows are in the run's tables."""
    return {
        "title": strategy.title,
        "seed": problem.seed,
        "encoding": None if encoding is None else encoding.model_dump(mode="json"),
        "strategy": strategy.model_dump(mode="json"),
        "model": None if model is None else model.model_dump(mode="json"),
        "problem": {"task": problem.task, "shape": list(problem.shape), "outputs": problem.outputs},
    }


def rebuild(metadata: Mapping[str, Any]) -> nn.Module:
    """The module of a model saved with `metadata_of`; its weights are yet to be loaded. Raises KeyError for other metadata."""
    strategy, problem = of_metadata(metadata, np.ones(2, dtype=np.int64))  # no module depends on the clients' rows
    return strategy.module(problem, ServerState())


def imports(data: Any) -> list[str]:
    """The functions of other modules that plain data (a scenario's, a model's) names as models: building those runs their code."""

    def found(part: Any) -> Iterator[str]:
        if isinstance(part, Mapping) and part.get("kind") == "import":
            yield str(part.get("path"))
        for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ():
            yield from found(inner)

    return list(dict.fromkeys(found(data)))


def of_metadata(metadata: Mapping[str, Any], samples: NDArray[np.int64]) -> tuple[Strategy, Problem]:
    """The strategy, and its problem for clients that hold so many training rows, `[clients]`; no local training goes with it."""
    settings, model, facts = (metadata[key] for key in ("strategy", "model", "problem"))
    if has_no_inputs_setting(settings):
        settings = {**settings, "representation": {**settings["representation"], "inputs": False}}
    strategy: Strategy = _read(AnyStrategy, settings)
    shape, outputs = tuple(map(int, facts["shape"])), int(facts["outputs"])
    spec = Linear() if model is None else _read(AnyModel, model)
    _fits_into_memory(spec, strategy, shape, outputs)
    module = build(spec, shape, outputs, 0)
    problem = make_problem(
        module, local=Local(lr=1.0), task=facts["task"], outputs=outputs, shape=shape, samples=samples, seed=int(metadata["seed"])
    )
    return strategy, strategy.problem(problem)


def has_no_inputs_setting(settings: Any) -> bool:
    """Whether a strategy's settings, as a run saved them, are of a time when random features could have no inputs beside them.

    A run writes all settings with their values, so those were waves alone.
    """
    representation = settings.get("representation") if isinstance(settings, Mapping) else None
    return isinstance(representation, Mapping) and representation.get("kind") == "random_fourier" and "inputs" not in representation


def _fits_into_memory(spec: Any, strategy: Strategy, shape: tuple[int, ...], outputs: int) -> None:
    """Raises ValueError where a few words describe a module larger than any that is saved, before it is made."""
    inputs = math.prod(shape)
    if isinstance(spec, CNN):
        convolutions = [25 * a * b for a, b in pairwise([shape[0] if len(shape) == 3 else 1, *spec.channels])]
        flat = spec.channels[-1] * inputs // 4 ** len(spec.channels)
        layers = [*convolutions, max(spec.channels) * inputs, flat * spec.hidden, spec.hidden * outputs]
    else:
        layers = [a * b for a, b in pairwise([inputs, *getattr(spec, "hidden", []), outputs])]
    features = getattr(getattr(strategy, "representation", None), "features", 1)
    # A layer costs something however few its numbers are.
    numbers = inputs * features + sum(max(layer, 2**14) for layer in layers)
    if not all(size > 0 for size in (*shape, outputs)) or numbers > MODEL_BYTES:
        raise ValueError(f"inputs of shape {list(shape)} and {outputs} outputs make a module of {numbers:,} numbers: no run saves such")


def _read(kind: Any, settings: Any) -> Any:
    """Through JSON, because that is where a strict model takes lists for tuples."""
    return TypeAdapter(kind).validate_json(json.dumps(settings))
