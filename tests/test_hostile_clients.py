"""Clients that lie: whatever they send, it enters no sum and no history, it is counted, and the others lose nothing by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scarcity_ray import Client, MetaLearner, Server, insights, simulate
from scarcity_ray.actors.client import Report
from scarcity_ray.federation import Federation, Shards
from scarcity_ray.fleet import LocalFleet
from scarcity_ray.scenario import parse
from scarcity_ray.strategies import FedAvg, HierFedAvg, Ifca, LocalOnly
from scarcity_ray.strategies.strategy import Guidance, InsightStrategy, Lesson, State, Strategy, Uploads
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

CLIENTS, INPUTS = 7, 3
ROWS = [4, 9, 5, 6, 4, 8, 7]


@cache
def federation() -> Federation:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((sum(ROWS), INPUTS)).astype(np.float32)
    shards = Shards(x, x[:, :1] - x[:, 1:2], np.concatenate([[0], np.cumsum(ROWS)]))
    nothing = np.zeros(CLIENTS, dtype=np.int64)
    none = Shards(shards.x[:0], shards.y[:0], np.zeros(CLIENTS + 1, dtype=np.int64))
    return Federation(shards, none, shards, np.arange(CLIENTS) % 2, "regression", 1, 1.0, nothing, nothing)


@cache
def problem() -> Problem:
    torch.manual_seed(0)
    return make_problem(torch.nn.Linear(INPUTS, 1), local=Local(lr=0.1, batch_size=4), task="regression", outputs=1, shape=(INPUTS,),
                        samples=np.array(ROWS), groups=np.arange(CLIENTS) % 2, seed=1)  # fmt: skip


def server_of(strategy: Strategy, actors: int = 2, fleet: type[LocalFleet] = LocalFleet) -> Server:
    """A server and so many actors, that share out the seven clients."""
    clients = [Client(block) for block in np.array_split(np.arange(CLIENTS), actors)]
    for client in clients:
        client.open(federation())
    server = Server(CLIENTS, fleet(clients), LocalFleet([MetaLearner()]))
    server.open()
    server.begin(strategy, problem(), "run")
    return server


# -- updates -----------------------------------------------------------------------------------------------------------

Lie = Callable[[dict[str, Any], int], Any]
"""Makes of the uploads of k clients, of which one (its place) is hostile, what is sent."""


def number(value: float, part: int = 0, column: int = 0) -> Lie:
    """One number of a client's value (part 0) or weight (part 1)."""

    def lie(uploads: dict[str, Any], place: int) -> Any:
        for sent in uploads.values():
            sent[part][place, column] = value
        return uploads

    return lie


def form(change: Callable[..., Any]) -> Lie:
    """Other values or weights for the whole message."""
    return lambda uploads, place: {name: change(*sent) for name, sent in uploads.items()}


def objects(value: Tensor) -> Any:
    return np.array(value.tolist(), dtype=object)


