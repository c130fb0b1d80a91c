"""Clients that lie about their updates: none enters a sum, each is counted, and the others lose nothing by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.lies import CLIENTS, INPUTS, NUMBERS, ROWS, Lie, objects, server_of
from helpers.scenarios import scenario
from helpers.user_transforms import CoordinateMedian, Rotation, Sign
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scarcity_ray import Server, simulate
from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, State, Uploads
from scarcity_ray.scenario import parse
from scarcity_ray.strategies import FedAvg, HierFedAvg, Ifca, LocalOnly, Reptile
from scarcity_ray.training.sums import Sums
from scarcity_ray.training.task import Task


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


LIES: list[Lie] = [
    *(number(value, column=column) for value in NUMBERS for column in range(INPUTS + 1)),
    *(number(value, part=1) for value in (*NUMBERS, -1.0, -1e-20, 10.0, 1e6, 3.4e38)),
    *(form(change) for change in (
        lambda value, *rest: (value[:, :-1], *rest),
        lambda value, *rest: (torch.cat([value, value], 1), *rest),
        lambda value, *rest: (value.clone().requires_grad_(), *rest),
        lambda value, *rest: (value.to_sparse(), *rest),
        lambda value, *rest: (value.to("meta"), *rest),
        lambda value, weight: (value, weight.clone().requires_grad_()),
        lambda value, weight: (value, weight.to_sparse()),
        lambda value, weight: (value, weight, torch.zeros(len(value), dtype=torch.int64)),
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

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        return ClientResult(told(uploads, task, self.lies), kept)


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
    totals = {name: float(strategy.weight_limit(name, np.array(ROWS)).sum()) for name in state.broadcast}
    honest = np.setdiff1d(np.arange(CLIENTS), list(liars))
    reports = [client.local_train(1, state, totals, ids=np.intersect1d(honest, client.ids)) for client in server.clients.workers]
    sums = Sums()
    for report in reports:
        sums += report.sums
    aggregate = Aggregate(sums.means(state.broadcast))
    return dict(strategy.server_update(RoundContext(server.problem, 1), state, aggregate).state.broadcast)


@pytest.mark.parametrize("place", range(len(LIES)))
@pytest.mark.parametrize("liar", [0, 5])
def test_a_lie_is_rejected_and_the_round_is_that_of_the_others(place: int, liar: int) -> None:
    server = server_of(Lying(lies={liar: LIES[place]}))
    expected = of_the_honest(server, [liar])
    result = server.run_round()
    assert [client for client, why in result.rejected if why] == [liar]
    assert result.row["rejected"] == 1
    assert not result.diverged
    assert torch.equal(server.state.broadcast["x"], expected["x"])


def test_there_are_many_lies() -> None:
    assert 2 * len(LIES) >= 150


@settings(max_examples=60)
@given(lies=st.dictionaries(st.integers(0, CLIENTS - 1), st.sampled_from(LIES), max_size=CLIENTS - 1), actors=st.integers(1, CLIENTS))
def test_any_clients_may_lie_in_any_company(lies: dict[int, Lie], actors: int) -> None:
    server = server_of(Lying(lies=lies), actors)
    expected = of_the_honest(server_of(FedAvg(), 1), lies)
    result = server.run_round()
    assert sorted(client for client, _ in result.rejected) == sorted(lies)
    assert torch.equal(server.state.broadcast["x"], expected["x"])


def test_weights_without_rows_are_held_to_one_a_client() -> None:
    server = server_of(Lying(weighted=False, lies={2: number(1.5, part=1)}))
    assert server.run_round().rejected == [(2, "the weight of x is more than its rows are worth")]


class Astray(Ifca):
    """IFCA, a client of which speaks of experts otherwise than it may."""

    to: Any = None

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        value, weight, chosen = uploads["experts"]
        if 3 not in task.ids:
            return result
        return ClientResult({"experts": (value, weight, self.to(chosen, torch.from_numpy(task.ids == 3)))}, kept)


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
    assert torch.equal(server.state.broadcast["experts"], expected["experts"])


@pytest.mark.parametrize("to", [-1, 3, 2**40])
def test_an_update_for_no_expert_is_rejected_before_transforms_read_it(to: int) -> None:
    server = server_of(Astray(experts=3, to=lambda chosen, me: torch.where(me, to, chosen), uplink=[Sign()]))
    before = server._client_state()["uplink.0.experts.error"][3]
    assert server.run_round().rejected == [(3, "experts is for a row that the server does not have")]
    assert np.array_equal(server._client_state()["uplink.0.experts.error"][3], before)


class Strict(Sign):
    """A transform that raises where numbers are not finite, as many decompositions do."""

    def encode(self, delta: Tensor, memory: Mapping[str, Tensor], rng: Any) -> tuple[Any, ...]:
        assert torch.isfinite(delta).all()
        return super().encode(delta, memory, rng)


def test_transforms_do_not_see_the_numbers_of_a_rejected_update() -> None:
    server, other = (server_of(Lying(lies=lies, uplink=[Strict()])) for lies in ({3: number(math.nan)}, {3: number(10.0, part=1)}))
    assert server.run_round().rejected == [(3, "x is not finite, or beyond 1e+30")]
    assert [client for client, _ in other.run_round().rejected] == [3]
    assert torch.equal(server.state.broadcast["x"], other.state.broadcast["x"])


class Singular(FedAvg):
    """A client that sends a weight for each number, where the others send one alone."""

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        value, weight = super().client_update(task, broadcast, client).sums["x"]  # type: ignore[misc]
        if 3 not in task.ids:
            return ClientResult({"x": (value, weight)})
        if task.k > 1:
            return ClientResult(None)  # type: ignore[arg-type]  # so that it is asked alone
        return ClientResult({"x": (value, weight.expand(-1, value.shape[1]).clone())})


@pytest.mark.parametrize("more", [{}, {"aggregation": CoordinateMedian()}, {"uplink": [Sign()]}])
def test_one_who_sends_a_weight_for_each_number_counts_as_one_who_sends_one(more: dict[str, Any]) -> None:
    server, other = server_of(Singular(**more), 1), server_of(FedAvg(**more), 1)
    assert server.run_round().rejected == other.run_round().rejected == []
    torch.testing.assert_close(server.state.broadcast["x"], other.state.broadcast["x"], rtol=1e-6, atol=1e-7)


def test_a_weight_for_each_number_is_rejected_where_other_numbers_are_sent() -> None:
    result = server_of(Singular(uplink=[Rotation()]), 1).run_round()
    assert result.rejected == [(3, "x has a weight for each number, and its uplink sends other numbers")]


class OnTheEdge(HierFedAvg):
    """A client on an edge that sends nothing of use."""

    def client_update(self, task: Task, broadcast: State, client: State) -> Any:
        return None if 3 in task.ids else super().client_update(task, broadcast, client)


def test_a_malformed_update_to_an_edge_takes_no_less_than_no_bytes() -> None:
    server = server_of(OnTheEdge())
    assert server.run_round().row["rejected"] == 1
    assert server.traffic.uplink.tolist() == [17, 17, 17, 1, 17, 17, 17]  # four numbers, and a share of what edges send


class Formless(FedAvg):
    """A client whose result has another form."""

    makes: Any = None

    def client_update(self, task: Task, broadcast: State, client: State) -> Any:
        result = super().client_update(task, broadcast, client)
        return self.makes(result) if 3 in task.ids else result


@pytest.mark.parametrize(("makes", "why"), [
    (lambda result: None, "client_update returned nothing, not a ClientResult"),
    (lambda result: (result.sums, result.state), "client_update returned tuple, not a ClientResult"),
    (lambda result: replace(result, state=None), "its state is nothing, not a mapping of names"),
    (lambda result: replace(result, state=[1]), "its state is list, not a mapping of names"),
    (lambda result: replace(result, models=5), "its models are int, not one before and one after the round's work"),
    (lambda result: replace(result, models=(torch.zeros(2, 2), torch.zeros(3))),
     "one of its models is float32 [2, 2], not a row of 32 parameters for each client"),
    (lambda result: replace(result, payload={"a": torch.zeros(1, 1)}), "its payload is a, not empty"),
])  # fmt: skip
def test_a_result_of_another_form_is_rejected(makes: Any, why: str) -> None:
    server, other = server_of(Formless(makes=makes, insights=True)), server_of(FedAvg(insights=True))
    expected = of_the_honest(other, [3])
    assert server.run_round().rejected == [(3, why)]
    assert torch.equal(server.state.broadcast["x"], expected["x"])


class Meddling(Reptile):
    """A client that names what the server keeps to itself."""

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        extra = {} if 3 not in task.ids else {"move": (broadcast["x"].expand(task.k, -1) * 9, torch.ones(task.k, 1))}
        return ClientResult({**uploads, **extra}, kept)


def test_what_the_server_keeps_to_itself_is_nobodys_to_send() -> None:
    server = server_of(Meddling())
    assert server.run_round().rejected == [(3, "move is float32 [1, 32], and the server has nothing of that name")]


class Forgetful(LocalOnly):
    """A client whose new memory is none."""

    kept: Any = None

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        return ClientResult(uploads, self.kept(kept["v"]) if 4 in task.ids else kept)


@pytest.mark.parametrize("kept", [
    lambda v: {"v": v[:, :-1]}, lambda v: {"v": v.double()}, lambda v: {"v": None}, lambda v: {"v": v.numpy()}, lambda v: {"w": v},
    lambda v: {"v": v, "w": v}, lambda v: {"v": v[:0]},
])  # fmt: skip
def test_a_memory_of_another_form_is_not_kept(kept: Any) -> None:
    server, other = server_of(Forgetful(kept=kept)), server_of(LocalOnly())
    before = server._client_state()["v"][4]
    assert [client for client, _ in server.run_round().rejected] == [4]
    other.run_round()
    found, expected = server._client_state()["v"], other._client_state()["v"]
    assert np.array_equal(found[4], before)
    assert np.array_equal(np.delete(found, 4, 0), np.delete(expected, 4, 0))


# -- whole runs --------------------------------------------------------------------------------------------------------


class Counting(FedAvg):
    """Some clients lie, or (silent) count nothing."""

    liars: tuple[int, ...] = ()
    silent: bool = False

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        result = super().client_update(task, broadcast, client)
        uploads, kept = result.sums, result.state
        value, weight = (part.clone() for part in uploads["x"])
        here = torch.from_numpy(np.isin(task.ids, self.liars))
        if self.silent:
            weight[here] = 0
        else:
            value[here, task.round % 5] = (math.nan, math.inf, 1e38)[task.round % 3]
        return ClientResult({"x": (value, weight)}, kept)


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
    from scarcity_ray.runtime.simulation import RunFailed

    (tmp_path / "treacherous.py").write_text(TREACHEROUS)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"kind": "import", "path": "treacherous:Treacherous"}
    with pytest.raises(RunFailed, match=r"fed_avg diverged: every update .* \(try a smaller lr\)"):
        simulate(scenario(model=model), out=tmp_path / "run")
