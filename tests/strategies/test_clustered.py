"""IFCA and hierarchical averaging against plain loops, planted clusters, and the groups they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, play, server, shards
from helpers.scenarios import scenario
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray import simulate
from scarcity_ray.actors.server import Server
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.strategy import SampledStrategy
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.schedules.uniform import sample
from scarcity_ray.strategies import FedAvg, HierFedAvg, Ifca
from scarcity_ray.training.local import Local

COUNTS = [23, 17, 9, 5, 30, 12, 8]
GROUPS = np.array([0, 1, 2, 0, 1, 2, 0])


def mixture(counts: list[int], group: NDArray[np.int64], features: int, noise: float, seed: int = 0) -> tuple[Federation, NDArray[Any]]:
    """Each group a linear regression of its own, coefficients 0 or 1 at random (the paper's section 6), and those."""
    rng = np.random.default_rng(seed)
    theta = (rng.random((int(group.max()) + 1, features)) < 0.5).astype(float)
    x = rng.standard_normal((sum(counts), features))
    y = (x * theta[np.repeat(group, counts)]).sum(1, keepdims=True) + noise * rng.standard_normal((len(x), 1))
    return federation(shards(x, y.astype(np.float32), counts), group=group), theta


def line(features: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(features, 1)


def rows(held: Federation) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Each client's inputs with a constant, and targets, in float64."""
    x = np.concatenate([held.train.x, np.ones((len(held.train.x), 1))], axis=1).astype(np.float64)
    return [(x[held.train.rows(i)], held.train.y[held.train.rows(i), 0].astype(np.float64)) for i in range(held.clients)]


def trained(w: NDArray[Any], x: NDArray[Any], y: NDArray[Any], steps: int, lr: float) -> NDArray[Any]:
    for _ in range(steps):
        w = w - lr * 2 * x.T @ (x @ w - y) / len(x)
    return w


def models(made: Server) -> Tensor:
    """The row of each expert, or edge."""
    return made.state.broadcast["experts" if "experts" in made.state.broadcast else "edges"]


def learned(made: Server) -> NDArray[np.float64]:
    """Weights and bias of each of them."""
    states = [made.problem.layout.state_dict(row) for row in models(made)]
    return np.array([np.append(state["weight"][0].numpy(), state["bias"].numpy()) for state in states], dtype=np.float64)


# -- IFCA ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sampled", [7, 4])
def test_ifca_is_its_algorithm_written_as_a_loop(weighted: bool, sampled: int) -> None:
    """Full batches, so that the loop needs no order of rows: 2 gradient steps a round, 6 rounds, who takes part by seed."""
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    strategy = Ifca(experts=3, weighted=weighted, clients_per_round=sampled)
    made = server(strategy, held, line(3), Local(epochs=2, batch_size=100, lr=0.1))
    theta, own = learned(made), rows(held)
    seen = set()
    for round in range(1, 7):
        result = made.run_round()
        fit = [int(np.argmin([np.mean((x @ w - y) ** 2) for w in theta])) for x, y in own]
        seen |= set(fit)
        after = theta.copy()
        for j in range(3):
            members = [i for i in sample(1, round, np.arange(7), sampled) if fit[i] == j]
            if members:
                share = np.array([COUNTS[i] if weighted else 1 for i in members])
                after[j] = share / share.sum() @ np.array([trained(theta[j], *own[i], 2, 0.1) for i in members])
        theta = after
        np.testing.assert_allclose(learned(made), theta, rtol=1e-5, atol=1e-6)
        losses = np.array([[np.mean((x @ w - y) ** 2) for w in theta] for x, y in own])
        assert result.clients is not None
        np.testing.assert_allclose(result.clients["test_loss"], losses.min(1), rtol=1e-4)
        assert result.clients["expert_id"].tolist() == losses.argmin(1).tolist()
    assert len(seen) > 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ifca_finds_planted_clusters(seed: int) -> None:
    """100 clients of 100 rows in two clusters, 50 features: the experts come as near as noise lets them, 0.1 sqrt(50 / 5000)."""
    held, theta = mixture([100] * 100, np.arange(100) % 2, 50, 0.1, seed)
    made = server(Ifca(experts=2), held, line(50, seed), Local(epochs=1, batch_size=100, lr=0.3), seed)
    for _ in range(29):
        made.run_round(test=False)
    result = made.run_round()
    assert result.clients is not None
    chosen = result.clients["expert_id"]
    assert {len(set(chosen[held.group == group])) for group in (0, 1)} == {1}
    found = learned(made)[[chosen[0], chosen[1]], :-1]
    assert np.linalg.norm(found - theta, axis=1).max() < 0.015


def test_an_expert_that_nobody_chose_stays_and_one_that_diverged_is_not_chosen() -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    made = server(Ifca(experts=3), held, line(3), Local(epochs=1, batch_size=100, lr=0.1))
    before = made.state.broadcast["experts"] + torch.tensor([[torch.nan], [0], [1e6]])
    made.state = ServerState({"experts": before})
    result, after = made.run_round(), made.state.broadcast["experts"]
    assert result.clients is not None
    assert set(result.clients["expert_id"]) == {1}
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])
    assert torch.isfinite(after[1]).all()


@pytest.mark.parametrize("strategy", [Ifca(experts=1, fraction=0.5), HierFedAvg(period=3, fraction=0.5)])
def test_with_one_cluster_both_are_fed_avg_to_the_bit(strategy: SampledStrategy) -> None:
    held, _ = mixture(COUNTS, 0 * GROUPS, 3, 0.1)
    local = Local(epochs=2, batch_size=4, lr=0.05)
    a, b = server(strategy, held, line(3), local), server(FedAvg(fraction=0.5), held, line(3), local)
    ours, theirs = play(a, 7)[-1], play(b, 7)[-1]
    assert torch.equal(models(a)[0], b.state.broadcast["x"])
    assert ours.row["test_loss"] == theirs.row["test_loss"]