NUMBERS = (math.nan, math.inf, -math.inf, 1e38, -1e38, 2e30, -2e30)
LIES: list[Lie] = [
    *(number(value, column=column) for value in NUMBERS for column in range(INPUTS + 1)),
    *(number(value, part=1) for value in (*NUMBERS, -1.0, -1e-20, 10.0, 1e6, 3.4e38)),
    *(form(change) for change in (
        lambda value, *rest: (value[:, :-1], *rest),
        lambda value, *rest: (torch.cat([value, value], 1), *rest),
        lambda value, *rest: (value[0], *rest),
        lambda value, *rest: (value[:, None], *rest),
        lambda value, *rest: (torch.cat([value, value]), *rest),
        lambda value, *rest: (value[:0], *rest),
        lambda value, *rest: (value.sum(), *rest),
        lambda value, *rest: (value.T, *rest),
        *(lambda value, *rest, to=to: (value.to(to), *rest) for to in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64
        )),
        *(lambda value, *rest, make=make: (make(value), *rest) for make in (
            Tensor.numpy, Tensor.tolist, objects, lambda _: None, lambda _: "x" * 10**6, lambda _: b"", lambda _: {"x": {"x": [None]}},
            lambda _: 0.5, lambda _: object(), lambda _: pa.array([1.0]),
        )),
        lambda value, weight, *rest: (value, None, *rest),
        lambda value, weight, *rest: (value, "1", *rest),
        lambda value, weight, *rest: (value, 1.0, *rest),
        lambda value, weight, *rest: (value, weight.numpy(), *rest),
        lambda value, weight, *rest: (value, objects(weight), *rest),
        lambda value, weight, *rest: (value, weight.long(), *rest),
        lambda value, weight, *rest: (value, torch.cat([weight, weight]), *rest),
        lambda value, weight, *rest: (value, weight[:0], *rest),
        lambda value, weight, *rest: (value, weight.expand(-1, 2), *rest),
        lambda value, weight, *rest: (value, weight.sum(), *rest),
        lambda value, *rest: value,
        lambda value, *rest: [value, *rest],
        lambda value, *rest: (value,),
        lambda value, *rest: (),
        lambda value, *rest: (value, *rest, *rest, *rest),
        lambda *sent: None,
        lambda *sent: "x" * 10**6,
    )),
    lambda uploads, place: {"y": uploads["x"]},
    lambda uploads, place: {"x" * 10**5: uploads["x"]},
    lambda uploads, place: {7: uploads["x"]},
    lambda uploads, place: {**uploads, "y": uploads["x"]},
    lambda uploads, place: {**uploads, None: None},
    lambda uploads, place: {"x": uploads},
    lambda uploads, place: [uploads],
    lambda uploads, place: None,
    lambda uploads, place: "uploads",
]  # fmt: skip


class Lying(FedAvg):
    """Federated averaging, some of whose clients send something else."""

    lies: Mapping[int, Any] = {}

    def update(self, task: Task, server: State, mine: State) -> tuple[Any, State]:
        uploads, kept = super().update(task, server, mine)
        return told(uploads, task, self.lies), kept


def told(uploads: Uploads, task: Task, lies: Mapping[int, Lie]) -> Any:
    sent: Any = {name: tuple(part.clone() for part in parts) for name, parts in uploads.items()}
    for place, client in enumerate(task.ids.tolist()):
        if client in lies and isinstance(sent, dict):
            try:
                sent = lies[client](sent, place)
            except Exception:  # another's lie has left nothing to alter here
                return sent
    return sent


def of_the_honest(server: Server, liars: Iterable[int]) -> dict[str, Tensor]:
    """What the server would hold after the round of the others alone, under the weights that they have in the whole."""
    strategy, state = server.strategy, server.state
    total, sent = strategy.total_weight(np.array(ROWS)), {name: value.numpy() for name, value in state.items()}
    honest = np.setdiff1d(np.arange(CLIENTS), list(liars))
    reports = [client.local_train(1, sent, total, np.intersect1d(honest, client.ids)) for client in server.clients.workers]
    return dict(strategy.aggregate(state, _sums(reports).means(state)))


def _sums(reports: list[Report]) -> Any:
    total = type(reports[0].sums)()
    for report in reports:
        total += report.sums
    return total


@pytest.mark.parametrize("place", range(len(LIES)))
@pytest.mark.parametrize("liar", [0, 5])
def test_a_lie_is_rejected_and_the_round_is_that_of_the_others(place: int, liar: int) -> None:
    server = server_of(Lying(lies={liar: LIES[place]}))
    expected = of_the_honest(server, [liar])
    result = server.run_round()
    assert [client for client, why in result.rejected if why] == [liar]
    assert result.row["rejected"] == 1
    assert not result.diverged
    assert torch.equal(server.state["x"], expected["x"])


def test_there_are_hundreds_of_lies() -> None:
    assert 2 * len(LIES) + 2 * len(PAYLOADS) + len(TAMPERED) >= 300


@settings(max_examples=60)
@given(lies=st.dictionaries(st.integers(0, CLIENTS - 1), st.sampled_from(LIES), max_size=CLIENTS - 1), actors=st.integers(1, CLIENTS))
def test_any_clients_may_lie_in_any_company(lies: dict[int, Lie], actors: int) -> None:
    server = server_of(Lying(lies=lies), actors)
    expected = of_the_honest(server_of(FedAvg(), 1), lies)
    result = server.run_round()
    assert sorted(client for client, _ in result.rejected) == sorted(lies)
    assert torch.equal(server.state["x"], expected["x"])


