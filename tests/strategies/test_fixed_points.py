"""Where the baselines end on parabolas, in closed form: with unequal curvatures, rows and steps, and with parts of the clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, shards
from helpers.quadratics import LR, Parabolas, end, kept, parabolas, put, settled, value

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import Server
from scarcity_ray.strategies import Ditto, FedAvg, FedAvgM, FedDyn, FedNova, FedOpt, FedProx, FineTune, PFedMe, QFfl, Scaffold

WORLD = parabolas()
FAST = replace(WORLD, lr=0.3)
TIGHT = {"rel": 1e-8, "abs": 1e-9}


def end_of(strategy: Any, world: Parabolas = WORLD, momentum: float = 0.0) -> float:
    return end(lambda: world.server(strategy, momentum))


# -- the global model ------------------------------------------------------------------------------------------------------


def test_fed_avg_stops_where_steps_count_as_much_as_rows() -> None:
    assert end_of(FedAvg()) == pytest.approx(WORLD.fixed_point(WORLD.p * WORLD.reach()), **TIGHT)
    assert end_of(FedAvg(weighted=False)) == pytest.approx(WORLD.fixed_point(WORLD.reach()), **TIGHT)


@pytest.mark.parametrize("mu", [0.3, 4.0])
def test_fed_prox(mu: float) -> None:
    held = WORLD.a + mu
    assert end_of(FedProx(mu=mu)) == pytest.approx(WORLD.fixed_point(WORLD.p * WORLD.reach(held) * WORLD.a / held), **TIGHT)


@pytest.mark.parametrize("nesterov", [False, True])
def test_server_momentum_changes_the_way_but_not_the_end(nesterov: bool) -> None:
    made = settled(FAST.server(FedAvgM(beta=0.5, server_lr=0.5, nesterov=nesterov)), 60)
    assert value(made) == pytest.approx(end_of(FedAvg(), FAST), rel=1e-6)


def test_fed_nova_counts_clients_by_rows_but_does_not_reach_the_optimum_at_a_finite_step() -> None:
    found = end_of(FedNova())
    assert found == pytest.approx(WORLD.fixed_point(WORLD.p * WORLD.reach() / WORLD.steps), **TIGHT)
    assert abs(found - WORLD.optimum) > 0.01


def test_fed_nova_comes_to_the_optimum_as_steps_become_small() -> None:
    errors = [
        abs(end_of(FedNova(), Parabolas(WORLD.held, WORLD.a, WORLD.b, WORLD.p, WORLD.steps, lr)) - WORLD.optimum)
        for lr in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize(("momentum", "mu"), [(0.9, 0.0), (0.0, 0.5)])
def test_fed_nova_counts_the_steps_of_momentum_and_of_a_proximal_term(momentum: float, mu: float) -> None:
    """The end is where sum_i p_i (x - y_i) / A_i is 0; y_i and A_i by a loop over a client's steps."""
    slopes, offsets = [], []
    for a, b, steps in zip(WORLD.a, WORLD.b, WORLD.steps, strict=True):

        def moved(x: float, a: float = a, b: float = b, steps: int = steps) -> float:
            y, v, weight, total = x, 0.0, 0.0, 0.0
            for _ in range(steps):
                v = momentum * v + a * (y - b) + mu * (y - x)
                y -= LR * v
                weight = momentum * weight + 1
                total = total * (1 - LR * mu) + weight if mu else total + weight
            return (x - y) / total

        offsets.append(moved(0.0))
        slopes.append(moved(1.0) - moved(0.0))
    expected = -(WORLD.p * offsets).sum() / (WORLD.p * slopes).sum()
    assert end_of(FedNova(mu=mu), momentum=momentum) == pytest.approx(expected, **TIGHT)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("sampled", [None, 2])
def test_scaffold_reaches_the_optimum_of_all(option: int, momentum: float, sampled: int | None) -> None:
    world = WORLD if momentum else FAST
    made = settled(world.server(Scaffold(option=option, clients_per_round=sampled), momentum), 120)
    assert value(made) == pytest.approx(world.optimum, rel=1e-4)
    np.testing.assert_allclose(kept(made, "c"), world.a * (world.optimum - world.b), rtol=1e-3)


def test_scaffold_unweighted_reaches_the_uniform_optimum() -> None:
    assert value(settled(FAST.server(Scaffold(weighted=False)), 80)) == pytest.approx(FAST.fixed_point(FAST.a), rel=1e-4)


