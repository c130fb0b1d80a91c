"""What the simulated clock and what is learned on it are in theory, and here: oracles with closed values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats

from scarcity_ray import Client, Server, simulate
from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.availability import SECOND, Population
from scarcity_ray.scarcity.simulation import Asked, Simulation
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.world import World
from scarcity_ray.schedules import Uniform
from scarcity_ray.strategies import FedAvg, FedNova, Mifa
from scarcity_ray.training.local import Local


@dataclass(frozen=True)
class Oracle:
    """A closed value and ours. half_width: of the 95 % interval of ours, or how far it may be off where it is no mean."""

    name: str
    closed: float
    ours: float
    half_width: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than twice that: by chance, one of 11,000 means would."""
        return abs(self.ours - self.closed) <= 2 * self.half_width + 1e-12


def oracles(quick: bool) -> list[Oracle]:
    """All of them."""
    return [*waiting(400 if quick else 4000), *presence(250 if quick else 4000), *unequal_steps(), *markov(), *identities()]


def world(clients: int, spec: dict[str, Any], seed: int = 1, **columns: Any) -> World:
    """A world of some clients."""
    return World.of(Scarcity.model_validate(spec), Population(seed, clients, None, {name: np.array(v) for name, v in columns.items()}))


def order_mean(place: int, n: int, sigma: float) -> float:
    """The mean of the place-th smallest of n log-normals with median 1."""

    def value(u: float) -> float:
        return float(np.exp(sigma * stats.norm.ppf(u)) * stats.beta.pdf(u, place, n - place + 1))

    return float(integrate.quad(value, 0, 1, points=[place / (n + 1)], limit=400)[0])


def waiting(worlds: int) -> Iterator[Oracle]:
    """How long a round waits for the slowest, or for the first of more than it needs, where a turn takes a log-normal time of median 1."""
    for sigma, needed, selected in [
        *((sigma, n, n) for sigma in (0.5, 0.6, 1.1) for n in (10, 100)),
        *((sigma, n, round(1.3 * n)) for sigma in (0.5, 0.6, 1.1) for n in (10, 100)),
    ]:
        nothing, ones = np.zeros(selected, dtype=np.int64), np.ones(selected, dtype=np.int64)
        asked = Asked(lambda ids, steps: np.full(len(ids), 1e9), nothing, nothing)
        times = []
        for seed in range(worlds):  # who was not waited for stays busy, so each world plays one round
            known = RoundInput(seed, 1, np.arange(selected), ones, ones, needed)
            simulation = Simulation(world(selected, {"compute": {"speed": 1.0, "jitter": sigma}}, seed), nothing, nothing)
            played = simulation.plan(known, Uniform(), Answer(over_selection=selected / needed), asked)
            times.append(played.columns["clock_seconds"])
        of = f"slowest of {needed}" if needed == selected else f"{needed}th of {selected}"
        yield _mean(f"1: seconds, {of}, sigma {sigma}", order_mean(needed, selected, sigma), times)


def by_hand(strategy: Strategy, targets: Sequence[float], local: Local, made: World) -> Iterator[float]:
    """The model w after each round where client i learns the target c_i: its loss is (w - c_i)^2."""
    clients = [Client(client_id=i, data=(np.ones((1, 1)), np.array([c]))) for i, c in enumerate(targets)]
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    server = Server(len(clients), clients, model=model, local=local, strategy=strategy)
    server.set_strategy(server.strategy, server.problem, world=made)
    while True:
        server.run_round(test=False)
        yield float(server.state.broadcast["x"][0])


def shares(p: Sequence[float]) -> np.ndarray:
    """Of each client in the mean of those that are there: p_i times the integral of prod_{j != i} (1 - p_j + p_j s) over s."""

    def of(i: int) -> float:
        others = [q for j, q in enumerate(p) if j != i]
        return p[i] * float(integrate.quad(lambda s: np.prod([1 - q + q * s for q in others]), 0, 1)[0])

    found = np.array([of(i) for i in range(len(p))])
    return found / found.sum()