def test_experts_start_apart_by_the_seed_alone() -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    local = Local(epochs=1)
    module = line(3)
    first, same, other = (models(server(Ifca(experts=3), held, module, local, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert [torch.equal(*rows) for rows in zip(first, other, strict=True)] == [True, False, False]  # the first is the module's own
    assert len(torch.unique(first, dim=0)) == 3


class Constant(nn.Module):
    """A module that cannot draw new weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def test_experts_that_would_start_alike_are_refused() -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    with pytest.raises(ValueError, match="the 2 experts would start alike: Constant"):
        server(Ifca(experts=2), held, Constant(), Local(epochs=1))


def test_ifca_sends_all_models_down_and_one_up_with_its_number_and_saves_them_stacked() -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    module = line(3)
    module.register_buffer("scale", torch.ones(2))
    made = server(Ifca(experts=3, clients_per_round=4), held, module, Local(epochs=1))
    row = made.run_round().row
    assert (row["uplink_bytes"], row["downlink_bytes"]) == (4 * (4 * 4 + 4), 4 * 3 * 4 * 4)
    saved = made.strategy.saved(made.problem, made.state)
    assert {name: list(value.shape) for name, value in saved.items()} == {"weight": [3, 1, 3], "bias": [3, 1], "scale": [2]}
    for j in range(3):
        one = made.problem.layout.state_dict(models(made)[j])
        assert all(torch.equal(saved[name][j], one[name]) for name in ("weight", "bias"))


# -- hierarchical averaging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sampled", [7, 3])
def test_hier_fed_avg_is_its_algorithm_written_as_a_loop(weighted: bool, sampled: int) -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    strategy = HierFedAvg(period=3, weighted=weighted, clients_per_round=sampled)
    made = server(strategy, held, line(3), Local(epochs=2, batch_size=100, lr=0.1))
    own, edges, counts = rows(held), learned(made), np.array(COUNTS if weighted else [1] * 7)
    for round in range(1, 8):
        result = made.run_round()
        for e in range(3):
            members = [i for i in sample(1, round, np.arange(7), sampled) if GROUPS[i] == e]
            if members:
                share = counts[members] / counts[members].sum()
                edges[e] = share @ np.array([trained(edges[e], *own[i], 2, 0.1) for i in members])
        if round % 3 == 0:
            whole = np.array([counts[e == GROUPS].sum() for e in range(3)])
            edges[:] = whole / whole.sum() @ edges
        assert (len(np.unique(learned(made), axis=0)) == 1) == (round % 3 == 0)
        np.testing.assert_allclose(learned(made), edges, rtol=1e-5, atol=1e-6)
        assert result.clients is not None
        losses = [np.mean((x @ edges[e] - y) ** 2) for e, (x, y) in zip(GROUPS, own, strict=True)]
        np.testing.assert_allclose(result.clients["test_loss"], losses, rtol=1e-4)
        assert result.clients["expert_id"].tolist() == GROUPS.tolist()


@pytest.mark.parametrize("weighted", [True, False])
def test_hier_fed_avg_that_meets_every_round_is_fed_avg(weighted: bool) -> None:
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    local = Local(epochs=2, batch_size=4, lr=0.05)
    a = server(HierFedAvg(period=1, weighted=weighted), held, line(3), local)
    b = server(FedAvg(weighted=weighted), held, line(3), local)
    ours, theirs = play(a, 5)[-1], play(b, 5)[-1]
    for row in models(a):
        torch.testing.assert_close(row, b.state.broadcast["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.row["test_loss"], theirs.row["test_loss"], rtol=1e-5)


def test_the_bytes_between_edges_and_cloud_are_counted_as_well() -> None:
    """7 clients a round of 16 bytes each way, and 3 edges x 16 bytes every 2 rounds: 48 / 14, so 4 bytes a client and round."""
    held, _ = mixture(COUNTS, GROUPS, 3, 0.1)
    made = server(HierFedAvg(period=2), held, line(3), Local(epochs=1))
    row = made.run_round().row
    assert row["uplink_bytes"] == row["downlink_bytes"] == 7 * (16 + 4)


def test_edges_are_the_datas_groups() -> None:
    data = {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "iid"}, "transforms": [{"kind": "rotate", "groups": 4}]}
    plan = prepare(parse(scenario(data=data, strategies=[{"kind": "hier_fed_avg"}, {"kind": "pooled"}])), Path())
    assert plan.problems["hier_fed_avg"].groups.tolist() == [0, 1, 2, 3] * 3
    assert plan.problems["pooled"].groups.tolist() == [0]


def test_tables_and_models_say_which_expert_is_whose(tmp_path: Path) -> None:
    data = {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "iid"}, "transforms": [{"kind": "rotate", "groups": 3}]}
    strategies = [{"kind": "ifca", "experts": 2}, {"kind": "hier_fed_avg", "period": 2}, {"kind": "reptile"}]
    results = simulate(scenario(data=data, strategies=strategies), out=tmp_path / "run")
    clients = results.frame("clients")
    hier = clients[clients.strategy == "hier_fed_avg"]
    assert (hier.expert_id == hier.group).all()
    assert set(clients[clients.strategy == "ifca"].expert_id) <= {0, 1}
    assert clients[clients.strategy == "reptile"].expert_id.isna().all()
    assert {len(value) for value in results.tensors("ifca").values()} == {2}
    assert {len(value) for value in results.tensors("hier_fed_avg").values()} == {3}
