"""Worlds of phones beside the figures of FLASH.

Yang et al., "Characterizing Impacts of Heterogeneity in Federated Learning upon Large-Scale Smartphone Data", WWW 2021, abstract: the top
30 % of clients do 86 % of the work, training takes up to 2.32 times as long, more than 10 % of clients fail, and accuracy falls by up to
9.2 points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from scarcity_ray import simulate

THEIRS = {"top 30 %": 0.86, "times as long": 2.32, "failed": 0.10, "accuracy lost": 0.092}
TARGET = 0.8

SIGMA = 1.6
# Of clients that finish in the same microsecond those with the lowest ids are taken: a little jitter makes it chance.
_ALIKE: dict[str, Any] = {
    "compute": {"speed": 3.6e-5, "jitter": 0.01},
    "network": {"downlink": 5.6e-4, "uplink_ratio": 0.71, "jitter": 0.01},
}
_PHONES: dict[str, Any] = {
    # Speeds of FLASH's phones and links of MobiPerf (second-hand). The model has 1 / 28,000 of the work of FLASH's CNN and 1 / 10,800 of
    # its bytes: devices and links are slower by as much.
    "compute": {"speed": {"lognormal": {"median": 3.6e-5, "sigma": 0.52, "minimum": 1.8e-6, "maximum": 1.8e-3}}},
    "network": {"downlink": {"lognormal": {"median": 5.6e-4, "sigma": 1.1, "minimum": 9.3e-6, "maximum": 1.9e-2}}, "uplink_ratio": 0.71},
}
_DROPOUT = {"before": 0.03, "after": 0.05}
WORLDS: dict[str, dict[str, Any]] = {
    "all alike, always there": _ALIKE,
    "phones, always there": _PHONES,
    "phones by day, dropout": {
        **_PHONES,
        "availability": {"kind": "diurnal", "mean": 0.3, "amplitude": 0.6, "phase": {"uniform": {"low": 0, "high": 1}}},
        "dropout": _DROPOUT,
    },
    "phones in 20 groups, dropout": {
        **_PHONES,
        "availability": {"kind": "markov", "on": 1800.0, "off": 7200.0, "groups": 20},
        "dropout": _DROPOUT,
    },
    "phones, p uniform in 0 to 0.6, dropout": {
        **_PHONES,
        "availability": {"kind": "bernoulli", "p": {"uniform": {"low": 0.0, "high": 0.6}}},
        "dropout": _DROPOUT,
    },
    f"phones, p log-normal with sigma {SIGMA}, dropout": {
        **_PHONES,
        "availability": {"kind": "bernoulli", "p": {"lognormal": {"median": 0.06, "sigma": SIGMA, "maximum": 1.0}}},
        "dropout": _DROPOUT,
    },
    "phones, p by label from 0.02 to 0.9, dropout": {
        **_PHONES,
        "availability": {"kind": "bernoulli", "by_label": {"low": 0.02, "high": 0.9}},
        "dropout": _DROPOUT,
    },
}


@dataclass(frozen=True)
class Run:
    """A world under a seed. top: share of the work of the 30 % of clients with the most. hours: to the target, None where it was not
    reached. failed: share of the selected that were lost or late. accuracy: over clients, mean of the last ten evaluations. never: share of
    clients that joined no round."""

    top: float
    hours: float | None
    failed: float
    accuracy: float
    never: float


def top_share(sigma: float) -> float:
    """The share of the first 30 % where clients' work is log-normal: 1 - Phi(Phi^-1(0.7) - sigma)."""
    return float(1 - stats.norm.cdf(stats.norm.ppf(0.7) - sigma))


def scenario(world: dict[str, Any], seed: int, rounds: int) -> dict[str, Any]:
    """FedAvg with 130 % selection and a deadline of three times the median turn; most clients have rows of one or two classes."""
    return {
        "name": "flash",
        "seed": seed,
        "rounds": rounds,
        "data": {
            "source": {"kind": "blobs", "shape": [60], "classes": 10, "samples_per_client": 40, "separation": 4.0, "alpha": 0.05},
            "clients": 500,
        },
        "model": {"kind": "linear"},
        "local": {"epochs": 5, "batch_size": 10, "lr": 0.1},
        "scarcity": world,
        "strategies": [{"kind": "fed_avg", "clients_per_round": 25, "over_selection": 1.3, "round_deadline": 300}],
        "evaluation": {"every": 3, "target": {"accuracy": TARGET}},
        "execution": {"ray": False},
    }


def played(world: dict[str, Any], seed: int, rounds: int) -> Run:
    """Runs it."""
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        run = simulate(scenario(world, seed, rounds), out=Path(folder) / "run")
        rows, entry = run.rounds.to_pandas().query("strategy == 'fed_avg'"), run.summary["strategies"]["fed_avg"]
    return Run(
        entry["top_30_work_share"],
        entry["target"]["hours"],
        float((rows["late"] + rows["dropped"]).sum() / rows["selected"].sum()),
        float(rows["test_accuracy"].dropna().iloc[-10:].mean()),
        entry["never_joined"]["clients_share"],
    )


def table(seeds: Sequence[int], rounds: int) -> dict[str, list[Run]]:
    """Each world under each seed."""
    return {name: [played(world, seed, rounds) for seed in seeds] for name, world in WORLDS.items()}


def lines(found: dict[str, list[Run]]) -> list[list[str]]:
    """A line a world: means over seeds, and where it differs from the first world half the width of the paired 95 % interval."""
    first, rows = next(iter(found.values())), []
    for name, runs in found.items():
        longer = [one.hours / base.hours for one, base in zip(runs, first, strict=True) if one.hours is not None and base.hours is not None]
        lost = [base.accuracy - one.accuracy for one, base in zip(runs, first, strict=True)]
        reached = [with_interval(longer, 2)] if longer else []
        if len(longer) < len(runs):
            reached.append(f"not reached {len(runs) - len(longer)} of {len(runs)}")
        rows.append(
            [
                name,
                with_interval([one.top for one in runs]),
                ", ".join(reached),
                with_interval([one.failed for one in runs]),
                with_interval(lost),
                with_interval([one.never for one in runs]),
            ]
        )
    return rows


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """The mean, and half the width of its 95 % interval."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"
