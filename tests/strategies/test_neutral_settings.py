"""With the settings that switch it off, a method is FedAvg or each client alone, to the bit: sampled or not, by rows or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, server, shards

from scarcity_ray.actors.server import Server
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.strategies import (
    Ditto,
    FedAvg,
    FedAvgM,
    FedNova,
    FedPartial,
    FedPer,
    FedProx,
    FedRep,
    FineTune,
    LocalOnly,
    PFedMe,
    Pooled,
    Reptile,
    Scaffold,
)
from scarcity_ray.training.local import Local
from scarcity_ray.training.parameters import part_of, rest_of

COHORTS = [{}, {"weighted": False}, {"clients_per_round": 3}]
EVERYTHING = ["0", "1", "3"]
COUNTS = [4, 0, 9, 7]


def world(strategy: Strategy, **local: Any) -> Server:
    """Four clients, one of them without rows; two layers and a norm between them."""
    draw = np.random.default_rng(1)
    held = federation(shards(draw.standard_normal((sum(COUNTS), 6)), draw.integers(0, 3, sum(COUNTS)), COUNTS))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    return server(
        strategy, held, module, Local(**{"epochs": None if "steps" in local else 2, "batch_size": 4, "lr": 0.1, "momentum": 0.5, **local})
    )


def played(strategy: Strategy, rounds: int = 3, **local: Any) -> Server:
    made = world(strategy, **local)
    for _ in range(rounds):
        assert made.run_round(test=False).rejected == []
    return made


def x_of(made: Server) -> torch.Tensor:
    return made.state.broadcast["x"]


def personal(made: Server) -> np.ndarray:
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    return client.personal(made.state)[1]


@pytest.mark.parametrize("cohort", COHORTS)
def test_what_is_switched_off_is_fed_avg(cohort: dict[str, Any]) -> None:
    expected = x_of(played(FedAvg(**cohort)))
    for off in (FedProx(mu=0.0, **cohort), FedAvgM(beta=0.0, **cohort), Ditto(**cohort), FineTune(adapt_steps=0, **cohort)):
        assert torch.equal(x_of(played(off)), expected), off.kind
    torch.testing.assert_close(
        x_of(played(FedNova(**cohort), 1, steps=3)), x_of(played(FedAvg(**cohort), 1, steps=3)), rtol=1e-5, atol=1e-6
    )


def test_one_client_is_everybodys_rows_in_one_place() -> None:
    draw = np.random.default_rng(2)
    held = federation(shards(draw.standard_normal((9, 6)), draw.integers(0, 3, 9), [9]))
    torch.manual_seed(0)
    module, local = torch.nn.Linear(6, 3), Local(epochs=2, batch_size=4, lr=0.1)
    pooled = server(Pooled(), held, module, local)
    for _ in range(2):
        pooled.run_round(test=False)
    for strategy in (FedAvg(), FedProx(mu=0.0), FedAvgM(beta=0.0), Ditto(), FineTune(), Scaffold()):
        made = server(strategy, held, module, local)
        for _ in range(2):
            made.run_round(test=False)
        torch.testing.assert_close(x_of(made), x_of(pooled), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cohort", COHORTS)
def test_the_first_round_of_scaffold_is_fed_avg(cohort: dict[str, Any]) -> None:
    assert torch.equal(x_of(played(Scaffold(**cohort), 1)), x_of(played(FedAvg(**cohort), 1)))


def test_fine_tuning_is_reptile_with_an_outer_step_of_1() -> None:
    one, other = played(FineTune(), momentum=0.0), played(Reptile(outer=1.0), momentum=0.0)
    torch.testing.assert_close(x_of(one), x_of(other), rtol=1e-6, atol=1e-7)  # x + (mean - x) is rounded once more


def test_ditto_without_a_pull_is_every_client_alone() -> None:
    alone = played(LocalOnly())
    own = played(Ditto(lam=0.0))._client_state()["own"]
    assert np.array_equal(own, alone._client_state()["v"])


@pytest.mark.parametrize("cohort", COHORTS)
def test_where_nothing_is_private_the_federation_is_fed_avg(cohort: dict[str, Any]) -> None:
    made = played(FedPartial(private=[], **cohort))
    everything = rest_of(made.problem, [])
    assert torch.equal(made.state.broadcast["shared"], x_of(played(FedAvg(**cohort)))[everything])
    assert not made._client_state()


def test_where_everything_is_private_each_client_is_alone() -> None:
    made = played(FedPartial(private=EVERYTHING))
    assert not made.state.broadcast
    assert (made.traffic.uplink.sum(), made.traffic.downlink.sum()) == (0, 0)
    assert np.array_equal(personal(made), played(LocalOnly())._client_state()["v"])


# -- parts of a model --------------------------------------------------------------------------------------------------------


class TwoOrders(torch.nn.Module):
    """The layer that answers last is registered first."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.head, self.body = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        if tied:
            self.head.weight, self.body.weight = self.body.weight, self.body.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))[:, :3]
        return out


