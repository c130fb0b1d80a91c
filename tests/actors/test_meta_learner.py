"""MetaLearner: a history that can be asked, statistics as by hand, and a round that goes on whatever comes in."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from scarcity_ray.actors import meta_learner as module
from scarcity_ray.actors.meta_learner import MetaLearner, describe
from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate
from scarcity_ray.core.history import History
from scarcity_ray.core.insights import SCHEMA, make
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


def batch_of(round: int, ids: Any = range(5), run: str = "noniid", **payload: Any) -> pa.RecordBatch:
    """Insights whose numbers depend on the client and the round alone."""
    ids = np.asarray(ids)
    values = {name: (np.sin(ids * 7 + round + place) + 1) / 2 for place, name in enumerate(("uncertainty", "mean_grad", "std_grad"))}
    numbers = {**values, "client_id": ids, "expert_id": 0, "num_samples": ids + 1, "steps": 3, "lr": 0.1, "epochs": 1.0,
               "loss_before": 2 + values["mean_grad"], "loss_after": values["std_grad"], "train_seconds": 0.5}  # fmt: skip
    return make(run, round, numbers, payload)


class Store:
    """An object store that counts what is put and read."""

    def __init__(self) -> None:
        self.held: list[bytes] = []
        self.reads: list[int] = []

    def put(self, value: Any) -> int:
        self.held.append(pickle.dumps(value, protocol=5))
        return len(self.held) - 1

    def get(self, reference: int) -> Any:
        self.reads.append(reference)
        return pickle.loads(self.held[reference])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def history(store: Store) -> History:
    """Rounds 1 to 6 of clients 0 to 4; client 4 is absent from round 4 on."""
    history = History(store.put, store.get)
    for round in range(1, 7):
        history.add(round, batch_of(round, range(5 if round < 4 else 4)))
    return history


def test_the_history_counts_insights_and_keeps_one_reference_a_round(history: History, store: Store) -> None:
    assert len(history) == 3 * 5 + 3 * 4
    assert history.rounds == [1, 2, 3, 4, 5, 6]
    assert len(store.held) == 6
    everything = list(history)
    assert len(everything) == 27
    assert [(row["round"], row["client_id"]) for row in everything[:6]] == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]
    assert list(everything[0]) == SCHEMA.names


@pytest.mark.parametrize(("rounds", "expected"), [
    (None, [1, 2, 3, 4, 5, 6]), (3, [3]), (np.int64(3), [3]), ((2, 4), [2, 3, 4]), ((-5, 2), [1, 2]), ((5, 99), [5, 6]), ([6, 2], [2, 6]),
    (range(1, 7, 2), [1, 3, 5]), ({4}, [4]), (9, []), ((8, 9), []), ([], []),
])  # fmt: skip
def test_only_the_rounds_asked_for_are_read(history: History, store: Store, rounds: Any, expected: list[int]) -> None:
    table = history.query(clients=[0, 4], rounds=rounds, columns=["round", "client_id"])
    rows = [(round, client) for round in expected for client in ((0, 4) if round < 4 else (0,))]
    assert list(zip(*table.to_pydict().values(), strict=True)) == rows
    if expected:
        assert store.reads == [round - 1 for round in expected]


def test_columns_come_in_the_order_asked_for(history: History) -> None:
    assert history.query(columns=["steps", "client_id"]).column_names == ["steps", "client_id"]
    assert history.query(clients=2, rounds=1).to_pylist() == [next(row for row in history if row["client_id"] == 2)]
    assert history.query(clients=[77]).num_rows == 0
    with pytest.raises(KeyError, match="nothing"):
        history.query(columns=["nothing"])


def test_the_newest_insight_of_each_client(history: History, store: Store) -> None:
    newest = history.latest("uncertainty", "round")
    assert list(newest) == ["client_id", "uncertainty", "round"]
    assert newest["client_id"].tolist() == [0, 1, 2, 3, 4]
    assert newest["round"].tolist() == [6, 6, 6, 6, 3]
    assert newest["uncertainty"][4] == batch_of(3)["uncertainty"][4].as_py()
    assert store.reads == [5, 4, 3, 2]  # back to round 3, no further


def test_an_empty_history_can_be_asked() -> None:
    history = History()
    assert len(history) == 0
    assert history.query(columns=["steps"]).num_rows == 0
    assert history.latest("steps")["steps"].tolist() == []
    with pytest.raises(KeyError):
        history.query(columns=["nothing"])


def test_a_round_that_is_repeated_is_replaced(history: History) -> None:
    history.add(6, batch_of(6, range(4)))
    assert len(history) == 27
    assert history.rounds == [1, 2, 3, 4, 5, 6]


def test_a_payload_that_only_some_rounds_have() -> None:
    history = History()
    history.add(1, batch_of(1, range(2), moments=np.arange(6).reshape(2, 3)))
    history.add(2, batch_of(2, range(3)))
    assert history.query(columns=["moments"])["moments"].to_pylist() == [[0, 1, 2], [3, 4, 5], None, None, None]
    assert history.latest("moments")["moments"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert history.query(rounds=2).column_names == SCHEMA.names


def test_memory_grows_by_60_bytes_an_insight_the_runs_name_and_little_a_round() -> None:
    """The figures of History's docstring."""
    sizes = {k: len(pickle.dumps(batch_of(1, range(k)), protocol=5)) for k in (0, 1000, 2000)}
    assert sizes[2000] - sizes[1000] == 1000 * (60 + len("noniid"))
    assert sizes[0] < 1500
    with_payload = [len(pickle.dumps(batch_of(1, range(k), moments=np.zeros((k, 10))), protocol=5)) for k in (1000, 2000)]
    assert with_payload[1] - with_payload[0] == pytest.approx(1000 * (60 + len("noniid") + 4 * 10), abs=100)


