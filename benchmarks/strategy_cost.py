"""What does a strategy cost beyond the gradients that it asks for? Processor time a gradient, as a ratio to FedAvg's.

Each strategy plays rounds of a workload in this process (one thread, no Ray, no tables), by turns with FedAvg: client half, sums and server
half. A gradient is one minibatch of one client; how many a strategy takes is counted where they are computed. Reported is the median of
the repeats' ratios, and the count a round.

    python benchmarks/strategy_cost.py                       # all that train, W1: about 4 minutes on a quiet core
    python benchmarks/strategy_cost.py --only ditto --repeats 9
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from _common import HERE, show, write_json

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import Server
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.scenario import parse
from scarcity_ray.training.batches import Batch
from scarcity_ray.training.explicit import Explicit
from scarcity_ray.training.learner import Step
from scarcity_ray.training.objective import GradInputs

BAR = 1.5
BARS = {"scaffold": 2.0, "fed_dyn": 2.0}
"""The most times FedAvg's processor time a gradient; these two add a row to each step."""

VARIANTS = [{"kind": "scaffold", "name": "scaffold_1", "option": 1}, {"kind": "fed_partial", "name": "fed_babu", "order": "head_last"}]


class Counter:
    """Gradients so far: a minibatch of a client each."""

    gradients = 0


@contextmanager
def counted() -> Iterator[type[Counter]]:
    """Counts the gradients that stacked training computes."""
    plain = Explicit.step

    def step(self: Explicit, *rows: Any) -> Step:
        wrapped = plain(self, *rows)

        def one(batch: Batch, grad_inputs: GradInputs, outputs: Any) -> None:
            Counter.gradients += batch.active
            wrapped(batch, grad_inputs, outputs)

        return one

    Explicit.step = step  # type: ignore[method-assign]
    try:
        yield Counter
    finally:
        Explicit.step = plain  # type: ignore[method-assign]


def trained() -> list[dict[str, Any]]:
    """The settings of every strategy whose clients train a model by gradients at their own rows."""
    kinds = [kind for kind, cls in STRATEGIES.classes.items() if not cls().ends_early and kind not in ("pooled", "fed_avg")]
    return [{"kind": kind} for kind in kinds] + VARIANTS


def server_of(plan: RunPlan, name: str) -> Server:
    """A server before round 1, and all clients in one actor."""
    client = Client(np.arange(plan.federation.clients))
    client.load_federation(plan.federation)
    server = Server(clients=LocalFleet([client]))
    server.load_federation()
    (strategy,) = [one for one in plan.scenario.strategies if one.title == name]
    server.set_strategy(strategy, plan.problems[name])
    return server


def seconds(server: Server, rounds: int) -> tuple[float, int]:
    """Processor seconds and gradients of so many rounds."""
    Counter.gradients = 0
    began = time.process_time()
    for _ in range(rounds):
        server.run_round(test=False)
    return time.process_time() - began, Counter.gradients


def compare(plan: RunPlan, name: str, rounds: int, repeats: int) -> dict[str, Any]:
    """The strategy beside FedAvg: the ratio of processor time a gradient, and gradients a round."""
    mine, reference = server_of(plan, name), server_of(plan, "fed_avg")
    seconds(mine, 1), seconds(reference, 1)  # warm up
    ratios, counts = [], []
    for _ in range(repeats):
        before, known = seconds(reference, rounds)
        took, gradients = seconds(mine, rounds)
        after, _ = seconds(reference, rounds)
        counts.append(gradients / rounds)
        ratios.append(took / gradients / ((before + after) / (2 * known)))
    return {
        "strategy": name, "gradients_a_round": float(median(counts)), "fed_avg_gradients_a_round": known / rounds,
        "ratio": median(ratios), "least": min(ratios), "most": max(ratios), "bar": BARS.get(name.removesuffix("_1"), BAR),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="w1", choices=["w1", "w3"])
    parser.add_argument("--only", nargs="*", help="strategies by name")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of one measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    content = yaml.safe_load((HERE / "workloads" / f"{given.workload}.yaml").read_text())
    cohort = {key: value for key, value in content["strategies"][0].items() if key in ("fraction", "clients_per_round")}
    found = []
    with counted():
        for settings in trained():
            name = settings.get("name", settings["kind"])
            sampled = "fraction" in STRATEGIES.classes[settings["kind"]].model_fields
            if (given.only and name not in given.only) or not sampled:
                continue
            scenario = {**content, "strategies": [{"kind": "fed_avg", **cohort}, {**settings, **cohort}], "execution": {"ray": False}}
            plan = prepare(parse(scenario), HERE / "workloads")
            found.append(compare(plan, name, given.rounds, given.repeats))
    rows = []
    for one in found:
        ratio, met = f"{one['ratio']:.2f} ({one['least']:.2f}-{one['most']:.2f})", one["ratio"] <= one["bar"]
        rows.append([one["strategy"], f"{one['gradients_a_round']:,.0f}", ratio, f"{one['bar']:g}", "" if met else "NO"])
    show(f"Processor time a gradient, to FedAvg's ({given.workload})", ["strategy", "gradients a round", "ratio (range)", "bar", ""], rows)
    write_json(given.json, {"strategies": found})


if __name__ == "__main__":
    main()