def presence(rounds: int) -> Iterator[Oracle]:
    """Where FedAvg and MIFA come to rest where client i is there with probability p_i; the first half learns 1, the others 0."""
    spec = {"availability": {"kind": "bernoulli", "p": {"column": "p"}}}
    for p in ((1.0, 0.1), (0.9, 0.3), (1.0, 1.0, 0.1, 0.1)):
        targets = [1.0] * (len(p) // 2) + [0.0] * (len(p) // 2)
        # A step of 0.5 takes a client to its target, so that rounds are independent. A round in which nobody is there is none.
        models = by_hand(FedAvg(), targets, Local(steps=1, batch_size=1, lr=0.5), world(len(p), spec, p=p))
        values = np.array([next(models) for _ in range(rounds)])
        there = world(len(p), spec, p=p).presence
        heard = [there.at(np.arange(len(p)), 0, number + 1).any() for number in range(rounds)]
        yield _mean(f"2: FedAvg's mean model, p {p}", float(shares(p) @ targets), values[heard])
        models = by_hand(Mifa(), targets, Local(steps=1, batch_size=1, lr=0.05), world(len(p), spec, p=p))
        yield Oracle(f"2: MIFA's model, p {p}", 0.5, [next(models) for _ in range(500)][-1], 0.0005)


def unequal_steps() -> Iterator[Oracle]:
    """Where FedAvg and FedNova come to rest where a deadline leaves time for 1, 5 and 20 steps."""
    taken = np.array([1, 5, 20])
    made = world(3, {"compute": {"speed": 1.0}})
    made = replace(made, flops=6 * (taken + 0.3) / 20.5)  # a step of one row and one weight takes 6 operations
    for kind, eta, rounds in ((FedAvg, 0.1, 30), (FedNova, 0.1, 30), (FedNova, 0.01, 150)):
        moved = 1 - (1 - eta) ** taken
        weights = moved if kind is FedAvg else moved / taken
        for client, steps in enumerate(taken.tolist()):
            models = by_hand(
                kind(round_deadline=20.5, late="partial"),
                np.eye(3)[client].tolist(),
                Local(steps=20, batch_size=1, lr=eta / 2),
                replace(made),
            )
            ours = [next(models) for _ in range(rounds)][-1]
            yield Oracle(f"3: {kind.__name__}, eta {eta}, weight at {steps} steps", float(weights[client] / weights.sum()), ours, 1e-4)


def markov() -> Iterator[Oracle]:
    """Share of the time on, and the correlation of states a second apart; 40 clients are a group for the interval."""
    on, off, clients = 10.0, 40.0, 800
    there = world(clients, {"availability": {"kind": "markov", "on": on, "off": off}}).presence
    states = np.array([there.at(np.arange(clients), second * SECOND, 0) for second in range(1000)], dtype=float)
    groups = states.reshape(len(states), -1, 40)
    together = [np.corrcoef(part[:-1].ravel(), part[1:].ravel())[0, 1] for part in groups.transpose(1, 0, 2)]
    yield _mean("4: Markov's share on, 10 s on and 40 off", on / (on + off), groups.mean((0, 2)))
    yield _mean("4: its correlation a second apart", 1 - 1 / on - 1 / off, together)


_SMALL: dict[str, Any] = {
    "name": "identities",
    "seed": 3,
    "rounds": 10,
    "data": {"source": {"kind": "blobs", "shape": [6], "classes": 3, "samples_per_client": 20}, "clients": 40},
    "model": {"kind": "linear"},
    "local": {"epochs": 2, "batch_size": 5, "lr": 0.1},
    "evaluation": {"every": 10},
    "execution": {"ray": False},
}
_LIMITS = {"joules": 90.0, "seconds": 60.0, "uplink_bytes": 500.0}


def identities() -> Iterator[Oracle]:
    """What must be the same: a world without limits and none; FedBuff with all clients at one speed and FedAvg; what is spent in both
    tables; and budgets that nobody passes."""
    one_speed = {"compute": {"speed": 1.0}, "network": {"downlink": 1.0, "jitter": 0.0}}
    poor = {
        "compute": {"speed": {"lognormal": {"median": 1e-5, "sigma": 0.5}}},
        "network": {"downlink": 1e-3},
        "availability": {"kind": "markov", "on": 30.0, "off": 60.0},
        "dropout": {"before": 0.1, "after": 0.1},
        "energy": {"battery": 100.0, "per_byte": 1e-3},
        "budget": _LIMITS,
    }
    plain, alike = {"kind": "fed_avg", "weighted": False}, {"kind": "fed_buff", "concurrency": 40, "buffer": 40}
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:

        def run(name: str, strategies: list[dict[str, Any]], scarcity: dict[str, Any] | None) -> Any:
            return simulate({**_SMALL, "strategies": strategies, "scarcity": scarcity}, out=Path(folder) / name)

        free, limitless = run("free", [plain], None), run("limitless", [plain], {})
        same = [free.tensors("fed_avg")[name].equal(value) for name, value in limitless.tensors("fed_avg").items()]
        yield Oracle("5: no limits, share of tensors with the same bits as without `scarcity`", 1.0, float(np.mean(same)), 0.0)
        both = run("alike", [plain, alike], one_speed)
        tensors = [both.tensors(name) for name in ("fed_avg", "fed_buff")]
        apart = max(float((tensors[0][name] - value).abs().max()) for name, value in tensors[1].items())
        yield Oracle("5: FedBuff, all at one speed, less FedAvg, largest difference of a weight", 0.0, apart, 5e-6)
        scarce = run("scarce", [{"kind": "fed_avg", "clients_per_round": 10}], poor)
        rounds, clients = scarce.rounds.to_pandas(), scarce.frame("clients").query("strategy == 'fed_avg'")
        clients = clients[clients["round"] == clients["round"].max()]
        assert clients["excluded_by"].notna().any()  # else no budget is put to the test
        spent = {"joules": clients["joules"], "seconds": clients["busy_seconds"], "uplink_bytes": clients["uplink_bytes"]}
        over = sum(int((values > _LIMITS[name] * (1 + 1e-9)).sum()) for name, values in spent.items())
        yield Oracle("5: budgets passed, of 120", 0.0, float(over), 0.0)
        tables = rounds.query("strategy == 'fed_avg'")["joules"].sum() / clients["joules"].sum()
        yield Oracle("5: joules of the rounds table over those of the clients table", 1.0, float(tables), 1e-9)


def _mean(name: str, closed: float, values: Any) -> Oracle:
    values = np.asarray(values, dtype=float)
    return Oracle(name, closed, float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values))))
