"""What summary.json and the clients table say of what sf_hfe has learned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.ensemble.choice import Choice
from scarcity_ray.ensemble.learning import Learned
from scarcity_ray.ensemble.screening import Screened
from scarcity_ray.training.problem import Problem


def summary(learned: Learned, ids: NDArray[np.int64], samples: NDArray[np.int64], choice: Choice | None) -> dict[str, Any]:
    """What summary.json says. ids, samples: of the clients that were learned from, `[M]`. choice: of features, None where all are used."""
    experts = [
        {
            "clients": int((learned.members == k).sum()),
            "rows": int(samples[learned.members == k].sum()),
            "strength": group.strength,
            "noise": group.noise,
            "scale": group.scale,
            "differences": None if group.scatter is None else group.scatter.form,
        }
        for k, group in enumerate(learned.groups)
    ]
    exact = (part.tolist() for part in (learned.exact.value, learned.exact.low, learned.exact.high))
    harm = [
        {"client": client, "contribution": value, "low": low, "high": high}
        for client, value, low, high in zip(ids.tolist(), *exact, strict=True)
        if high < 0
    ]
    chosen: dict[str, Any] = {}
    if choice is not None:
        found = {"chosen": choice.name, "usual": choice.usual, "errors": dict(choice.errors), "gains": dict(choice.gains)}
        chosen = {"representation": found}
    evidence = {str(k): float(surprise) for k, surprise in learned.evidence.items()}
    return {**chosen, "experts": experts, "evidence": evidence, "separate": learned.separate, "label_mix": learned.label_mix, "harm": harm}


def findings(ids: NDArray[np.int64], screened: Screened, weights: NDArray[np.float64]) -> list[dict[str, Any]]:
    """What is wrong with whose message, and what it counts: weights `[population]`."""
    return [
        {
            "client": int(ids[place]),
            "reason": finding.reason,
            "of": None if finding.of is None else int(ids[finding.of]),
            "times": finding.times,
            "weight": float(weights[ids[place]]),
        }
        for place, finding in sorted(screened.findings.items())
    ]


def client_columns(problem: Problem, ids: NDArray[np.int64], learned: Learned) -> dict[str, NDArray[np.float64]]:
    """What tables say of each client of the population; NaN of whom there is no message."""
    columns = {
        "expert_id": learned.members,
        "confidence": learned.confidence,
        "contribution": learned.contribution,
        "contribution_whole": learned.contribution_whole,
        "contribution_exact": learned.exact.value.numpy(),
        "contribution_low": learned.exact.low.numpy(),
        "contribution_high": learned.exact.high.numpy(),
    }
    whole = {}
    for name, values in columns.items():
        whole[name] = np.full(problem.population, np.nan)
        whole[name][ids] = values
    return whole