def test_scaffold_of_equal_curvatures_takes_exactly_the_steps_of_everybody_together_from_round_2() -> None:
    world = parabolas(steps=[3] * 5, equal_a=True)
    made = world.server(Scaffold(option=1))
    settled(made, 1)
    before = value(made)
    settled(made, 1)
    expected = world.optimum + (before - world.optimum) * (1 - LR * world.a[0]) ** 3
    assert value(made) == pytest.approx(expected, **TIGHT)


@pytest.mark.parametrize("sampled", [None, 2])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fed_dyn_reaches_the_optimum_of_all_with_inexact_training(alpha: float, sampled: int | None) -> None:
    made = settled(FAST.server(FedDyn(alpha=alpha, clients_per_round=sampled)), 120)
    assert value(made) == pytest.approx(FAST.optimum, rel=1e-4)


def test_fed_dyn_with_enough_steps_solves_each_clients_problem() -> None:
    world, alpha = parabolas(steps=[300] * 5), 0.7
    made = settled(world.server(FedDyn(alpha=alpha)), 1)
    y = world.a * world.b / (world.a + alpha)  # (a b + lam + alpha x) / (a + alpha) at lam = x = 0
    np.testing.assert_allclose(kept(made, "lam"), -alpha * y, rtol=1e-10)
    assert value(made) == pytest.approx((world.p * y).sum() + (world.p * y).sum(), **TIGHT)  # mean - h / alpha


@pytest.mark.parametrize("q", [0.0, 1.0, 5.0])
def test_q_ffl_stops_where_its_formula_says(q: float) -> None:
    """Two clients, one step: u_i = a_i F_i^q is what counts, so that x = (s_1 b_1 + s_2 b_2) / (s_1 + s_2), s = a^((q + 1) / (2 q + 1))."""
    world = parabolas(counts=[3, 1], steps=[1, 1])
    s = world.a ** ((q + 1) / (2 * q + 1))
    there = world.fixed_point(s)
    made = put(world.server(QFfl(q=q)), there)
    assert value(settled(made, 1)) == pytest.approx(there, rel=1e-7)
    off = value(settled(put(made, there + 0.1), 1)) - there
    assert abs(off) < 0.1  # and it is where other starts lead


@pytest.mark.parametrize("q", [0.0, 0.5, 3.0, 15.0])
def test_a_step_of_q_ffl_is_the_papers(q: float) -> None:
    """Two rounds by hand: the unit of losses changes after the first, and the step does not; q = 0 is FedAvg, clients counting alike."""
    made, x = put(WORLD.server(QFfl(q=q)), 4.0), 4.0
    for _ in range(2):
        loss = WORLD.a / 2 * (x - WORLD.b) ** 2
        move = WORLD.reach() * (x - WORLD.b)
        gradient = move / LR
        x -= float((loss**q * gradient).sum() / (q * loss ** (q - 1) * gradient**2 + loss**q / LR).sum())
        settled(made, 1)
        assert value(made) == pytest.approx(x, rel=1e-8)
    if q == 0:
        assert x == pytest.approx(value(settled(put(WORLD.server(FedAvg(weighted=False)), 4.0), 2)), rel=1e-9)


@pytest.mark.parametrize("mu", [0.5, 1e-6])
def test_a_round_of_fed_nova_goes_the_rows_mean_of_steps(mu: float) -> None:
    made, x = put(WORLD.server(FedNova(mu=mu)), 1.0), 1.0
    counted = -np.expm1(WORLD.steps * np.log1p(-LR * mu)) / (LR * mu)
    moved = WORLD.reach(WORLD.a + mu) * WORLD.a / (WORLD.a + mu) * (x - WORLD.b)
    expected = x - (WORLD.p * WORLD.steps).sum() * (WORLD.p * moved / counted).sum()
    assert value(settled(made, 1)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("strategy", "share"), [(Scaffold(server_lr=0.4), 0.4), (PFedMe(beta=1.7), 1.7)])
def test_the_server_goes_a_share_of_the_way(strategy: Any, share: float) -> None:
    whole = strategy.model_copy(update={"server_lr" if strategy.kind == "scaffold" else "beta": 1.0})
    ends = [value(settled(put(WORLD.server(one), 3.0), 1)) for one in (strategy, whole)]
    assert ends[0] - 3.0 == pytest.approx(share * (ends[1] - 3.0), rel=1e-9)


