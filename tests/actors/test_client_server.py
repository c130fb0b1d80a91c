"""Client and Server by hand: the seed's usage, FedAvg against its formula, and what hostile updates do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, server, shards
from torch import Tensor

import scarcity_ray
from scarcity_ray import Client, Expert, MetaLearner, Router, Server
from scarcity_ray.core.exchange import ClientResult, State
from scarcity_ray.core.federation import Array, Encoding
from scarcity_ray.runtime.fleet import WorkerError
from scarcity_ray.strategies import FedAvg, Ifca
from scarcity_ray.training.local import Local
from scarcity_ray.training.task import Task


def clients_with_rows(counts: list[int]) -> list[Client]:
    rng = np.random.default_rng(5)
    rows = [(rng.standard_normal((n, 4)), rng.standard_normal(n)) for n in counts]
    return [Client(client_id=i, data=data, test=data) for i, data in enumerate(rows)]


def test_the_seeds_usage() -> None:
    assert Expert(expert_id=0).expert_id == 0
    assert Router(num_experts=3).num_experts == 3
    assert Client(client_id=0).ids.tolist() == [0]
    assert len(MetaLearner().insight_history) == 0
    server = Server(num_clients=5)
    losses = [server.run_round().row["train_loss"] for _ in range(5)]
    assert all(after < before for before, after in pairwise(losses))
    for _ in range(5):
        server.run_insight_round()
    assert len(server.memory) == 25
    assert {insight["client_id"] for insight in server.memory} == {0, 1, 2, 3, 4}


def test_importing_the_package_loads_neither_ray_nor_torch() -> None:
    import subprocess
    import sys

    code = "import scarcity_ray, sys; assert not {'ray', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        scarcity_ray.Clients  # noqa: B018 - the access is the test


@pytest.mark.parametrize("weighted", [True, False])
def test_one_step_of_fed_avg_is_the_weighted_mean_of_gradient_steps(weighted: bool) -> None:
    counts, lr = [3, 10, 40], 0.1
    clients = clients_with_rows(counts)
    model = torch.nn.Linear(4, 1)
    server = Server(3, clients, model=model, local=Local(batch_size=100, lr=lr), strategy=FedAvg(weighted=weighted))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    server.run_round()

    expected = {name: torch.zeros_like(value) for name, value in before.items()}
    for client, count in zip(clients, counts, strict=True):
        own = torch.nn.Linear(4, 1)
        own.load_state_dict(before)
        train = client.federation.train
        torch.nn.functional.mse_loss(own(torch.from_numpy(train.x)), torch.from_numpy(train.y)).backward()
        share = count / sum(counts) if weighted else 1 / 3
        for name, value in own.named_parameters():
            expected[name] += share * (value.detach() - lr * value.grad)
    found = server.problem.layout.state_dict(server.state.broadcast["x"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


class Hostile(FedAvg):
    """FedAvg with clients that send what they should not."""

    attack: Any = None

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        value, weight = uploads["x"]
        for place, client in enumerate(task.ids.tolist()):
            if client in self.attack["clients"]:
                value, weight = self.attack["how"](value.clone(), weight.clone(), place)
        return ClientResult({self.attack.get("name", "x"): (value, weight)}, kept)


def put(number: float, weight: bool = False) -> Any:
    def attack(value: Tensor, weights: Tensor, place: int) -> tuple[Tensor, Tensor]:
        (weights if weight else value)[place, 0] = number
        return value, weights

    return attack


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (put(float("nan")), "not finite"),
        (put(float("inf")), "not finite"),
        (put(-float("inf")), "not finite"),
        (put(1e38), "beyond"),
        (put(float("nan"), weight=True), "weight"),
        (put(-1.0, weight=True), "weight"),
        (put(float("inf"), weight=True), "weight"),
    ],
)
def test_a_hostile_update_is_rejected_and_the_round_goes_on(how: Any, reason: str) -> None:
    strategy = Hostile(attack={"clients": [1], "how": how})
    server = Server(3, clients_with_rows([5, 6, 7]), model=torch.nn.Linear(4, 1), strategy=strategy)
    result = server.run_round()
    ((client, why),) = result.rejected
    assert client == 1
    assert reason in why
    assert result.row["rejected"] == 1
    assert not result.diverged
    assert torch.isfinite(server.state.broadcast["x"]).all()


@pytest.mark.parametrize(
    "attack",
    [
        {"clients": [0, 1, 2], "how": lambda value, weight, place: (value[:, :-1], weight)},
        {"clients": [0, 1, 2], "how": lambda value, weight, place: (value.double(), weight)},
        {"clients": [0, 1, 2], "how": lambda value, weight, place: (value, weight), "name": "y"},
        {"clients": [0, 1, 2], "how": lambda value, weight, place: (None, weight)},
        {"clients": [0, 1, 2], "how": put(float("nan"))},
    ],
)
def test_a_round_without_one_good_update_is_marked_and_leaves_the_model(attack: Mapping[str, Any]) -> None:
    server = Server(3, clients_with_rows([5, 6, 7]), model=torch.nn.Linear(4, 1), strategy=Hostile(attack=attack))
    before = server.state.broadcast["x"].clone()
    result = server.run_round()
    assert result.diverged
    assert [client for client, _ in result.rejected] == [0, 1, 2]
    assert torch.equal(server.state.broadcast["x"], before)


class Failing(FedAvg):
    """Raises for one client."""

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        if 1 in task.ids:
            raise ZeroDivisionError("a bug in the strategy")
        return super().client_update(task, broadcast, client)


def test_an_exception_names_the_client_and_the_cause() -> None:
    server = Server(3, clients_with_rows([5, 6, 7]), model=torch.nn.Linear(4, 1), strategy=Failing())
    with pytest.raises(WorkerError, match="client 1: ZeroDivisionError: a bug in the strategy"):
        server.run_round()


def test_a_client_is_called_by_its_own_name() -> None:
    x, y = np.zeros((6, 4)), np.zeros((6, 1), dtype=np.float32)
    encoding = Encoding(inputs=Array(shape=(4,)), client="site", clients=("north", "south", "east"))
    held = replace(federation(shards(x, y, [2, 2, 2])), encoding=encoding)
    with pytest.raises(WorkerError, match="client south: ZeroDivisionError: a bug in the strategy"):
        server(Failing(), held, torch.nn.Linear(4, 1), Local()).run_round()
    assert [held.called(client, population=3) for client in (0, 2, 3, -1, None)] == ["north", "east", "3", "-1", "None"]
    assert held.called(0, population=1) == "0"  # one virtual client that holds all rows


def test_a_client_says_what_is_wrong_with_its_data() -> None:
    with pytest.raises(ValueError, match="3 inputs and 2 labels"):
        Client(client_id=0, data=(np.zeros((3, 2)), np.zeros(2)))
    with pytest.raises(ValueError, match="client_ids, or client_id"):
        Client()
    with pytest.raises(ValueError, match="num_clients is 4, but there are 3"):
        Server(4, clients_with_rows([1, 2, 3]))


class Astray(Ifca):
    """IFCA with a client that speaks of an expert that there is not."""

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        value, weight, chosen = uploads["experts"]
        return ClientResult({"experts": (value, weight, torch.where(torch.from_numpy(task.ids) == 1, 3, chosen))}, kept)


def test_an_update_for_an_expert_that_there_is_not_is_rejected() -> None:
    server = Server(3, clients_with_rows([5, 6, 7]), model=torch.nn.Linear(4, 1), strategy=Astray(experts=3))
    assert server.run_round().rejected == [(1, "experts is for a row that the server does not have")]
