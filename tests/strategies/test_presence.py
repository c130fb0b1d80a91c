"""mifa, fed_varp and fed_au: where they end when clients are there with unequal probabilities, against loops and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.quadratics import kept, parabolas, value

from scarcity_ray.actors.server import Server
from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.schedules import Uniform
from scarcity_ray.strategies import FedAu, FedAvg, FedVarp, Mifa

WORLD = parabolas(steps=[1] * 5, equal_a=True)
P = [1.0, 0.3, 0.6, 0.2, 0.5]


class Present(Uniform):
    """Each client is there with its own probability."""

    kind: str = "import"
    p: list[float]

    def next(self, before: RoundInput) -> RoundPlan:
        ids = before.clients[hash64(before.seed, "there", before.clients, before.round) / 2.0**64 < np.array(self.p)]
        return RoundPlan.of(ids, np.ones(len(ids), dtype=np.int64))


def made(strategy: Any, p: list[float] = P) -> Server:
    server = WORLD.server(strategy)
    server.set_strategy(server.strategy.model_copy(update={"schedule": Present(p=p)}), server.problem)
    return server


def there(server: Server, round: int) -> list[int]:
    return np.flatnonzero(hash64(server.problem.seed, "there", np.arange(5), round) / 2.0**64 < np.array(P)).tolist()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", ["mifa", "fed_varp", "fed_au"])
def test_it_is_its_algorithm_written_as_a_loop(kind: str, weighted: bool) -> None:
    strategy = {"mifa": Mifa, "fed_varp": FedVarp, "fed_au": FedAu}[kind]
    options = {"cutoff": 3} if kind == "fed_au" else {}
    server = made(strategy(weighted=weighted, server_lr=0.7, **options))
    p = WORLD.p if weighted else np.full(5, 0.2)
    x, g = 0.0, np.zeros(5)
    omega, count, since = np.ones(5), np.zeros(5), np.zeros(5)  # fed_au: Algorithm 2, round by round
    for round in range(1, 31):
        server.run_round(test=False)
        heard = there(server, round)
        move = -WORLD.lr * WORLD.a * (x - WORLD.b)
        if kind == "fed_au":
            x += 0.7 * sum(p[i] * omega[i] * move[i] for i in heard)
            since += 1
            for i in range(5):
                if i in heard or since[i] == 3:
                    omega[i] = since[i] if count[i] == 0 else (count[i] * omega[i] + since[i]) / (count[i] + 1)
                    count[i], since[i] = count[i] + 1, 0
        else:
            before = float(p @ g)
            mean = sum(p[i] * (move[i] - g[i]) for i in heard) / sum(p[i] for i in heard)
            g[heard] = move[heard]
            x += 0.7 * float(p @ g) if kind == "mifa" else 0.7 * (mean + before)
        assert value(server) == pytest.approx(x, rel=1e-9, abs=1e-9)
    if kind != "fed_au":
        assert kept(server, "g") == pytest.approx(g)
        assert float(server.state.private["g"][0]) == pytest.approx(float(p @ g))


def test_where_presence_and_truth_go_together_fed_avg_is_biased_and_these_are_not() -> None:
    away = [1.0 if b > np.median(WORLD.b) else 0.2 for b in WORLD.b]
    optimum, ends = float(WORLD.b.mean()), {}
    for name, strategy in (("mifa", Mifa), ("fed_au", FedAu), ("fed_avg", FedAvg)):
        server, seen = made(strategy(weighted=False), away), []
        for _ in range(600):
            server.run_round(test=False)
            seen.append(value(server))
        ends[name] = np.mean(seen[200:]) - optimum
    assert abs(ends["fed_avg"]) > 0.4
    assert abs(ends["mifa"]) < 0.1 * abs(ends["fed_avg"])
    assert abs(ends["fed_au"]) < 0.2 * abs(ends["fed_avg"])