def test_weights_without_rows_are_held_to_one_a_client() -> None:
    server = server_of(Lying(weighted=False, lies={2: number(1.5, part=1)}))
    assert server.run_round().rejected == [(2, "the weight of x is more than its rows are worth")]


class Astray(Ifca):
    """IFCA, a client of which speaks of experts otherwise than it may."""

    to: Any = None

    def update(self, task: Task, server: State, mine: State) -> tuple[Any, State]:
        uploads, kept = super().update(task, server, mine)
        value, weight, chosen = uploads["experts"]
        if 3 not in task.ids:
            return uploads, kept
        return {"experts": (value, weight, self.to(chosen, torch.from_numpy(task.ids == 3)))}, kept


@pytest.mark.parametrize("to", [
    *(lambda chosen, me, value=value: torch.where(me, value, chosen) for value in (-1, 3, 2**40, -(2**62))),
    lambda chosen, me: chosen.float(), lambda chosen, me: chosen[:, None], lambda chosen, me: chosen[:0], lambda chosen, me: None,
    lambda chosen, me: chosen.tolist(), lambda chosen, me: chosen.int(), lambda chosen, me: "0",
])  # fmt: skip
def test_an_update_for_no_expert_is_rejected(to: Any) -> None:
    server = server_of(Astray(experts=3, to=to))
    expected = of_the_honest(server_of(Ifca(experts=3)), [3])
    result = server.run_round()
    assert [client for client, _ in result.rejected] == [3]
    assert torch.equal(server.state["experts"], expected["experts"])


class Meddling(HierFedAvg):
    """A client that names what the server keeps to itself."""

    def update(self, task: Task, server: State, mine: State) -> tuple[Any, State]:
        uploads, kept = super().update(task, server, mine)
        extra = {} if 3 not in task.ids else {"share": (server["share"].float().expand(task.k, -1) * 9, torch.ones(task.k, 1))}
        return {**uploads, **extra}, kept


def test_what_the_server_keeps_to_itself_is_nobodys_to_send() -> None:
    server, other = server_of(Meddling()), server_of(HierFedAvg())
    for _ in range(2):
        server.run_round()
        other.run_round()
    assert torch.equal(server.state["share"], other.state["share"])


class Forgetful(LocalOnly):
    """A client whose new memory is none."""

    kept: Any = None

    def update(self, task: Task, server: State, mine: State) -> tuple[Any, State]:
        uploads, kept = super().update(task, server, mine)
        return uploads, self.kept(kept["v"]) if 4 in task.ids else kept


@pytest.mark.parametrize("kept", [
    lambda v: {"v": v[:, :-1]}, lambda v: {"v": v.double()}, lambda v: {"v": None}, lambda v: {"v": v.numpy()}, lambda v: {"w": v},
    lambda v: {"v": v, "w": v}, lambda v: {"v": v[:0]},
])  # fmt: skip
def test_a_memory_of_another_form_is_not_kept(kept: Any) -> None:
    server, other = server_of(Forgetful(kept=kept)), server_of(LocalOnly())
    before = server._memory()["v"][4]
    assert [client for client, _ in server.run_round().rejected] == [4]
    other.run_round()
    found, expected = server._memory()["v"], other._memory()["v"]
    assert np.array_equal(found[4], before)
    assert np.array_equal(np.delete(found, 4, 0), np.delete(expected, 4, 0))


# -- insights ----------------------------------------------------------------------------------------------------------