def test_the_head_is_the_layer_that_answers_last() -> None:
    draw = np.random.default_rng(3)
    held = federation(shards(draw.standard_normal((9, 6)), draw.integers(0, 3, 9), [4, 5]))
    problem = server(FedAvg(), held, TwoOrders(), Local(lr=0.1)).problem
    assert torch.equal(part_of(problem, "head"), problem.layout.mask("head.weight", "head.bias"))


@pytest.mark.parametrize(("private", "names"), [
    ("head", ["3.bias", "3.weight"]),
    ("body", ["0.bias", "0.weight", "1.bias", "1.weight"]),
    ("norms", ["1.bias", "1.weight"]),
    (["0.weight", "3"], ["0.weight", "3.bias", "3.weight"]),
])  # fmt: skip
def test_a_part_is_chosen_by_a_word_or_by_names(private: Any, names: list[str]) -> None:
    problem = world(FedAvg()).problem
    assert torch.equal(part_of(problem, private), problem.layout.mask(*names))
    assert int(part_of(problem, private).sum() + rest_of(problem, private).sum()) == problem.layout.num_parameters


@pytest.mark.parametrize("local", [{}, {"momentum": 0.0}, {"momentum": 0.0, "optimizer": "adam", "weight_decay": 0.1}, {"clip_norm": 0.3}])
def test_what_is_fixed_keeps_its_bits_and_what_is_free_is_trained_as_if_it_were_all(local: dict[str, Any]) -> None:
    made = world(FedAvg(), **local)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    free = part_of(made.problem, "head")
    x = made.state.broadcast["x"][None]
    trained = _task(made).local_sgd(x, free=free)
    assert torch.equal(trained[:, ~free], x[:, ~free].expand(len(trained), -1))
    assert not torch.equal(trained[:, free], x[:, free].expand(len(trained), -1))
    # The head on fixed features is a model of one layer.
    body = made.problem.module[:-1]  # type: ignore[index]
    features = body(torch.from_numpy(client.train.x)).detach().numpy()
    alone = server(FedAvg(), federation(shards(features, client.train.y, COUNTS)), made.problem.module[-1], made.problem.local)  # type: ignore[index]
    expected = _task(alone).local_sgd(alone.state.broadcast["x"][None])
    torch.testing.assert_close(trained[:, free], expected[:, part_of(alone.problem, "head")], rtol=1e-5, atol=1e-6)


def _task(made: Server) -> Any:
    from scarcity_ray.training.task import Task

    (client,) = made.clients.workers  # type: ignore[attr-defined]
    steps = made.problem.local.steps_for(made.problem.samples)
    ids = np.lexsort((np.arange(len(COUNTS)), -steps))
    return Task(made.problem, client.train, ids[:3], 1, steps[ids[:3]])


