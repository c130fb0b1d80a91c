"""What any strategy may do: send sums and insights at once, keep state that is no model, test two models, run in the MetaLearner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.insight_rounds import insight_server
from helpers.interrupted import interrupt_after
from helpers.lies import server_of
from helpers.played import federation, server, shards
from helpers.scenarios import scenario
from helpers.user_strategies import InMetaLearner

from scarcity_ray import MetaLearner, Server, resume, simulate, verify
from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, State
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.ensemble.representation import Trunk
from scarcity_ray.runtime.fleet import LocalFleet, WorkerError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.strategies import FedAvg, Prototypes, Reptile
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

ON_SERVER = sorted(kind for kind, cls in STRATEGIES.classes.items() if cls.server_half == "server")
TRAINED = [kind for kind in ON_SERVER if STRATEGIES.classes[kind].planned_steps is Strategy.planned_steps]
IN_META = sorted(kind for kind, cls in STRATEGIES.classes.items() if cls.server_half == "meta_learner")


def user(name: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "import", "path": f"helpers.user_strategies:{name}", **settings}


# -- insights of any strategy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if STRATEGIES.classes[kind]().answer.concurrency is None])
def test_any_strategy_that_trains_sends_insights_where_it_is_asked_to(kind: str, tmp_path: Path) -> None:
    strategies = [{"kind": kind}, {"kind": kind, "name": "telling", "insights": True}]
    results = simulate(scenario(strategies=strategies, evaluation={"every": 1}, local={"lr": 0.01}), out=tmp_path / "run")
    insights = results.frame("insights")
    clients = 1 if kind == "pooled" else 12
    assert insights.groupby("round").size().tolist() == [clients] * 3
    assert set(insights["strategy"]) == {"telling"}
    assert (insights["loss_after"] < insights["loss_before"]).all()
    assert (insights["mean_grad"] > 0).all()
    rows = results.frame("rounds")
    plain, telling = (rows[rows["strategy"] == name].reset_index() for name in (kind, "telling"))
    np.testing.assert_allclose(telling["test_loss"], plain["test_loss"], rtol=1e-4)  # norms of gradients take other products
    more = telling["uplink_bytes"] - plain["uplink_bytes"]
    assert more.tolist() == [0 if kind == "pooled" else 52 * 12] * 3
    assert telling["downlink_bytes"].equals(plain["downlink_bytes"])


@pytest.mark.parametrize("kind", IN_META)
def test_a_strategy_that_learns_from_insights_sends_them_in_any_case(kind: str) -> None:
    assert STRATEGIES.classes[kind]().sends_insights


def test_the_losses_of_an_insight_are_those_of_the_model_before_and_after_local_training(tmp_path: Path) -> None:
    content = scenario(strategies=[{"kind": "fed_avg", "insights": True}], rounds=1)
    results = simulate(content, out=tmp_path / "run")
    plan = prepare(parse(content), tmp_path)
    problem = plan.problems["fed_avg"]
    x = torch.from_numpy(plan.federation.train.x)
    before = torch.nn.functional.cross_entropy(problem.module(x), torch.from_numpy(plan.federation.train.y), reduction="none")
    expected = [float(before.detach()[plan.federation.train.rows(i)].mean()) for i in range(12)]
    np.testing.assert_allclose(results.frame("insights")["loss_before"], expected, rtol=1e-5)


def test_insights_survive_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = [{"kind": "fed_avg", "insights": True, "fraction": 0.5}, user("InMetaLearner")]
    content = scenario(strategies=strategies, execution={"ray": False, "checkpoint_every": 1})
    whole = simulate(content, out=tmp_path / "whole")

    interrupt_after(monkeypatch, 2, lambda: simulate(content, out=tmp_path / "cut"), lambda: resume(tmp_path / "cut", imports=True))
    cut = resume(tmp_path / "cut", imports=True)
    assert _hashes(cut) == _hashes(whole)
    assert verify(tmp_path / "cut", imports=True).difference is None
    assert _hashes(simulate(content | {"execution": {"ray": False, "actors": 3}}, out=tmp_path / "packed")) == _hashes(whole)


def _hashes(results: Any) -> dict[str, str]:
    return {name: entry["result_hash"] for name, entry in results.summary["strategies"].items()}


def test_a_server_half_in_the_meta_learner_has_the_sums_and_the_history() -> None:
    held = federation(shards(np.random.default_rng(0).standard_normal((30, 6)), np.arange(30) % 3, [4, 6, 8, 5, 7]))
    module = torch.nn.Linear(6, 3)
    made, other = insight_server(InMetaLearner(), held, module), server(FedAvg(), held, module, Local(epochs=2, batch_size=4, lr=0.1))
    for round in (1, 2, 3):
        result = made.run_round()
        other.run_round()
        assert result.learned == {"insights": 5 * round}
    torch.testing.assert_close(made.state.broadcast["x"], other.state.broadcast["x"], rtol=1e-5, atol=1e-6)


# -- state that is no model, weights of its own, two models ----------------------------------------------------------------


def test_state_that_is_no_model_is_not_saved_and_its_sum_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """c = sum_i p_i c_i and h = sum_i p_i lam_i, from what a checkpoint kept."""
    strategies = [{"kind": "scaffold", "fraction": 0.5}, {"kind": "fed_dyn", "fraction": 0.5, "weighted": False}]
    content = scenario(strategies=strategies, execution={"ray": False, "checkpoint_every": 1})
    whole = simulate(content, out=tmp_path / "whole")
    interrupt_after(monkeypatch, 2, lambda: simulate(content, out=tmp_path / "cut"), lambda: resume(tmp_path / "cut"))
    sums: list[tuple[float, float]] = []

    def held(server: Server) -> None:
        p = server.strategy.client_weights(server.problem.samples)
        own = server._client_state()
        mine, theirs = (own["c"], server.state.broadcast["c"]) if "c" in own else (own["lam"], server.state.private["h"])
        sums.append((float(np.abs(p @ mine / p.sum() - theirs.numpy()).max()), float(theirs.abs().max())))

    plain = Server.run_round
    monkeypatch.setattr(Server, "run_round", lambda self, *rest, **more: (plain(self, *rest, **more), held(self))[0])
    cut = resume(tmp_path / "cut")
    assert _hashes(cut) == _hashes(whole)
    assert len(sums) >= 1
    assert all(error < 1e-5 * max(size, 0.01) for error, size in sums)
    assert "client_id" not in cut.tensors("scaffold")


def test_the_global_model_is_tested_beside_personal_ones(tmp_path: Path) -> None:
    strategies = [{"kind": "ditto"}, {"kind": "fed_avg"}, {"kind": "local_only"}]
    results = simulate(scenario(strategies=strategies, evaluation={"every": 1}), out=tmp_path / "run")
    clients = results.frame("clients")
    ditto, fed_avg = (clients[clients["strategy"] == name].reset_index() for name in ("ditto", "fed_avg"))
    assert ditto["test_loss_global"].equals(fed_avg["test_loss"])
    assert ditto["test_accuracy_global"].equals(fed_avg["test_accuracy"])
    assert not ditto["test_loss"].equals(ditto["test_loss_global"])
    assert clients[clients["strategy"] != "ditto"]["test_loss_global"].isna().all()
    assert len(results.tensors("ditto")["client_id"]) == 12  # personal models are what is saved


# -- what goes down --------------------------------------------------------------------------------------------------------


def test_what_the_server_keeps_to_itself_does_not_go_down() -> None:
    held = federation(shards(np.random.default_rng(4).standard_normal((12, 6)), np.arange(12) % 3, [5, 7]))
    made = server(Reptile(), held, torch.nn.Linear(6, 3), Local(epochs=1, batch_size=4))
    made.run_round()
    assert set(made.state.private) == {"move", "outer"}
    sent = made.broadcast_model()
    assert isinstance(sent, ServerState)
    assert (set(sent.broadcast), dict(sent.private)) == ({"x"}, {})


def test_the_state_that_is_tested_is_not_put_again_for_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    held = federation(shards(np.random.default_rng(5).standard_normal((12, 6)), np.arange(12) % 3, [5, 7]))
    made = server(FedAvg(), held, torch.nn.Linear(6, 3), Local(epochs=1, batch_size=4))
    puts: list[Any] = []
    monkeypatch.setattr(made.clients, "put", lambda value: puts.append(value) or value)
    for _ in range(4):
        made.run_round()
    assert len(puts) == 4  # of the model after each round; the first was put when the strategy was set


# -- what must not happen beside insights ----------------------------------------------------------------------------------


class Spoiling(FedAvg):
    """No client's update is finite."""

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        value, weight = super().client_update(task, broadcast, client).sums["x"]  # type: ignore[misc]
        return ClientResult({"x": (value * float("nan"), weight)})


