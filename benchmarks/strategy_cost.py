"""What does a strategy cost beyond the gradients that it asks for? Processor time a gradient, as a ratio to FedAvg's.

Each strategy plays rounds of a workload in this process (one thread, no Ray, no tables), by turns with FedAvg: client half, sums and server
half. A gradient is one minibatch of one client; how many a strategy takes is counted where they are computed. The loss of a minibatch
without a gradient (q_ffl and ifca ask for it) counts as a third: it has one of the three products. Reported is the median of the repeats'
ratios, and both counts a round.

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

import yaml
from _common import HERE, server_of, show, write_json

from scarcity_ray.actors.server import Server
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.scenario import parse
from scarcity_ray.training.batches import Batch
from scarcity_ray.training.explicit import Explicit
from scarcity_ray.training.learner import Step
from scarcity_ray.training.objective import GradInputs
from scarcity_ray.training.task import Task

BAR = 1.5
BARS = {"scaffold": 2.0, "fed_dyn": 2.0}
"""The most times FedAvg's processor time a gradient; these two add a row to each step."""

VARIANTS = [{"kind": "scaffold", "name": "scaffold_1", "option": 1}, {"kind": "fed_partial", "name": "fed_babu", "order": "head_last"}]


class Counter:
    """Gradients and losses so far, a minibatch of a client each."""

    gradients = 0
    losses = 0

    @classmethod
    def work(cls) -> float:
        """Both, in gradients."""
        return cls.gradients + cls.losses / 3


@contextmanager
def counted() -> Iterator[type[Counter]]:
    """Counts the gradients that stacked training computes."""
    plain, plain_loss = Explicit.step, Task.loss

    def step(self: Explicit, *rows: Any) -> Step:
        wrapped = plain(self, *rows)

        def one(batch: Batch, grad_inputs: GradInputs, outputs: Any) -> None:
            Counter.gradients += batch.active
            wrapped(batch, grad_inputs, outputs)

        return one

    def loss(self: Task, theta: Any) -> Any:
        Counter.losses += int((-(-self.plan.counts // self.plan.batch_size)).sum())
        return plain_loss(self, theta)

    Explicit.step, Task.loss = step, loss  # type: ignore[method-assign]
    try:
        yield Counter
    finally:
        Explicit.step, Task.loss = plain, plain_loss  # type: ignore[method-assign]


def trained() -> list[dict[str, Any]]:
    """The settings of every strategy whose clients train a model by gradients at their own rows."""
    kinds = [kind for kind, cls in STRATEGIES.classes.items() if not cls().ends_early and kind not in ("pooled", "fed_avg")]
    return [{"kind": kind} for kind in kinds] + VARIANTS


def seconds(server: Server, rounds: int) -> tuple[float, float]:
    """Processor seconds of so many rounds, and their work in gradients."""
    Counter.gradients = Counter.losses = 0
    began = time.process_time()
    for _ in range(rounds):
        server.run_round(test=False)
    return time.process_time() - began, Counter.work()


def compare(plan: RunPlan, name: str, rounds: int, repeats: int) -> dict[str, Any]:
    """The strategy beside FedAvg: the ratio of processor time a gradient, and gradients a round."""
    reference, mine = (server_of(plan.federation, one, plan.problems[one.title]) for one in plan.scenario.strategies)
    seconds(mine, 1), seconds(reference, 1)  # warm up
    ratios = []
    for _ in range(repeats):
        before, known = seconds(reference, rounds)
        took, work = seconds(mine, rounds)
        counts = Counter.gradients / rounds, Counter.losses / rounds
        after, _ = seconds(reference, rounds)
        ratios.append(took / work / ((before + after) / (2 * known)))
    return {
        "strategy": name, "gradients_a_round": counts[0], "losses_a_round": counts[1],
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
        rows.append(
            [
                one["strategy"],
                f"{one['gradients_a_round']:,.0f}",
                f"{one['losses_a_round']:,.0f}",
                ratio,
                f"{one['bar']:g}",
                "" if met else "NO",
            ]
        )
    show(
        f"Processor time a gradient, to FedAvg's ({given.workload})",
        ["strategy", "gradients a round", "losses", "ratio (range)", "bar", ""],
        rows,
    )
    write_json(given.json, {"strategies": found})


if __name__ == "__main__":
    main()