class Telling(InsightStrategy):
    """Clients send three numbers each; the lesson is who was heard."""

    kind: Literal["telling"] = "telling"
    lies: Mapping[int, Any] = {}

    def memory(self, problem: Any) -> State:
        return {"row": problem.row}

    def open(self, problem: Any, prepared: State | None = None) -> Guidance:
        return Guidance(each={"steps": np.ones(CLIENTS, dtype=np.int64)})

    def payload(self, problem: Any, round: int) -> Mapping[str, int]:
        return {"moments": 3}

    def act(self, task: Task, guidance: Guidance, mine: State) -> tuple[Mapping[str, Tensor], State]:
        payload: Any = {"moments": torch.from_numpy(task.ids).float()[:, None].expand(-1, 3).clone()}
        for place, client in enumerate(task.ids.tolist()):
            if client in self.lies and isinstance(payload, dict):
                payload = self.lies[client](payload, place)
        return payload, {"row": task.local_sgd(mine["row"])}

    def learn(self, problem: Any, history: Any, round: int) -> Lesson:
        heard = history.query(rounds=round, columns=["client_id"])["client_id"].to_pylist()
        return Lesson({}, self.open(problem), learned={"heard": heard})

    def answer(self, guidance: Guidance, mine: State) -> Tensor:
        return mine["row"]


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
    assert result.rejected == [(2, "it is not of round 2")]
    assert result.learned["heard"] == OTHERS
    result, expected = tampered(lambda batch, before: [*batch.to_pylist(), *batch.to_pylist(), *before.to_pylist()])
    assert sorted(why for _, why in result.rejected) == ["it is not of round 2", "its client has an insight in this round already"]
    assert _same(result.insights, expected.insights)


def test_a_client_that_speaks_for_another_takes_nothing_from_it() -> None:
    """The insight under client 3's id is refused; client 3's own enters, and counts in the loss."""
    result, expected = tampered(lambda batch, _: [*batch.to_pylist(), {**batch.to_pylist()[0], "client_id": 3}])
    assert result.rejected == [(3, "its client is not known here")]
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
        assert len(insights.gate(renamed, **rules)[0]) == 0  # where no run is asked for, it must still be a name

    def broken() -> Any:
        yield batch.to_pylist()[0]
        raise RuntimeError("no more")

    assert [client for client, _ in insights.gate(broken(), **rules)[1]] == [None]


# -- whole runs --------------------------------------------------------------------------------------------------------


class Counting(FedAvg):
    """Some clients lie, or (silent) count nothing."""

    liars: tuple[int, ...] = ()
    silent: bool = False

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        uploads, kept = super().update(task, server, mine)
        value, weight = (part.clone() for part in uploads["x"])
        here = torch.from_numpy(np.isin(task.ids, self.liars))
        if self.silent:
            weight[here] = 0
        else:
            value[here, task.round % 5] = (math.nan, math.inf, 1e38)[task.round % 3]
        return {"x": (value, weight)}, kept


def test_a_run_with_liars_is_the_run_in_which_they_count_nothing(tmp_path: Path) -> None:
    base, results = parse(scenario(evaluation={"every": 1})), []
    for silent in (False, True):
        strategy = Counting(clients_per_round=8, liars=(0, 4, 7), silent=silent)
        results.append(simulate(base.model_copy(update={"strategies": [strategy]}), out=tmp_path / str(silent)))
    lied, silent = results
    for table, apart in (("clients", []), ("rounds", ["train_loss", "rejected", "seconds"])):
        one, other = (found.table(table).drop_columns(apart) for found in results)
        assert one.equals(other)
    first, second = lied.tensors("fed_avg"), silent.tensors("fed_avg")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lied.summary["strategies"]["fed_avg"]["rejected"] == sum(lied.rounds["rejected"].to_pylist()) > 0
    log = (tmp_path / "False/logs/scarcity.log").read_text()
    assert log.count("is rejected: x is not finite") == sum(lied.rounds["rejected"].to_pylist())


TREACHEROUS = """
import torch

class Treacherous(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        scores = self.layer(x)
        return scores / (scores * 0) if torch.is_grad_enabled() else scores
"""


def test_a_module_that_spoils_every_update_ends_its_strategy_and_keeps_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scarcity_ray.simulation import RunFailed

    (tmp_path / "treacherous.py").write_text(TREACHEROUS)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"kind": "import", "path": "treacherous:Treacherous"}
    with pytest.raises(RunFailed, match="fed_avg diverged"):
        simulate(scenario(model=model), out=tmp_path / "run")