def test_a_diverged_round_with_insights_keeps_the_model() -> None:
    made = server_of(Spoiling(insights=True))
    before = made.state.broadcast["x"]
    result = made.run_round()
    assert result.diverged
    assert len(result.rejected) == 7
    assert torch.equal(made.state.broadcast["x"], before)


def test_the_insight_of_pooled_rows_is_about_pooled_validation_rows(tmp_path: Path) -> None:
    content = scenario(strategies=[{"kind": "pooled", "insights": True}], rounds=1)
    content["data"] = {**content["data"], "validation_fraction": 0.2}
    results = simulate(content, out=tmp_path / "run")
    plan = prepare(parse(content), tmp_path)
    rows = plan.federation.validation
    scores = plan.problems["pooled"].module(torch.from_numpy(rows.x))
    expected = float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(rows.y)).detach())
    np.testing.assert_allclose(results.frame("insights")["loss_before"], [expected], rtol=1e-5)


@pytest.mark.parametrize("changed", [2, 3])
def test_data_that_change_before_a_prepared_strategy_starts_stay_changed(changed: int) -> None:
    first = federation(shards(np.random.default_rng(6).standard_normal((40, 6)), np.arange(40) % 3, [8, 12, 9, 11]))
    later = federation(shards(np.random.default_rng(7).standard_normal((40, 6)), np.arange(40) % 3, [8, 12, 9, 11]))
    strategy = Prototypes(representation=Trunk(rounds=2))
    made = server(FedAvg(), replace(first, later=later, drift_round=changed), torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    ), Local(epochs=1, batch_size=4, lr=0.1))  # fmt: skip
    made.meta = LocalFleet([MetaLearner()])
    made.set_strategy(strategy, strategy.problem(made.problem), drift=changed)
    for round in (1, 2, 3):
        made.run_ordered_round(round, np.arange(4), True)
        (client,) = made.clients.workers  # type: ignore[attr-defined]
        assert np.array_equal(client.federation.train.x, (later if round >= changed else first).train.x)


