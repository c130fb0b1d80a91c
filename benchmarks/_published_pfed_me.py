"""pFedMe's synthetic federation (T. Dinh et al., NeurIPS 2020, section 5): own models beside FedAvg's and Per-FedAvg's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from _published_runs import GLOBAL, Bench, Figure, Found, accuracy, dealt, logistic, served
from torch import Tensor, from_numpy

from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.schedules.uniform import Uniform, sample
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.per_fed_avg import PerFedAvg
from scarcity_ray.strategies.pfed_me import PFedMe
from scarcity_ray.training.local import Local
from scarcity_ray.training.task import Task

USERS, AVERAGED = 100, 10
DATA_SEED = 0


class AllBeforeTests(Uniform):
    """All clients take part in the rounds that are tested, a sample in the others."""

    kind: str = "import"
    every: int = 1

    def next(self, before: RoundInput) -> RoundPlan:
        """By the round's number."""
        return super().next(before if before.round % self.every else replace(before, count=len(before.clients)))


class AllTrain(PFedMe):
    """Only a sample of the clients that train is averaged. In the authors' code all train in each round: as own models start from the
    global one in each, what those that are not averaged do in rounds that are not tested leaves no trace."""

    def weights(self, task: Task) -> Tensor:
        """0 for a client that is not sampled."""
        chosen = np.isin(task.ids, sample(task.problem.seed, task.round, task.problem.population, AVERAGED))
        return super().weights(task) * from_numpy(chosen)[:, None]


def strategies(tuned: bool, every: int) -> dict[str, tuple[Strategy, dict[str, Any]]]:
    """Each strategy, and its local settings, by the parameters of the paper's two tables."""
    sampled: dict[str, Any] = {"clients_per_round": AVERAGED}
    per = PerFedAvg(**sampled, alpha=0.02 if tuned else 0.005, outer=1.0)
    own = AllTrain(**sampled, schedule=AllBeforeTests(every=every), lam=20.0, inner_steps=5, personal_lr=0.01, beta=2.0 if tuned else 1.0)
    return {
        "FedAvg": (FedAvg(**sampled), {"lr": 0.02 if tuned else 0.005}),
        "Per-FedAvg": (per, {"lr": 0.002 if tuned else 0.001}),
        "pFedMe": (own, {"lr": 0.01 if tuned else 0.005, "weight_decay": 0.001}),
    }


def run(tuned: bool, name: str, seed: int, rounds: int, every: int) -> dict[str, list[float]]:
    """Accuracies over all test rows, in percent, after every so many rounds. The seed draws the model, the minibatches and who is
    sampled; data and split are always the same."""
    held = dealt({"kind": "leaf_synthetic", "alpha": 0.5, "beta": 0.5, "times": 5}, USERS, DATA_SEED)
    strategy, settings = strategies(tuned, every)[name]
    server = served(strategy, held, logistic(60, 10, seed), Local(steps=20, batch_size=20, **settings), seed)
    found: dict[str, list[float]] = {}
    for round in range(1, rounds + 1):
        result = server.run_round(test=round % every == 0)
        if result.clients is None:
            continue
        found.setdefault(name if name != "pFedMe" else "pFedMe personal", []).append(accuracy(result))
        if name == "pFedMe":
            found.setdefault("pFedMe global", []).append(accuracy(result, GLOBAL))
    return found


TABLES = {"tuned": True, "same parameters": False}
RECOMPUTED = {
    ("tuned", "FedAvg"): "77.86 +- 0.16",
    ("tuned", "Per-FedAvg"): "81.15",
    ("tuned", "pFedMe global"): "78.61 +- 0.30",
    ("tuned", "pFedMe personal"): "83.18 +- 0.18",
    ("same parameters", "FedAvg"): "77.49 +- 0.29",
    ("same parameters", "Per-FedAvg"): "76.84",
    ("same parameters", "pFedMe global"): "76.40 +- 0.25",
    ("same parameters", "pFedMe personal"): "82.70 +- 0.15",
}
"""Best over rounds, three seeds of training. Per-FedAvg: adapted on training rows."""


def pfed_me(bench: Bench) -> Found:
    """The best accuracy over rounds of both tables."""
    tables = {"tuned": True} if bench.quick else TABLES
    seeds, rounds, every = (range(1, 3), 100, 20) if bench.quick else (range(1, 4), 600, 20)
    methods = ("Per-FedAvg", "pFedMe", "FedAvg")  # the slowest first
    settings = [(title, method, seed) for method in methods for title in tables for seed in seeds]
    played = bench.map(run, [(tables[title], method, seed, rounds, every) for title, method, seed in settings])
    curves: dict[tuple[str, str], list[list[float]]] = {}
    for (title, _, _), found in zip(settings, played, strict=True):
        for name, curve in found.items():
            curves.setdefault((title, name), []).append(curve)
    figures = [
        Figure(f"{title}: {name}", [max(curve) for curve in curves[title, name]], "", recomputed)
        for (title, name), recomputed in RECOMPUTED.items()
        if title in tables
    ]
    notes = [
        f"The best over rounds is the best of each {every}th round here, of each round where re-computed.",
        "Minibatches: here each round starts a new epoch, in a new order; in the authors' code epochs continue over rounds, in one order.",
        "Per-FedAvg adapts on all training rows of a client in one step; the authors' code adapts on minibatches of test rows.",
    ]
    return Found(figures, notes, {"curves": {" ".join(key): found for key, found in curves.items()}})
