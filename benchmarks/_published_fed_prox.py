"""FedProx's synthetic data with stragglers (Li et al., MLSys 2020, section 5.2): does it pay to keep what slow clients have done?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from _published_runs import Bench, Figure, Found, accuracy, dealt, logistic, served
from pydantic import Field

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.schedules import Uniform
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.fed_prox import FedProx
from scarcity_ray.training.local import Local

EPOCHS = 20
LATE = 50
"""Accuracies of so many last rounds are averaged, as those of single rounds jump."""


class Stragglers(Uniform):
    """A share of the clients of each round is slow: each does 1 to epochs - 1 of the epochs, or is dropped."""

    kind: str = "import"
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    epochs: Annotated[int, Field(ge=2)] = EPOCHS
    dropped: bool = False

    def next(self, before: RoundInput) -> RoundPlan:
        """The authors' code draws the epochs with NumPy's randint(1, 20), which leaves out 20."""
        plan = super().next(before)
        ranks = hash64(before.seed, "stragglers", plan.ids, before.round).argsort().argsort()
        slow = ranks >= round(len(plan.ids) * (1 - self.share))
        done = 1 + (hash64(before.seed, "straggler epochs", plan.ids, before.round) % np.uint64(self.epochs - 1)).astype(np.int64)
        steps = np.where(slow, plan.steps // self.epochs * done, plan.steps)
        return replace(plan, steps=steps, lost=slow & self.dropped)


def run(source: dict[str, Any], seed: int, method: str, share: float, rounds: int) -> list[float]:
    """The accuracy after each round, in percent. The seed draws data, model, cohorts and stragglers: the same for all methods."""
    held = dealt({"kind": "leaf_synthetic", **source}, 30, seed)
    schedule = Stragglers(share=share, dropped=method == "fedavg")
    ways = {
        "fedavg": FedAvg(clients_per_round=10, schedule=schedule),
        "mu=0": FedProx(clients_per_round=10, schedule=schedule, mu=0.0),
        "mu=1": FedProx(clients_per_round=10, schedule=schedule, mu=1.0),
    }
    local = Local(epochs=EPOCHS, batch_size=10, lr=0.01)
    server = served(ways[method], held, logistic(60, 10, seed), local, seed)
    return [accuracy(server.run_round()) for _ in range(rounds)]


PUBLISHED = {(0.9, "fedavg"): 58.58, (0.9, "mu=0"): 69.00, (0.9, "mu=1"): 71.96, (0.0, "fedavg"): 70.30, (0.0, "mu=1"): 70.08}
"""An independent audit of the original (1, 1) data, at round 200."""


def fed_prox(bench: Bench) -> Found:
    """Accuracy at round 200, and the paired differences between methods, over seeds, each with its own data, model and cohorts."""
    seeds, rounds, shares = (range(1, 3), 20, (0.9,)) if bench.quick else (range(1, 6), 200, (0.9, 0.5, 0.0))
    settings = [
        (share, method, seed)
        for share in shares
        for method in ("fedavg", "mu=0", "mu=1")
        if share or method != "mu=0"  # without stragglers that is FedAvg
        for seed in seeds
    ]
    source = {"alpha": 1.0, "beta": 1.0}
    curves = bench.map(run, [(source, seed, method, share, rounds) for share, method, seed in settings])
    found = {setting: np.array(curve) for setting, curve in zip(settings, curves, strict=True)}
    figures = []
    for share in shares:
        methods = [method for method in ("fedavg", "mu=0", "mu=1") if (share, method, seeds[0]) in found]
        at = f"{share:.0%} stragglers"
        some = min(LATE, rounds // 2)
        last = {method: np.array([found[share, method, seed][-1] for seed in seeds]) for method in methods}
        late = {method: np.array([found[share, method, seed][-some:].mean() for seed in seeds]) for method in methods}
        names = {"fedavg": "FedAvg, drops them" if share else "FedAvg", "mu=0": "FedProx, mu 0", "mu=1": "FedProx, mu 1"}
        told = {method: PUBLISHED[share, method] for method in methods if (share, method) in PUBLISHED}
        figures += [Figure(f"{at}: {names[method]}", last[method].tolist(), f"{told[method]:.2f}" if told else "") for method in methods]
        for one, other in [("mu=0", "fedavg"), ("mu=1", "mu=0"), ("mu=1", "fedavg")]:
            if one in methods and other in methods:
                published = f"{told[one] - told[other]:+.2f}" if told else ""
                pair = f"{at}: {names[one]} less {names[other].split(', drops')[0]}"
                figures.append(Figure(f"{pair}, round {rounds}", (last[one] - last[other]).tolist(), published, form="+.2f"))
                figures.append(Figure(f"{pair}, last {some}", (late[one] - late[other]).tolist(), form="+.2f"))
    notes = [
        "Published: one audit of one draw of the data, the repository's own. Ours are new draws of devices, rows, split, model, cohorts "
        "and stragglers in each seed: levels need not agree, the order is the claim. Intervals of differences are paired by seed.",
    ]
    return Found(figures, notes, {"curves": {" ".join(map(str, setting)): curve.tolist() for setting, curve in found.items()}})