def test_who_is_high_and_low() -> None:
    # 0, 0, 0, 0, 10: mean 2, variance (4 * 4 + 64) / 5 = 16, std 4: above 6 is high, below -2 is low.
    found = describe(np.array([3, 4, 5, 6, 9]), np.array([0.0, 0, 0, 0, 10]))
    assert found == {"mean": 2.0, "std": 4.0, "quantiles": pytest.approx([0, 0, 6]), "high": [9], "low": []}
    assert describe(np.array([1, 2, 3]), np.ones(3))["high"] == []
    # 0, 5, 5, 10: mean 5, std sqrt(50 / 4) = 3.54.
    found = describe(np.arange(4), np.array([0.0, 5, 5, 10]))
    assert (found["low"], found["high"]) == ([0], [3])
    assert describe(np.zeros(0, dtype=np.int64), np.zeros(0)) == {"mean": None, "std": None, "quantiles": None, "high": [], "low": []}


@pytest.mark.parametrize("column", ["uncertainty", "mean_grad", "loss_improvement"])
def test_a_summary_is_as_numpy_has_it(column: str) -> None:
    batch = batch_of(1, range(40))
    found = MetaLearner().aggregate(batch).summary
    values = batch[column].to_numpy().astype(np.float64)
    assert found[column]["mean"] == pytest.approx(values.sum() / 40, rel=1e-12)
    assert found[column]["std"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).sum() / 40), rel=1e-12)
    assert found[column]["high"] == [i for i in range(40) if values[i] > values.mean() + values.std()]
    assert found[column]["low"] == [i for i in range(40) if values[i] < values.mean() - values.std()]
    assert found[column]["quantiles"] == pytest.approx([float(np.quantile(values, q)) for q in (0.1, 0.5, 0.9)])


def test_the_order_of_rows_does_not_matter() -> None:
    rows = batch_of(1, range(30)).to_pylist()
    assert MetaLearner().aggregate(rows).summary == MetaLearner().aggregate(rows[::-1]).summary


def test_by_hand_five_rounds_of_five_clients_are_25_insights(caplog: pytest.LogCaptureFixture) -> None:
    meta = MetaLearner()
    with caplog.at_level(logging.INFO, "scarcity_ray"):
        for _ in range(5):
            update = meta.aggregate(batch_of(1).to_pylist())  # whatever round they say
    assert len(meta.insight_history) == 25
    assert meta.insight_history.rounds == [1, 2, 3, 4, 5]
    assert meta.insight_history.query(rounds=4)["round"].to_pylist() == [4] * 5
    assert (update.summary["round"], update.summary["insights"], update.summary["rejected"]) == (5, 5, 0)
    assert update.state == ServerState()
    assert not update.done
    assert len(caplog.records) == 5  # one line a round
    assert caplog.records[0].name == "scarcity_ray.actors.meta_learner.MetaLearner"


