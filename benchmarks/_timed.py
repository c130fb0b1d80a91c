"""Where the seconds of a round go: Client and Server actors that measure their own methods.

Times are from the system's monotonic clock, which all processes of a machine share, so that times of an actor can be
compared with times of the server.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import ray

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.report import Report, RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.exchange import ServerState, ServerUpdate
from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.runtime import actor_group, loop, simulation
from scarcity_ray.scenario import parse


@dataclass
class Split:
    """The seconds of a round. train: training in the slowest actor. transfer: from the broadcast until the server has the last
    report, minus train. aggregate: merging and dividing the exact sums. overhead: all else (sampling, assigning clients,
    the call to the server, writing rows). round: the whole round. train_mean: training in the mean actor. nodes: training in
    the slowest actor of each node."""

    round: float
    train: float
    transfer: float
    aggregate: float
    overhead: float
    train_mean: float
    nodes: dict[str, float]


class TimedClient(Client):
    """A Client whose reports carry the seconds that local training took, and where."""

    def local_train(self, *order: Any, **more: Any) -> Report:
        """As Client's."""
        began = time.monotonic()
        report = super().local_train(*order, **more)
        report.train_seconds = time.monotonic() - began  # type: ignore[attr-defined]  # an extra attribute
        report.node = ray.get_runtime_context().get_node_id()  # type: ignore[attr-defined]  # as above
        return report


class TimedServer(Server):
    """A Server whose results carry a round's times."""

    def broadcast_model(self, state: ServerState | None = None) -> Any:
        """As Server's."""
        self.sent = time.monotonic()
        return super().broadcast_model(state)

    def aggregate_models(self, reports: Sequence[Report], plan: RoundPlan | None = None) -> ServerUpdate:
        """As Server's."""
        began = time.monotonic()
        trained = [report.train_seconds for report in reports]  # type: ignore[attr-defined]
        places = [report.node for report in reports]  # type: ignore[attr-defined]
        update = super().aggregate_models(reports, plan)
        self.times = {
            "train": max(trained),
            "transfer": began - self.sent - max(trained),
            "aggregate": time.monotonic() - began,
            "train_mean": float(np.mean(trained)),
            "nodes": {node: max(s for s, place in zip(trained, places, strict=True) if place == node) for node in sorted(set(places))},
        }
        return update

    def run_round(self, *order: Any, **more: Any) -> RoundResult:
        """As Server's."""
        result = super().run_round(*order, **more)
        result.times = self.times  # type: ignore[attr-defined]  # as above
        return result


def timed_run(scenario: dict[str, Any], out: Path) -> list[Split]:
    """Runs a scenario with one weight strategy from this process, with Ray: the split of each round from the second on."""
    times: list[dict[str, Any]] = []
    rounds = loop.rounds

    def watched(*order: Any, **more: Any) -> Iterator[RoundResult]:
        for result in rounds(*order, **more):
            times.append({**result.times, "round": result.seconds})  # type: ignore[attr-defined]  # as above
            yield result

    # Replace the classes that become actors, and the function that gives the driver a round's result.
    with (
        mock.patch.object(actor_group, "Client", TimedClient),
        mock.patch.object(actor_group, "Server", TimedServer),
        mock.patch.object(loop, "rounds", watched),
    ):
        simulation.simulate(parse(scenario), out=out, force=True)
    splits = []
    for one in times[1:]:
        overhead = one["round"] - one["train"] - one["transfer"] - one["aggregate"]
        splits.append(Split(overhead=overhead, **one))
    return splits


def middle(splits: list[Split]) -> dict[str, float]:
    """The median of each part over the rounds."""
    parts = [part.name for part in fields(Split) if part.name != "nodes"]
    return {part: float(np.median([getattr(split, part) for split in splits])) for part in parts}


def middle_by_node(splits: list[Split]) -> list[float]:
    """Each node's median training time over the rounds, the longest first."""
    names = {name for split in splits for name in split.nodes}
    return sorted((float(np.median([split.nodes[name] for split in splits if name in split.nodes])) for name in names), reverse=True)


def main() -> None:
    """`python _timed.py SCENARIO.json OUT SPLITS.json`: runs in its own process, so that its memory is the run's."""
    scenario, out, splits = map(Path, sys.argv[1:])
    splits.write_text(json.dumps([asdict(split) for split in timed_run(json.loads(scenario.read_text()), out)]))


if __name__ == "__main__":
    main()
