"""How trained models do on clients that took no part in the run, and how well an ensemble's probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from scarcity_ray.core.federation import Federation
from scarcity_ray.ensemble.calibration import reliability
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.unseen_clients import judge, judge_one
from scarcity_ray.results.results import ENSEMBLE
from scarcity_ray.results.summary import Tally
from scarcity_ray.runtime.actor_group import TrainedModels
from scarcity_ray.runtime.observers.base import Observer, StrategyRun

_CALIBRATED_ROWS = 20_000
"""The most test rows on which the reliability of class probabilities is computed."""


class UnseenClients(Observer):
    """Judges each trained model on the clients that were held out, for summary.json."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def on_trained(self, run: StrategyRun, last: int, models: TrainedModels) -> None:
        if models.tensors:
            self.tally.learned(run.name, run.seed, judged(run.plan.federation.at(last), models.module, models.tensors))


def judged(federation: Federation, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What summary.json says of a trained model beyond metrics: how reliable an ensemble's probabilities are, and the loss of the
    clients that never took part, under the ensemble or under a single model that serves all clients."""
    found: dict[str, Any] = {}
    unseen, unit = federation.unseen, federation.label_scale
    if f"{ENSEMBLE}heads" in tensors:
        ensemble = Ensemble.of(module.get_submodule("representation"), federation.task, tensors)
        if federation.task == "classification" and len(federation.test.x):
            found["calibration"] = reliability(*ensemble.own_answers(federation.test, _CALIBRATED_ROWS)).to_dict()
        if len(unseen.x):
            group = np.repeat(federation.unseen_group, unseen.counts)
            found["strangers"], load = judge(ensemble, unseen.x, unseen.y, group, federation.group, unit)
            found["load"] = {str(k): share for k, share in enumerate(load.tolist())}
    elif len(unseen.x) and all(name in tensors and tensors[name].shape == value.shape for name, value in module.state_dict().items()):
        module.load_state_dict(dict(tensors))
        found["strangers"] = {"global": judge_one(module, unseen.x, unseen.y, unit)}
    return found