def test_fed_rep_trains_the_head_on_the_old_body_and_then_the_body_on_the_new_head() -> None:
    made = world(FedRep(shared_epochs=1), momentum=0.0)
    task = _task(made)
    x = made.problem.row[None]
    head, body = part_of(made.problem, "head"), rest_of(made.problem, "head")
    after_head = task.local_sgd(x, free=head)
    one_epoch, order = task.again(-(-task.plan.counts // 4))
    y = one_epoch.local_sgd(after_head[order], free=body)[torch.argsort(order)]
    result = made.run_round(test=False)
    assert result.steps == int(sum(3 * -(-n // 4) for n in COUNTS))  # two epochs of the head, one of the body
    kept = made._client_state()["private"][task.ids]
    np.testing.assert_array_equal(kept, y[:, head].numpy())
    mean = (task.samples.double() * y[:, body].double()).sum(0) / task.samples.double().sum()
    torch.testing.assert_close(made.state.broadcast["shared"], mean.float(), rtol=1e-6, atol=1e-7)


def test_a_client_that_did_less_work_leaves_out_the_last_steps() -> None:
    from scarcity_ray.training.task import Task

    made = world(FedRep(), momentum=0.0)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    steps = np.array([9, 2, 1])  # all of the third client's head; part of the fourth's; one step of the first's
    task = Task(made.problem, client.train, np.array([2, 3, 0]), 1, steps)
    result = made.strategy.client_update(task, made.state.broadcast, client._recall(task.ids))
    body = made.state.broadcast["shared"]
    moved = (result.sums["shared"][0] != body).any(1)
    assert moved.tolist() == [True, False, False]
    assert (result.state["private"] != client._recall(task.ids)["private"]).any(1).all()


def test_fed_babu_keeps_the_first_head_and_trains_it_only_before_the_test() -> None:
    made = played(FedPartial(order="head_last"))
    head, body = part_of(made.problem, "head"), rest_of(made.problem, "head")
    assert not made._client_state()
    saved = made.problem.layout.row(made.strategy.saved(made.problem, made.state))
    assert torch.equal(saved[head], made.problem.row[head])
    assert torch.equal(saved[body], made.state.broadcast["shared"])
    task = _task(made)
    adapted = made.strategy.adapt(task, made.state.broadcast, {})["adapted"]
    assert torch.equal(adapted, task.local_sgd(saved[None], free=head))


def test_a_client_that_never_took_part_trains_its_head_before_the_test() -> None:
    made = played(FedPer(clients_per_round=2), 1)
    took_part = made._client_state()["took_part"][:, 0]
    assert took_part.sum() == 1  # the other one has no rows
    rows, head = torch.from_numpy(personal(made)), part_of(made.problem, "head")
    others = (took_part == 0) & (np.array(COUNTS) > 0)
    assert (rows[others][:, head] != made.problem.row[head]).any(1).all()
    np.testing.assert_array_equal(made._client_state()["private"][others], made.problem.row[head].expand(int(others.sum()), -1))


def test_own_models_of_clients_that_never_took_part_are_the_global_one() -> None:
    for strategy in (Ditto(clients_per_round=2), PFedMe(clients_per_round=2)):
        made = played(strategy, 1, momentum=0.0)
        never = made._client_state()["took_part"][:, 0] == 0
        assert never.sum() == 3
        assert np.array_equal(personal(made)[never], x_of(made).expand(3, -1).numpy())


@pytest.mark.parametrize("strategy", [Ditto(), PFedMe(), FedPer()])
def test_a_client_that_has_not_trained_is_tested_with_what_came_down(strategy: Strategy) -> None:
    made = played(strategy, 2, momentum=0.0)
    empty = COUNTS.index(0)
    assert made._client_state()["took_part"][:, 0].tolist() == [1, 0, 1, 1]
    if strategy.kind != "fed_per":
        assert np.array_equal(personal(made)[empty], x_of(made).numpy())


def test_fine_tuning_of_the_head_leaves_the_body() -> None:
    made = played(FineTune(parts="head", adapt_steps=2), 1)
    task = _task(made)
    task, _ = task.again(np.where(task.plan.counts > 0, 2, 0))
    adapted = made.strategy.adapt(task, made.state.broadcast, {})["adapted"]
    head = part_of(made.problem, "head")
    assert torch.equal(adapted[:, ~head], x_of(made)[~head].expand(len(adapted), -1))
    assert (adapted[:, head] != x_of(made)[head]).any(1).all()


def test_the_steps_before_the_test_are_as_many_as_are_set() -> None:
    few, none = (played(FedPartial(order="head_last", adapt_steps=steps), 1) for steps in (1, 0))
    head = part_of(none.problem, "head")
    assert (torch.from_numpy(personal(none))[:, head] == none.problem.row[head]).all()
    assert (torch.from_numpy(personal(few))[np.array(COUNTS) > 0][:, head] != few.problem.row[head]).any(1).all()
