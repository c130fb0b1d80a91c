"""Rows of unseen clients, which never took part: how well they are predicted by each way to select the experts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.router import Router

WAYS = ("router", "oracle", "global", "average")


def judge(
    ensemble: Ensemble,
    x: NDArray[np.float32],
    y: NDArray[np.integer] | NDArray[np.float32],
    group: NDArray[np.int64],
    groups: NDArray[np.int64],
    unit: float = 1.0,
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Accuracy, or root mean square error in the user's unit, over all rows, for each of WAYS; and the router's load `[K]`.

    x: `[n, *shape]`. y: classes or targets of the rows. group: `[n]`, the hidden group of each row's client. groups:
    `[clients]`, the hidden group of each participant. unit: one unit of a target in the user's unit.

    router: all experts, weighted by the router from the input alone.
    oracle: the expert of most participants in the row's hidden group; if the group has no participant, the router's best.
    global: one head for all clients.
    average: the mean of the experts' scores.
    """
    f = ensemble.features(torch.from_numpy(x))
    router = Router(len(ensemble.heads))
    routed = router.route(ensemble.route(f))
    mixed, weights = ensemble.predict(torch.from_numpy(x))
    known = np.zeros((int(max(groups.max(), group.max())) + 1, len(ensemble.heads)), dtype=np.int64)
    np.add.at(known, (groups[ensemble.client_id.numpy()], ensemble.expert_id.numpy()), 1)
    own = np.where(known[group].any(axis=1), known[group].argmax(axis=1), routed)
    scores = ensemble.outputs(f, ensemble.heads)  # not logits: experts' scales may differ
    rows = torch.arange(len(f))
    answers = (mixed.mean, scores[rows, torch.from_numpy(own)], f @ ensemble.whole, scores.mean(1))
    return {way: _score(answer, y, unit) for way, answer in zip(WAYS, answers, strict=True)}, router.load(weights.numpy())


def judge_one(model: nn.Module, x: NDArray[np.float32], y: NDArray[np.integer] | NDArray[np.float32], unit: float = 1.0) -> float:
    """The same for a single model, which predicts the rows of all clients."""
    with torch.no_grad():
        return _score(model.eval()(torch.from_numpy(x)).double(), y, unit)


def _score(outputs: Tensor, y: NDArray[np.integer] | NDArray[np.float32], unit: float) -> float:
    truth = torch.from_numpy(y)
    if truth.is_floating_point():
        return unit * float((outputs - truth).square().mean().sqrt())
    return float((outputs.argmax(1) == truth).double().mean())
