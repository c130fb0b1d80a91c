"""What the simulated clock costs: rounds of the same clients with a world and without, and updates a second of FedBuff."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _common import HERE, run_scenario

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import Server
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scarcity.world import World
from scarcity_ray.scenario import parse

_PHONES: dict[str, Any] = {
    "compute": {"speed": {"lognormal": {"median": 3.6e-5, "sigma": 0.52}}},
    "network": {"downlink": {"lognormal": {"median": 5.6e-4, "sigma": 1.1, "minimum": 9.3e-6, "maximum": 1.9e-2}}},
}
PRESENCE: dict[str, dict[str, Any]] = {
    "diurnal": {"kind": "diurnal", "mean": 0.3, "phase": {"uniform": {"low": 0, "high": 1}}},
    "bernoulli": {"kind": "bernoulli", "p": {"uniform": {"low": 0.1, "high": 0.9}}},
    "markov": {"kind": "markov", "on": 1200.0, "off": 2400.0},
}
_WARM = 3  # rounds, or versions, that are not counted


@dataclass(frozen=True)
class Rate:
    """Medians over rounds: milliseconds of processor time and of wall time without a world and with it, and of the processor time with it
    the share of planning. heard: clients of a round with it, as only those that are heard are trained. ratio: with it to without, of
    processor time a client trained, of neighbouring rounds."""

    processor: tuple[float, float]
    wall: tuple[float, float]
    planning: float
    heard: float
    ratio: float


def of_many(clients: int, presence: str, epochs: int, rounds: int) -> dict[str, Any]:
    """FedAvg's rounds of 1,000 of so many clients; the world has speeds, links, presence, dropout and batteries."""
    return {
        "name": "many",
        "seed": 1,
        "rounds": rounds,
        "data": {"source": {"kind": "blobs", "shape": [60], "classes": 10, "samples_per_client": 20}, "clients": clients},
        "model": {"kind": "linear"},
        "local": {"epochs": epochs, "batch_size": 10, "lr": 0.1},
        "scarcity": {
            **_PHONES,
            "availability": PRESENCE[presence],
            "dropout": {"before": 0.03, "after": 0.05},
            "energy": {"per_byte": 0.0112, "battery": 2000, "recharge": 0.02},
        },
        "strategies": [{"kind": "fed_avg", "clients_per_round": 1000}],
        "evaluation": {"every": rounds, "clients": 1000},
        "execution": {"ray": False},
    }


def side_by_side(scenario: dict[str, Any]) -> Rate:
    """Plays the rounds of a server with the world and of one without it in turn, in this process, without evaluation."""
    plan = prepare(parse(scenario), Path())
    strategy = plan.scenario.strategies[0]

    def server(world: World | None) -> Server:
        client = Client(np.arange(plan.federation.clients))
        client.load_federation(plan.federation)
        made = Server(clients=LocalFleet([client]))
        made.load_federation()
        made.set_strategy(strategy, plan.problems[strategy.title], world=world)
        return made

    without, scarce = server(None), server(plan.world)
    planned = _timed(scarce)
    times = np.array([[_seconds(one) for one in (without, scarce)] for _ in range(scenario["rounds"])])[_WARM:]
    (cpu, wall, _), (cpu_scarce, wall_scarce, heard) = np.median(times, axis=0)
    each = times[:, :, 0] / times[:, :, 2]
    ratio = float(np.median(each[:, 1] / each[:, 0]))
    share = float(np.median(planned[_WARM:])) / cpu_scarce
    return Rate((1e3 * cpu, 1e3 * cpu_scarce), (1e3 * wall, 1e3 * wall_scarce), share, heard, ratio)


def fed_buff(buffer: int, versions: int) -> dict[str, Any]:
    """The clients of W3 at a concurrency of 100, on phones that are always there."""
    scenario = yaml.safe_load((HERE / "workloads" / "w3.yaml").read_text())
    strategies = [{"kind": "fed_buff", "concurrency": 100, "buffer": buffer}]
    return {**scenario, "rounds": versions, "scarcity": _PHONES, "strategies": strategies, "evaluation": {"every": versions}}


def updates_a_second(buffer: int, versions: int, ray: bool) -> float:
    """Updates that arrived in time a second of wall time, of a run by the command line."""
    rows, _ = _command(fed_buff(buffer, versions) | {"execution": {"ray": ray}}, None)
    rows = rows.query("strategy == 'fed_buff'").sort_values("round").iloc[_WARM:-1]  # the last one tests all clients
    return float(rows["clients"].sum() / rows["seconds"].sum())


def versions_here(buffer: int, versions: int) -> tuple[float, float]:
    """Microseconds of processor time an update takes in this process, and those of them that planning takes."""
    plan = prepare(parse(fed_buff(buffer, versions) | {"execution": {"ray": False}}), Path())
    strategy, client = plan.scenario.strategies[0], Client(np.arange(plan.federation.clients))
    client.load_federation(plan.federation)
    server = Server(clients=LocalFleet([client]))
    server.load_federation()
    server.set_strategy(strategy, plan.problems[strategy.title], world=plan.world)
    planned = _timed(server)
    spent = [_seconds(server)[0] for _ in range(versions)]
    each = 1e6 / (buffer * (versions - _WARM))
    return sum(spent[_WARM:]) * each, sum(planned[_WARM:]) * each


def peak(scenario: dict[str, Any]) -> tuple[float, float]:
    """GiB that a run by the command line uses at most, all processes together, and the median seconds of its rounds."""
    rows, watched = _command(scenario, 0.25)
    return watched.peak_bytes / 2**30, float(rows.query("strategy == 'fed_avg'")["seconds"].iloc[_WARM:-1].median())


def _command(scenario: dict[str, Any], memory_every: float | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(yaml.safe_dump(scenario))
        return run_scenario(path, memory_every=memory_every)


def _seconds(server: Server) -> tuple[float, float, int]:
    """Processor and wall seconds of one round, and the clients that were trained in it."""
    cpu, wall = time.process_time(), time.perf_counter()
    clients = server.run_round(test=False).row["clients"]
    return time.process_time() - cpu, time.perf_counter() - wall, clients


def _timed(server: Server) -> list[float]:
    """Has a server write down the processor seconds of each of its plans."""
    seconds, plan = list[float](), server.plan_round

    def timed() -> Any:
        began = time.process_time()
        made = plan()
        seconds.append(time.process_time() - began)
        return made

    replaced: Callable[[], Any] = timed
    server.plan_round = replaced  # type: ignore[method-assign]
    return seconds
