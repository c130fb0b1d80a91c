"""Uplink transforms: sign compression with error feedback, a rotation, noise of the server's; against loops in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.insight_rounds import classes, mlp
from helpers.interrupted import interrupt_after
from helpers.lies import federation, problem
from helpers.played import play, server
from helpers.scenarios import scenario
from helpers.user_transforms import Rotation, ServerNoise, Sign, Spoiled

from scarcity_ray import Client, Server, resume, simulate, verify
from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import LocalFleet, WorkerError
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.strategies import FedAvg, Ifca
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

SIGN = {"kind": "import", "path": "helpers.user_transforms:Sign"}
CLIENTS = 7


def made(strategy: Strategy, actors: int = 2) -> Server:
    clients = [Client(block) for block in np.array_split(np.arange(CLIENTS), actors)]
    for client in clients:
        client.load_federation(federation())
    server = Server(CLIENTS, LocalFleet(clients))
    server.load_federation()
    server.set_strategy(strategy, problem())
    return server


def test_sign_compression_with_error_feedback_is_the_loop_of_the_paper() -> None:
    server, rows = made(FedAvg(uplink=[Sign()])), problem().samples
    mask = problem().layout.mask("weight", "bias").numpy()
    x, errors = problem().row.double().numpy(), np.zeros((CLIENTS, 4))
    for round in range(1, 6):
        sent = np.zeros((CLIENTS, 4))
        for i in range(CLIENTS):
            start = torch.from_numpy(x).float()
            y = Task(problem(), federation().train, np.array([i]), round).local_sgd(start[None])[0]
            wanted = (y - start).double().numpy()[mask] + errors[i]
            sent[i] = np.abs(wanted).mean() * np.where(wanted < 0, -1, 1)
            errors[i] = wanted - sent[i]
        x[mask] += rows @ sent / rows.sum()
        row = server.run_round().row
        np.testing.assert_allclose(server.state.broadcast["x"].numpy(), x, rtol=1e-4, atol=1e-6)
        assert row["uplink_bytes"] == CLIENTS * (1 + 4)  # four signs, and a size
        assert row["downlink_bytes"] == CLIENTS * 16
    np.testing.assert_allclose(server._client_state()["uplink.0.x.error"], errors, rtol=1e-3, atol=1e-6)


def test_what_signs_leave_out_is_sent_later() -> None:
    """Without training the errors are used up: the sum of all that was sent tends to the first delta."""
    memory, total, delta = {"error": torch.zeros(1, 5)}, torch.zeros(5), torch.tensor([[1.0, -2.0, 0.3, 4.0, -0.1]])
    for round in range(400):
        sent, memory, _ = Sign().encode(delta if round == 0 else 0 * delta, memory, [])
        total += sent[0]
    torch.testing.assert_close(total, delta[0], rtol=0, atol=0.02)


def test_no_transform_changes_no_bit_and_one_that_is_undone_hardly_any() -> None:
    plain, rotated = made(FedAvg()), made(FedAvg(uplink=[Rotation()]))
    for _ in range(3):
        rows = plain.run_round().row, rotated.run_round().row
    torch.testing.assert_close(rotated.state.broadcast["x"], plain.state.broadcast["x"], rtol=1e-5, atol=1e-6)
    assert rows[0]["uplink_bytes"] == rows[1]["uplink_bytes"] == CLIENTS * 16  # None: the bytes of what came in


def test_transforms_work_in_order() -> None:
    both = made(FedAvg(uplink=[Rotation(), Sign()]))
    both.run_round()
    found = both._client_state()
    assert list(found) == ["uplink.1.x.error"]
    assert found["uplink.1.x.error"].shape == (CLIENTS, 5)


def test_a_transform_meets_the_update_of_each_expert() -> None:
    plain, rotated = made(Ifca(experts=2)), made(Ifca(experts=2, uplink=[Rotation()]))
    for _ in range(3):
        plain.run_round()
        row = rotated.run_round().row
    torch.testing.assert_close(rotated.state.broadcast["experts"], plain.state.broadcast["experts"], rtol=1e-5, atol=1e-6)
    assert row["uplink_bytes"] == CLIENTS * (16 + 4)  # the number of its expert is not transformed


def test_noise_of_the_server_alone_is_added_once_to_the_mean() -> None:
    plain, noisy = made(FedAvg()), made(FedAvg(uplink=[ServerNoise(size=1.0)]))
    plain.run_round()
    noisy.run_round()
    move = (noisy.state.broadcast["x"] - plain.state.broadcast["x"])[problem().layout.mask("weight", "bias")]
    again = made(FedAvg(uplink=[ServerNoise(size=1.0)]))
    again.run_round()
    assert 0.2 < move.norm() < 5
    assert torch.equal(again.state.broadcast["x"], noisy.state.broadcast["x"])
    assert not (noisy.state.broadcast["x"] - plain.state.broadcast["x"])[~problem().layout.mask("weight", "bias")].any()  # no padding


@pytest.mark.parametrize("strategy", [FedAvg(uplink=[Sign()]), FedAvg(uplink=[Spoiled()]), FedAvg(uplink=[Sign(), ServerNoise()])])
def test_any_grouping_of_the_clients_gives_the_same_bits(strategy: Strategy) -> None:
    servers = [made(strategy, actors) for actors in (1, 3, 7)]
    for _ in range(3):
        results = [server.run_round() for server in servers]
        assert results[0].rejected == results[1].rejected == results[2].rejected
    for other in servers[1:]:
        assert torch.equal(other.state.broadcast["x"], servers[0].state.broadcast["x"])
        for name, value in servers[0]._client_state().items():
            assert np.array_equal(other._client_state()[name], value)


def test_an_encoded_update_that_is_not_finite_is_rejected_and_the_others_count() -> None:
    server = made(FedAvg(uplink=[Spoiled()]))
    result = server.run_round()
    assert {why for _, why in result.rejected} == {"x, encoded, is not finite, or beyond 1e+30"}
    assert 0 < len(result.rejected) < CLIENTS
    assert torch.isfinite(server.state.broadcast["x"]).all()


def test_a_run_with_a_transform_of_the_users_own_resumes_and_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = scenario(strategies=[{"kind": "fed_avg", "uplink": [SIGN]}], execution={"ray": False, "checkpoint_every": 1})
    assert parse(parse(content).model_dump(mode="json")) == parse(content)
    whole = simulate(content, out=tmp_path / "whole").summary["strategies"]["fed_avg"]["result_hash"]

    interrupt_after(monkeypatch, 2, lambda: simulate(content, out=tmp_path / "cut"))
    assert resume(tmp_path / "cut", imports=True).summary["strategies"]["fed_avg"]["result_hash"] == whole
    assert verify(tmp_path / "cut", imports=True).difference is None


def test_error_feedback_learns_where_it_is_given_time() -> None:
    local = Local(epochs=2, batch_size=4, lr=0.1)
    losses = {}
    for name, strategy in (("plain", FedAvg()), ("signs", FedAvg(uplink=[Sign()]))):
        losses[name] = [result.row["test_loss"] for result in play(server(strategy, classes(), mlp(), local), 60)]
    assert losses["signs"][-1] < 0.5 * losses["signs"][0]
    assert losses["signs"][-1] < losses["plain"][-1] + 0.15


def test_a_transform_where_clients_send_no_updates_is_refused() -> None:
    from scarcity_ray.runtime.plan import prepare

    read = parse(scenario(strategies=[{"kind": "insight_exchange", "uplink": [SIGN]}]))
    with pytest.raises(SpecError, match="send insights and no updates, so there is nothing to transform") as refused:
        prepare(read, Path())
    assert refused.value.field == ("strategies", 0, "uplink")


def test_a_transform_that_is_none_is_named() -> None:
    with pytest.raises(ScenarioError, match="that is no uplink transform: give a class that derives from"):
        parse(scenario(strategies=[{"kind": "fed_avg", "uplink": [{"kind": "import", "path": "helpers.user_strategies:FedProx"}]}]))


@pytest.mark.parametrize(("spoils", "why"), [
    (lambda sent, memory, size: (sent[:, :2], memory, size), r"encode returned float32 \[\d, 2\], not \[\d, 4\] as encoded_size says"),
    (lambda sent, memory, size: (sent.numpy(), memory, size), r"encode returned ndarray, not \[\d, 4\]"),
    (lambda sent, memory, size: (sent, {"error": memory["error"][:, :1]}, size), r"returned float32 \[\d, 1\] as its memory error"),
    (lambda sent, memory, size: (sent, {"eror": memory["error"]}, size), "a memory of eror, and init_memory has error"),
    (lambda sent, memory, size: (sent, memory, 1.5), "bytes that are no whole number"),
    (lambda sent, memory, size: (sent, memory, -1), "bytes that are no whole number"),
    (lambda sent, memory, size: (sent, memory, np.zeros(99, dtype=np.int64)), "bytes that are no whole number"),
])  # fmt: skip
def test_a_transform_that_returns_something_else_than_it_says_is_named(spoils: Any, why: str) -> None:
    class Wrong(Sign):
        def encode(self, *args: Any) -> Any:
            return spoils(*super().encode(*args))

    with pytest.raises(WorkerError, match=f"uplink transform Wrong: .*{why}"):
        made(FedAvg(uplink=[Wrong()])).run_round()


def test_a_transform_that_decodes_to_another_shape_is_named() -> None:
    class Wrong(Sign):
        def on_sum(self, mean: torch.Tensor, size: int, rng: Any) -> torch.Tensor:
            return mean[:, :2]

    with pytest.raises(ValueError, match=r"uplink transform Wrong: on_sum returned float64 \[1, 2\], not \[1, 4\]"):
        made(FedAvg(uplink=[Wrong()])).run_round()


def test_a_memory_that_is_not_finite_is_not_kept() -> None:
    class Lossy(Sign):
        def encode(self, delta: torch.Tensor, memory: Any, rng: Any) -> Any:
            sent, memory, size = super().encode(delta, memory, rng)
            return sent, {"error": memory["error"] / (len(rng) * 0)}, size

    server = made(FedAvg(uplink=[Lossy()]))
    assert server.run_round().rejected == [(i, "its state uplink.0.x.error is not finite, or beyond 1e+30") for i in range(CLIENTS)]
    assert not server._client_state()["uplink.0.x.error"].any()


def test_transforms_see_several_models_of_an_upload_without_padding() -> None:
    class Twice(FedAvg):
        def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
            return ServerState({"x": problem.row, "two": problem.row.repeat(2, 1)})

        def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
            value, weight = super().client_update(task, broadcast, client).sums["x"]  # type: ignore[misc]
            return ClientResult({"x": (value, weight), "two": (torch.stack([value, value], 1), weight)})

        def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
            return ServerUpdate(ServerState(aggregate.mean))

    noisy = made(Twice(uplink=[ServerNoise(size=1.0)]))
    row = noisy.run_round().row
    assert row["uplink_bytes"] == row["downlink_bytes"] == CLIENTS * 3 * 16
    assert not noisy.state.broadcast["two"][:, ~problem().layout.mask("weight", "bias")].any()


def test_the_sum_of_an_aggregate_fits_its_mean_where_each_number_has_a_weight() -> None:
    class Each(FedAvg):
        def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
            value, weight = super().client_update(task, broadcast, client).sums["x"]  # type: ignore[misc]
            return ClientResult({"x": (value, weight.expand(-1, value.shape[1]).clone())})

        def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
            mask = problem().layout.mask("weight", "bias")
            whole = float(problem().samples.sum())
            torch.testing.assert_close(aggregate.sum["x"][mask], aggregate.mean["x"].double()[mask] * whole)
            torch.testing.assert_close(aggregate.weight["x"][0, mask], torch.full((4,), whole, dtype=torch.float64))
            return super().server_update(context, state, aggregate)

    for uplink in ([], [Sign()]):
        assert made(Each(uplink=uplink)).run_round().rejected == []


def test_a_transform_where_nothing_is_sent_is_refused() -> None:
    from scarcity_ray.runtime.plan import prepare

    read = parse(scenario(strategies=[{"kind": "local_only", "uplink": [SIGN]}]))
    with pytest.raises(SpecError, match="clients of local_only send no updates, so there is nothing to transform"):
        prepare(read, Path())
    in_meta = {"kind": "import", "path": "helpers.user_strategies:InMetaLearner"}
    prepare(parse(scenario(strategies=[{**in_meta, "uplink": [SIGN]}])), Path())  # its clients send both
