"""Rounds of insights on arrays, through Clients, a MetaLearner and one Server in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.played import federation, shards
from scarcity_ray.actors.client import Client
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.insights import make
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem
from scarcity_ray.training.task import Task

COUNTS = [23, 17, 9, 5, 1]
LOCAL = Local(epochs=2, batch_size=4, lr=0.1)
IDENTITY = {"kind": "identity"}


def classes(counts: list[int] = COUNTS, seed: int = 0, apart: float = 2.0, shift: float = 0.0) -> Federation:
    """Three of four classes about means of their own, in each client shifted by as much as `shift` of its own; class 3 is nobody's."""
    rng = np.random.default_rng(seed)
    centres, own = apart * rng.standard_normal((4, 6)), shift * rng.standard_normal((len(counts), 4, 6))
    who = np.repeat(np.arange(len(counts)), counts)
    y, tests = rng.integers(0, 3, len(who)), rng.integers(0, 3, len(who))
    noise = rng.standard_normal((2, len(who), 6))
    train, test = (shards(centres[z] + own[who, z] + e, z, counts) for z, e in ((y, noise[0]), (tests, noise[1])))
    return replace(federation(train, test), outputs=4)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def insight_server(strategy: Strategy, held: Federation, module: nn.Module, company: int = 99) -> Server:
    """A server before round 1, with actors of `company` clients each."""
    clients = [Client(part) for part in np.split(np.arange(held.clients), range(company, held.clients, company))]
    for client in clients:
        client.load_federation(held)
    made = Server(clients=LocalFleet(clients), meta_learner=LocalFleet([MetaLearner()]))
    made.load_federation()
    problem = make_problem(
        module, local=LOCAL, task=held.task, outputs=held.outputs, shape=held.shape, samples=held.train.counts, seed=1, groups=held.group
    )
    made.set_strategy(strategy, strategy.problem(problem))
    return made


def sent(result: RoundResult, column: str) -> np.ndarray:
    """The payload in a round's insights, `[clients, numbers]`."""
    assert result.insights is not None
    return np.array(result.insights[column].to_pylist())


def personal(made: Server) -> torch.Tensor:
    """Every client's own row."""
    actors: Any = made.clients
    return torch.cat([torch.from_numpy(client.personal(made.state)[1]) for client in actors.workers])


def by_hand(strategy: Strategy, held: Federation, module: nn.Module, spoil: Any) -> Any:
    """One round through a MetaLearner, after `spoil` has changed the payload `[clients, numbers]`; its update, and the state before."""
    made = insight_server(strategy, held, module)
    problem, ids = made.problem, np.arange(held.clients)
    task = Task(problem, held.train, ids, 1, strategy.planned_steps(problem, made.state))
    ((name, value),) = strategy.client_update(task, made.state.received(ids), {}).payload.items()
    scalars: dict[str, Any] = dict.fromkeys(("expert_id", "steps", "lr", "epochs", "mean_grad", "std_grad", "uncertainty"), 0)
    scalars |= {"client_id": ids, "num_samples": held.train.counts}
    scalars |= dict.fromkeys(("loss_before", "loss_after", "train_seconds"), 0.0)
    batch = make("", 1, scalars, {name: spoil(value.numpy().copy())})
    return MetaLearner(strategy, problem).aggregate(batch, 1), made.state
