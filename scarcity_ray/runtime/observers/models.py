"""The models of a run."""

from __future__ import annotations

from scarcity_ray.results.rebuild import metadata_of
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.runtime.actor_group import TrainedModels
from scarcity_ray.runtime.observers.base import Observer, StrategyRun


class ModelSaver(Observer):
    """Saves and hashes what a strategy has trained, the server's models and the clients' personal ones."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_trained(self, run: StrategyRun, last: int, models: TrainedModels) -> None:
        if models.tensors:
            model, encoding = run.strategy.model or run.plan.scenario.model, run.plan.federation.at(last).encoding
            self.recorder.model(run.name, models.tensors, metadata_of(run.strategy, model, run.problem, encoding), seed=run.seed)