@pytest.mark.parametrize("option", [1, 2])
def test_scaffolds_variates_know_of_weight_decay(option: int) -> None:
    world, decay = replace(WORLD, lr=0.3), 0.5
    made = settled(world.server(Scaffold(option=option), weight_decay=decay), 120)
    decayed = (world.p * world.a * world.b).sum() / (world.p * (world.a + decay)).sum()
    assert value(made) == pytest.approx(decayed, rel=1e-4)


def test_fed_dyn_may_test_the_mean_of_the_clients() -> None:
    x, mean = (WORLD.server(FedDyn(alpha=0.7, tested=tested)) for tested in ("x", "mean"))
    settled(x, 2), settled(mean, 2)
    assert value(x) == value(mean)
    tested = mean.strategy.eval_models(mean.state.broadcast, {})["global"][0, 0]
    assert float(tested) == pytest.approx(value(x) + float(x.state.private["h"][0]) / 0.7, rel=1e-9)
    assert mean.run_round(test=False).row["downlink_bytes"] == 5 * mean.problem.bytes


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_pfed_me_with_exact_inner_steps_is_fed_avg_on_envelopes(beta: float) -> None:
    lam = 4.0
    strategy = PFedMe(lam=lam, inner_steps=60, personal_lr=0.14, beta=beta)
    soft = lam * WORLD.a / (lam + WORLD.a)
    expected = WORLD.fixed_point(WORLD.p * WORLD.reach(soft))
    assert end_of(strategy) == pytest.approx(expected, **TIGHT)
    made = settled(put(WORLD.server(strategy), expected), 1)
    w = expected + (WORLD.b - expected) * (1 - (1 - LR * soft) ** (WORLD.steps - 1))  # where a client's last inner steps were taken
    np.testing.assert_allclose(kept(made, "own"), (WORLD.a * WORLD.b + lam * w) / (WORLD.a + lam), rtol=1e-7)


# -- clients' own models -----------------------------------------------------------------------------------------------------


def test_ditto_pulls_each_clients_own_minimum_to_the_global_one() -> None:
    lam = 1.5
    made = put(FAST.server(Ditto(lam=lam)), x := end_of(FedAvg(), FAST))
    np.testing.assert_allclose(kept(settled(made, 60), "own"), (FAST.a * FAST.b + lam * x) / (FAST.a + lam), rtol=1e-8)


def test_fine_tuning_goes_its_steps_towards_the_clients_own_minimum() -> None:
    made = settled(WORLD.server(FineTune(adapt_steps=3)), 5)
    x = value(made)
    assert x == value(settled(WORLD.server(FedAvg()), 5))
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    assert isinstance(client, Client)
    found = client.evaluate(made.state)["test_loss"]
    own = WORLD.b - (1 - LR * WORLD.a) ** 3 * (WORLD.b - x)
    np.testing.assert_allclose(found, WORLD.a / 2 * (own - WORLD.b) ** 2, rtol=1e-6)


# -- the server's optimizers -------------------------------------------------------------------------------------------------