def test_malformed_insights_are_counted_and_logged_with_the_client(caplog: pytest.LogCaptureFixture) -> None:
    rows = batch_of(1).to_pylist()
    rows[1]["uncertainty"] = float("nan")
    rows[3]["steps"] = "many"
    with caplog.at_level(logging.INFO, "scarcity_ray"):
        update = MetaLearner().aggregate([*rows, None, dict(rows[0])])
    assert update.summary["insights"] == 3
    assert update.summary["rejected"] == 4
    assert sorted(str(client) for client, _ in update.summary["rejections"]) == ["0", "1", "3", "None"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 4
    assert any("client 3 is rejected: steps is str, not a number" in line for line in warnings)
    assert len(caplog.records) == 5


@pytest.mark.parametrize("insights", [[], [None], "nothing", None, 7])
def test_a_round_without_a_single_good_insight_goes_on(insights: Any) -> None:
    meta = MetaLearner()
    update = meta.aggregate(insights)
    assert update.summary["insights"] == 0
    assert update.summary["uncertainty"]["mean"] is None
    assert len(meta.insight_history) == 0
    assert meta.aggregate(batch_of(2)).summary["round"] == 2


def test_insights_of_another_round_run_or_client_are_refused() -> None:
    meta = MetaLearner(problem=problem(), run="noniid")
    assert meta.aggregate(batch_of(2), round=3).summary["rejected"] == 5
    assert meta.aggregate(batch_of(3, run="other"), round=3).summary["rejected"] == 5
    assert meta.aggregate(batch_of(3, range(7)), round=3).summary["rejected"] == 2  # the problem has 5 clients
    assert len(meta.insight_history) == 5


class Asking(Strategy):
    """Keeps one number of each insight, and says what it read."""

    kind: Literal["asking"] = "asking"
    server_half: ClassVar[Literal["meta_learner"]] = "meta_learner"

    def payload(self, problem: Problem, round: int) -> Mapping[str, int]:
        return {"gradient": 2} if round == 1 else {}

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        return ServerState(new_bytes=0)

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        assert aggregate.history is not None
        read = aggregate.history.query(columns=["round"]).num_rows
        steps = torch.full((context.problem.population,), context.round)
        summary = {"read": read, "seen": aggregate.history.rounds}
        return ServerUpdate(ServerState(each={"steps": steps}, new_bytes=0), summary=summary, done=context.round == 2)


def problem() -> Problem:
    module = torch.nn.Sequential(torch.nn.Linear(2, 1))
    return make_problem(module, local=Local(), task="regression", outputs=1, shape=(2,), samples=np.full(5, 3), seed=0)


def test_a_strategy_learns_from_the_history(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = MetaLearner(Asking(), problem(), "noniid", store.put, store.get)
    first, kept, rejections = meta.learn(batch_of(1, gradient=np.ones((5, 2))), 1)
    assert first.summary["read"] == 5
    assert first.summary["insights"] == 5  # beside the strategy's own
    assert first.state.each["steps"].tolist() == [1] * 5
    assert kept.schema.names == [*SCHEMA.names, "gradient"]
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    assert meta.learn(batch_of(1, gradient=np.ones((5, 2))), 1)[1].schema.names == SCHEMA.names  # too large to be written down
    assert rejections == []
    second = meta.aggregate(batch_of(2, range(4)), 2)
    assert second.summary["seen"] == [1, 2]
    assert second.done
    assert meta.aggregate(batch_of(3, gradient=np.ones((5, 2))), 3).summary["rejected"] == 5  # no payload is expected in round 3
    meta.set_strategy(Asking(), problem(), "noniid")
    assert len(meta.insight_history) == 0


def test_a_strategy_needs_a_problem() -> None:
    with pytest.raises(ValueError, match="give the MetaLearner both"):
        MetaLearner(Asking())
