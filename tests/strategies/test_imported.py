"""A strategy in a user's own module, by its import path: resumed, verified, and refused where it cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.interrupted import interrupt_after
from helpers.scenarios import scenario
from helpers.user_strategies import FedProx

from scarcity_ray import Client, Results, Server, resume, simulate, verify
from scarcity_ray.core.registry import Registry
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.results.reading import RunError
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.local import Local

PATH = "helpers.user_strategies:FedProx"
PROX: dict[str, Any] = {"kind": "import", "path": PATH, "mu": 0.5, "fraction": 0.5}


def test_it_has_its_own_settings_and_the_name_of_its_class() -> None:
    read = parse(scenario(strategies=[PROX, PROX | {"name": "weak", "mu": 0.01}]))
    strong, weak = read.strategies
    assert isinstance(strong, FedProx)
    assert (strong.title, strong.mu, weak.title, weak.mu) == ("fed_prox", 0.5, "weak", 0.01)
    assert parse(read.model_dump(mode="json")) == read


def test_one_full_step_is_the_proximal_gradient_step() -> None:
    rng = np.random.default_rng(1)
    rows = [(rng.standard_normal((n, 3)), rng.standard_normal(n)) for n in (5, 9)]

    def weights(strategy: Strategy, lr: float = 0.1) -> torch.Tensor:
        clients = [Client(client_id=i, data=data) for i, data in enumerate(rows)]
        server = Server(2, clients, model=torch.nn.Linear(3, 1), local=Local(steps=2, batch_size=50, lr=lr), strategy=strategy, seed=0)
        start = server.state.broadcast["x"].clone()
        server.run_round()
        return server.state.broadcast["x"] - start

    torch.manual_seed(0)
    without = weights(FedAvg())
    torch.manual_seed(0)
    assert torch.equal(weights(FedProx(mu=0.0)), without)
    # Full batches: y1 = x - lr g(x), y2 = y1 - lr (g(y1) + mu (y1 - x)), so the second step is shorter by lr mu |y1 - x|.
    torch.manual_seed(0)
    near = weights(FedProx(mu=2.0))
    assert 0 < near.norm() < without.norm()


def test_resumed_and_verified_it_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Ray it does so too, among the strategies of `runtime/test_bit_identity.py`."""
    content = scenario(strategies=[PROX], execution={"ray": False, "checkpoint_every": 1})
    expected = simulate(content, out=tmp_path / "here").summary["strategies"]["fed_prox"]
    assert expected["kind"] == "fed_prox"

    interrupt_after(monkeypatch, 1, lambda: simulate(content, out=tmp_path / "cut"))
    resumed = resume(tmp_path / "cut", imports=True)
    assert resumed.summary["strategies"]["fed_prox"]["result_hash"] == expected["result_hash"]
    assert verify(tmp_path / "cut", imports=True).difference is None


def test_a_strangers_directory_imports_nothing(tmp_path: Path) -> None:
    directory = simulate(scenario(strategies=[PROX]), out=tmp_path / "run").directory
    for act in (resume, verify, lambda run: Results.load(run).model("fed_prox")):
        with pytest.raises(RunError, match=PATH):
            act(directory)
    assert isinstance(Results.load(directory, imports=True).model("fed_prox"), torch.nn.Module)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            PROX | {"path": "no_such_module:FedProx"},
            "path is 'no_such_module:FedProx': module no_such_module cannot be imported",
        ),
        (PROX | {"path": "helpers.user_strategies:FedFast"}, "module helpers.user_strategies has no FedFast"),
        (PROX | {"path": "helpers.scenarios:scenario"}, "that is no strategy: give a class that derives from"),
        (PROX | {"path": "FedProx"}, "strategies.0.path"),
        (PROX | {"mu": -1.0}, "strategies.0.mu is -1.0: helpers.user_strategies:FedProx: Input should be greater than or equal to 0"),
        (PROX | {"nu": 1.0}, "strategies.0.nu is 1.0: helpers.user_strategies:FedProx: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_named(strategy: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(scenario(strategies=[strategy]))
    assert message in str(caught.value)


def test_a_kind_is_registered_once() -> None:
    register: Registry[Strategy] = Registry("strategy", Strategy)
    register.register(STRATEGIES.classes["fed_avg"])
    with pytest.raises(ValueError, match="fed_avg is taken"):
        register.register(FedProx)