def by_torch(made: Server, rounds: int, optimizer: Any, **settings: Any) -> tuple[float, float]:
    """The global number by ours, and by torch's optimizer on minus the mean move that FedAvg's clients make from there."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    torchs = optimizer([x], **settings)
    for _ in range(rounds):
        y = WORLD.b + (1 - WORLD.reach()) * (float(x.detach()) - WORLD.b)
        x.grad = torch.tensor([float(x.detach()) - float((WORLD.p * y).sum())], dtype=torch.float64)
        torchs.step()
    return value(settled(made, rounds)), float(x.detach())


@pytest.mark.parametrize("nesterov", [False, True])
def test_server_momentum_is_torchs_sgd(nesterov: bool) -> None:
    made = WORLD.server(FedAvgM(beta=0.8, server_lr=0.5, nesterov=nesterov))
    ours, theirs = by_torch(made, 9, torch.optim.SGD, lr=0.5, momentum=0.8, nesterov=nesterov)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_adagrad_is_torchs() -> None:
    made = WORLD.server(FedOpt(method="adagrad", server_lr=0.2, tau=0.01))
    ours, theirs = by_torch(made, 9, torch.optim.Adagrad, lr=0.2, eps=0.01, initial_accumulator_value=0.01**2)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_adam_with_corrected_moments_is_torchs() -> None:
    made = WORLD.server(FedOpt(method="adam", server_lr=0.2, tau=0.01, beta_1=0.7, beta_2=0.9, bias_correction=True))
    ours, theirs = by_torch(made, 9, torch.optim.Adam, lr=0.2, eps=0.01, betas=(0.7, 0.9))
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("method", ["adam", "yogi", "adagrad"])
def test_adaptive_steps_are_the_papers_lines_written_as_a_loop(method: str) -> None:
    made = WORLD.server(FedOpt(method=method, server_lr=0.3, tau=0.05, beta_1=0.6, beta_2=0.8) if method != "adagrad"
                        else FedOpt(method=method, server_lr=0.3, tau=0.05, beta_1=0.6))  # fmt: skip
    x, m, v = 0.0, 0.0, 0.05**2
    for _ in range(7):
        move = float((WORLD.p * WORLD.reach() * (WORLD.b - x)).sum())
        m = 0.6 * m + 0.4 * move
        v = {
            "adagrad": v + move**2,
            "yogi": v - 0.2 * move**2 * np.sign(v - move**2),
            "adam": 0.8 * v + 0.2 * move**2,
        }[method]
        x += 0.3 * m / (np.sqrt(v) + 0.05)
        settled(made, 1)
        assert value(made) == pytest.approx(x, rel=1e-9)


def test_a_large_tau_with_as_large_a_step_is_fed_avg() -> None:
    """v starts at tau^2, so that each step is server_lr / (2 tau) of the move."""
    made = WORLD.server(FedOpt(method="adagrad", server_lr=2e6, tau=1e6))
    assert value(settled(made, 5)) == pytest.approx(value(settled(WORLD.server(FedAvg()), 5)), rel=1e-5)


# -- invariants ----------------------------------------------------------------------------------------------------------------


class LyingScaffold(Scaffold):
    """A client's update is not finite in every other round in which it takes part."""

    kind: str = "lying"  # type: ignore[assignment]

    def client_update(self, task: Any, broadcast: Any, client: Any) -> Any:
        return _spoiled(super().client_update(task, broadcast, client), task)


class LyingFedDyn(FedDyn):
    """As LyingScaffold."""

    kind: str = "lying"  # type: ignore[assignment]

    def client_update(self, task: Any, broadcast: Any, client: Any) -> Any:
        return _spoiled(super().client_update(task, broadcast, client), task)


def _spoiled(result: Any, task: Any) -> Any:
    value, weight = result.sums["x"]
    liar = torch.from_numpy((task.ids + task.round) % 4 == 0)[:, None]
    return replace(result, sums={**result.sums, "x": (torch.where(liar, float("nan"), value), weight)})


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("lying", [False, True])
def test_variates_sum_to_the_servers_after_every_round(weighted: bool, lying: bool) -> None:
    world = parabolas(counts=[3, 0, 2, 5, 1, 4], steps=[2, 1, 3, 1, 2, 4])
    weights = world.p if weighted else np.full(6, 1 / 6)
    scaffold = (LyingScaffold if lying else Scaffold)(weighted=weighted, clients_per_round=4)
    dyn = (LyingFedDyn if lying else FedDyn)(weighted=weighted, clients_per_round=4, alpha=0.5)
    refused = 0
    one, other = world.server(scaffold), world.server(dyn)
    for _ in range(12):
        refused += len(one.run_round(test=False).rejected) + len(other.run_round(test=False).rejected)
        assert value(one, "c") == pytest.approx(float((weights * kept(one, "c")).sum()), rel=1e-8, abs=1e-10)
        assert float(other.state.private["h"][0]) == pytest.approx(float((weights * kept(other, "lam")).sum()), rel=1e-8, abs=1e-10)
    assert (refused > 0) == lying


# -- one client, and clients who are all alike -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [
    FedAvg(), FedProx(mu=0.3), FedAvgM(), FedOpt(), FedNova(), Scaffold(), Scaffold(option=1), FedDyn(alpha=0.5), QFfl(), PFedMe(), Ditto(),
], ids=lambda one: f"{one.kind}{getattr(one, 'option', '')}")  # fmt: skip
def test_clients_who_are_all_alike_are_one(strategy: Any) -> None:
    x, y = np.full((3, 1), 0.8), np.full((3, 1), 1.7)
    alone = Parabolas(federation(shards(x, y, [3])), np.zeros(1), np.zeros(1), np.ones(1), np.array([3]))
    four = Parabolas(
        federation(shards(np.tile(x, (4, 1)), np.tile(y, (4, 1)), [3] * 4)), np.zeros(4), np.zeros(4), np.ones(4) / 4, np.full(4, 3)
    )
    assert value(settled(four.server(strategy), 6)) == pytest.approx(value(settled(alone.server(strategy), 6)), rel=1e-10)