# -- what a user's own strategy gets wrong ---------------------------------------------------------------------------------


class Unfinished(Strategy):
    """A strategy without methods."""


class Careless(FedAvg):
    """FedAvg, one of whose methods returns something else."""

    where: str = ""

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> Any:
        return {"x": problem.row} if self.where == "init_server" else super().init_server(problem)

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> Any:
        update = super().server_update(context, state, aggregate)
        return update.state if self.where == "server_update" else update

    def eval_models(self, broadcast: State, client: State) -> Any:
        return {"model": broadcast["x"][None]} if self.where == "eval_models" else super().eval_models(broadcast, client)


@pytest.mark.parametrize(("strategy", "why"), [
    (Unfinished(name="mine"), "mine does not define init_server"),
    (Careless(name="mine", where="init_server"), "mine: init_server returned dict, not a ServerState"),
    (Careless(name="mine", where="server_update"), "mine: server_update returned ServerState, not a ServerUpdate"),
    (Careless(name="mine", where="eval_models"), "mine: eval_models returned model; allowed: a dict of global, personal, both or neither"),
])  # fmt: skip
def test_a_method_that_is_missing_or_returns_something_else_is_named(strategy: Strategy, why: str) -> None:
    with pytest.raises((NotImplementedError, TypeError, WorkerError), match=why):
        server_of(strategy).run_round()
