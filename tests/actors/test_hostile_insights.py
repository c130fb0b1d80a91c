"""Clients that lie about their insights: none enters the history, each is counted, and the others lose nothing by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.lies import CLIENTS, NUMBERS, Lie, objects, server_of
from torch import Tensor

from scarcity_ray.actors.report import Report
from scarcity_ray.core import insights
from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.training.task import Task


class Telling(Strategy):
    """Clients send three numbers each; the server learns who was heard."""

    kind: Literal["telling"] = "telling"
    lies: Mapping[int, Any] = {}

    server_half: ClassVar[Literal["meta_learner"]] = "meta_learner"

    def init_client(self, problem: Any) -> State:
        return {"row": problem.row}

    def init_server(self, problem: Any, prepared: ServerState | None = None) -> ServerState:
        return ServerState(new_bytes=0)

    def planned_steps(self, problem: Any, state: ServerState) -> Any:
        return np.ones(CLIENTS, dtype=np.int64)

    def payload(self, problem: Any, round: int) -> Mapping[str, int]:
        return {"moments": 3}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        payload: Any = {"moments": torch.from_numpy(task.ids).float()[:, None].expand(-1, 3).clone()}
        for place, liar in enumerate(task.ids.tolist()):
            if liar in self.lies and isinstance(payload, dict):
                payload = self.lies[liar](payload, place)
        return ClientResult(state={"row": task.local_sgd(client["row"])}, payload=payload)

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        assert aggregate.history is not None
        heard = aggregate.history.query(rounds=context.round, columns=["client_id"])["client_id"].to_pylist()
        return ServerUpdate(state, learned={"heard": heard})

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": client["row"]}


def one(value: float, column: int) -> Lie:
    def lie(payload: dict[str, Any], place: int) -> Any:
        payload["moments"][place, column] = value
        return payload

    return lie


PAYLOADS: list[Lie] = [
    *(one(value, column) for value in NUMBERS for column in range(3)),
    *(lambda payload, place, change=change: {"moments": change(payload["moments"])} for change in (
        lambda value: value[:, :2], lambda value: torch.cat([value, value], 1), lambda value: value[:, :0], lambda value: value[0],
        lambda value: value[:0], lambda value: torch.cat([value, value]), lambda value: value[..., None], lambda value: value.sum(),
        lambda value: value.long(), lambda value: value.bool(), lambda value: value.to(torch.complex64), Tensor.numpy, Tensor.tolist,
        objects, lambda value: None, lambda value: "x" * 10**6, lambda value: {"moments": value}, lambda value: value.double() * 1e300,
        lambda value: value * math.nan,
    )),
    lambda payload, place: {}, lambda payload, place: {"gradient": payload["moments"]}, lambda payload, place: None,
    lambda payload, place: {**payload, "gradient": payload["moments"]}, lambda payload, place: [payload], lambda payload, place: "moments",
    lambda payload, place: {"moments": payload["moments"], 7: None}, lambda payload, place: {"x" * 10**5: payload["moments"]},
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(PAYLOADS)))
@pytest.mark.parametrize("liar", [1, 6])
def test_a_payload_that_is_none_enters_no_history(place: int, liar: int) -> None:
    server, honest = server_of(Telling(lies={liar: PAYLOADS[place]}), CLIENTS), server_of(Telling(), CLIENTS)
    result, expected = server.run_insight_round(), honest.run_insight_round()
    assert [client for client, _ in result.rejected] == [liar]
    assert result.row["rejected"] == 1
    others = [client for client in range(CLIENTS) if client != liar]
    assert result.learned["heard"] == others
    assert _same(result.insights, expected.insights.take(pa.array(others)))


def _same(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    return all(one[name].equals(other[name]) for name in one.schema.names if name != "train_seconds")


def test_a_payload_of_another_form_costs_its_company_nothing() -> None:
    result = server_of(Telling(lies={5: lambda payload, place: {"moments": None}}), 1).run_insight_round()
    assert [client for client, _ in result.rejected] == [5]
    assert result.learned["heard"] == [0, 1, 2, 3, 4, 6]


class Tampering(LocalFleet):
    """Actors, one a client, of which that of client 2 sends something else than its insight, as a record batch or by hand."""

    how: Any = None
    before: Any = None

    def wait(self, ticket: Any) -> dict[int, Any]:
        answers = super().wait(ticket)
        if isinstance(answers.get(2), Report) and self.how is not None:
            answers[2].insights, self.before = self.how(answers[2].insights, self.before), answers[2].insights
        return answers


def field(name: str, value: Any) -> Callable[[pa.RecordBatch, Any], Any]:
    """By hand, with one field of client 2 altered."""
    return lambda batch, _: [{**row, name: value} for row in batch.to_pylist()]


def column(name: str, values: Any, kind: Any = None) -> Callable[[pa.RecordBatch, Any], Any]:
    """A batch with one column replaced."""

    def tamper(batch: pa.RecordBatch, _: Any) -> Any:
        place = batch.schema.get_field_index(name)
        array = pa.array([values] * len(batch), kind or batch.schema.field(name).type)
        return batch.set_column(place, pa.field(name, array.type, nullable=kind is not None), array)

    return tamper


def without(name: str) -> Callable[[pa.RecordBatch, Any], Any]:
    return lambda batch, _: batch.drop_columns([name])


NAMES = [name for name in insights.SCHEMA.names if name not in ("run", "train_seconds")]
TAMPERED: list[Any] = [
    *(field("client_id", value) for value in (0, 1, 3, 6, 7, -1, 2**31 - 1, 2**31, 2**63, -(2**63), None, "2", 2.0, [2], {"id": 2})),
    *(field("round", value) for value in (0, -1, 3, 2**40, None, math.nan)),
    *(field("num_samples", value) for value in (-1, 0, -(2**31), 1e38)),
    *(field("moments", value) for value in ([1.0], [1.0] * 4, [[1.0] * 3], None, {}, "abc", [None] * 3, objects(torch.ones(3, 3)))),
    *(field("run", value) for value in ("other", "x" * 10**6, None, 7, "\ud800", "")),
    *(field(f"extra{place}", value) for place, value in enumerate((None, "x" * 10**6, {"a": {"b": [None]}}, 1.0))),
    *(column("client_id", value) for value in (0, 1, 3, 6, 7, -1, None)),
    *(column(name, None) for name in NAMES),
    *(column(name, "x", pa.string()) for name in NAMES),
    *(column(name, [1.0], pa.list_(pa.float64())) for name in NAMES),
    *(without(name) for name in [*NAMES, "moments", "run", "train_seconds"]),
    *(column("mean_grad", value, pa.float64()) for value in (*NUMBERS[:3], 1e38, -1.0)),
    column("run", "x" * 10**6), column("run", "other"), column("moments", [1.0] * 4, pa.list_(pa.float32(), 4)),
    lambda batch, _: [None] * len(batch), lambda batch, _: [object()], lambda batch, _: "x" * 100, lambda batch, _: 7,
    lambda batch, _: pa.RecordBatch.from_arrays([*batch.columns, batch["steps"]], names=[*batch.schema.names, "steps"]),
]  # fmt: skip
"""What replaces the insight of client 2; the round is 2, and every one is rejected at least once."""


def test_there_are_many_lies() -> None:
    assert 2 * len(PAYLOADS) + len(TAMPERED) >= 150


def tampered(how: Any) -> tuple[Any, Any]:
    """Two rounds, honest until the second: its result, and that of a server nobody lied to."""
    server, honest = server_of(Telling(), CLIENTS, Tampering), server_of(Telling(), CLIENTS)
    assert isinstance(server.clients, Tampering)
    server.clients.how = lambda batch, _: batch
    for one_server in (server, honest):
        assert one_server.run_insight_round().rejected == []
    server.clients.how = how
    return server.run_insight_round(), honest.run_insight_round()


OTHERS = [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("place", range(len(TAMPERED)))
def test_a_tampered_insight_enters_no_history(place: int) -> None:
    result, expected = tampered(TAMPERED[place])
    assert result.row["rejected"] == len(result.rejected) >= 1
    assert result.learned["heard"] == OTHERS
    assert _same(result.insights, expected.insights.take(pa.array(OTHERS)))


def test_a_replayed_insight_is_refused_and_a_doubled_one_enters_once() -> None:
    result, expected = tampered(lambda batch, before: before)
    assert result.rejected == [(2, "it does not belong to round 2")]
    assert result.learned["heard"] == OTHERS
    result, expected = tampered(lambda batch, before: [*batch.to_pylist(), *batch.to_pylist(), *before.to_pylist()])
    assert sorted(why for _, why in result.rejected) == ["it does not belong to round 2", "its client already has an insight in this round"]
    assert _same(result.insights, expected.insights)


def test_a_client_that_speaks_for_another_takes_nothing_from_it() -> None:
    """The insight under client 3's id is refused; client 3's own enters, and counts in the loss."""
    result, expected = tampered(lambda batch, _: [*batch.to_pylist(), {**batch.to_pylist()[0], "client_id": 3}])
    assert result.rejected == [(3, "its client is unknown to this receiver")]
    assert _same(result.insights, expected.insights)
    assert result.row["train_loss"] == expected.row["train_loss"]


def test_each_of_several_nameless_insights_counts() -> None:
    result, _ = tampered(lambda batch, _: [None, object(), {}, "insight", {**batch.to_pylist()[0], "client_id": "2"}])
    assert [client for client, _ in result.rejected] == [None] * 5
    assert result.row["rejected"] == 5


@pytest.mark.parametrize("nothing", [lambda batch, _: batch.slice(0, 0), lambda batch, _: [], lambda batch, _: None])
def test_who_sends_nothing_is_not_heard(nothing: Any) -> None:
    result, _ = tampered(nothing)
    assert result.learned["heard"] == OTHERS


def test_a_batch_of_any_names_and_a_list_that_cannot_be_read() -> None:
    rules: dict[str, Any] = {"payload": {"moments": 3}, "round": 1, "clients": range(CLIENTS)}
    batch = server_of(Telling()).run_insight_round().insights
    place = batch.schema.get_field_index("run")
    for name in ("x" * 10**6, "\u00e9"):
        renamed = batch.set_column(place, batch.schema.field(place), pa.array([name] * len(batch)))
        assert len(insights.validate_insights(renamed, **rules)[0]) == 0  # where no run is asked for, it must still be a name

    def broken() -> Any:
        yield batch.to_pylist()[0]
        raise RuntimeError("no more")

    assert [client for client, _ in insights.validate_insights(broken(), **rules)[1]] == [None]
