"""Insights: what travels is what is counted, and nothing malformed passes the validate_insights."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.insights import SCHEMA, make, merge, pack, schema, unpack, validate_insights, wire, wire_bytes
from scarcity_ray.training.local import Local
from scarcity_ray.training.measures import scalar_columns, uncertainty
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

NAMES = [
    "run", "round", "client_id", "expert_id", "num_samples", "steps", "lr", "epochs", "mean_grad", "std_grad", "uncertainty",
    "loss_before", "loss_after", "loss_improvement", "train_seconds",
]  # fmt: skip


def columns(k: int = 5, seed: int = 0) -> dict[str, Any]:
    """The numbers of k clients, by falling id."""
    rng = np.random.default_rng(seed)
    names = ("mean_grad", "std_grad", "uncertainty", "loss_before", "loss_after")
    values: dict[str, Any] = {name: rng.random(k) for name in names}
    steps = rng.integers(1, 20, k)
    return {**values, "client_id": np.arange(k)[::-1], "expert_id": 0, "num_samples": 8, "steps": steps, "lr": 0.3, "epochs": steps / 2,
            "train_seconds": 0.01}  # fmt: skip


def row(**changes: Any) -> dict[str, Any]:
    """A good insight of client 0 in round 1, with changes."""
    return {**make("noniid", 1, columns(1)).to_pylist()[0], **changes}


def test_the_schema_has_the_fields_in_order_each_documented() -> None:
    assert SCHEMA.names == NAMES
    assert not any(field.nullable for field in SCHEMA)
    assert all(field.metadata[b"description"] and b"unit" in field.metadata for field in SCHEMA)
    assert schema().equals(SCHEMA)
    assert schema({"moments": 3}).field("moments").type.list_size == 3


def test_an_insight_takes_52_bytes_and_4_for_each_number_of_its_payload() -> None:
    # 13 numbers of 4 bytes: 15 fields without the run (both ends know it) and the improvement (a difference of two others).
    assert len(pack(row())) == wire_bytes() == 52
    assert len(pack(row(gradient=np.ones(256), counts=[1, 2]), {"gradient": 256, "counts": 2})) == 52 + 4 * 258
    assert wire_bytes({"gradient": 256, "counts": 2}) == 52 + 4 * 258


def test_the_packed_record_is_little_endian_in_the_schemas_order() -> None:
    message = pack(row(round=1, client_id=258, expert_id=2, num_samples=3, steps=4, lr=0.5))
    assert message[:20] == b"\1\0\0\0" + b"\2\1\0\0" + b"\2\0\0\0" + b"\3\0\0\0" + b"\4\0\0\0"
    assert message[20:24] == np.float32(0.5).astype("<f4").tobytes()
    assert wire().names == tuple(name for name in NAMES if name not in ("run", "loss_improvement"))


@settings(max_examples=50, deadline=None)
@given(
    ints=st.lists(st.integers(0, 2**31 - 1), min_size=5, max_size=5),
    floats=st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8),
    payload=st.lists(st.floats(-1e10, 1e10, width=32), max_size=5),
)
def test_what_is_unpacked_is_what_was_packed(ints: list[int], floats: list[float], payload: list[float]) -> None:
    sizes = {"moments": len(payload)} if payload else {}
    travels = dict(zip((n for n in NAMES if n not in ("run", "loss_improvement")), ints + floats, strict=True))
    travels |= dict.fromkeys(sizes, payload)
    message = pack(travels, sizes)
    assert len(message) == 52 + 4 * len(payload)
    back = unpack(message, "r", sizes)
    assert list(back) == schema(sizes).names
    assert {name: back[name] for name in travels} == travels
    assert back["run"] == "r"
    assert back["loss_improvement"] == float(np.float32(travels["loss_before"]) - np.float32(travels["loss_after"]))


def test_a_batch_holds_what_the_wire_carries() -> None:
    batch = make("noniid", 3, columns(), {"moments": np.random.default_rng(1).standard_normal((5, 4))})
    for insight in batch.to_pylist():
        assert unpack(pack(insight, {"moments": 4}), "noniid", {"moments": 4}) == insight


@pytest.mark.parametrize("length", [0, 51, 53, 104])
def test_a_message_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"52 bytes long, but this message is {length} bytes"):
        unpack(bytes(length))


def test_a_batch_is_sorted_and_merging_does_not_depend_on_the_order_of_batches() -> None:
    numbers, heavy = columns(9), np.arange(18).reshape(9, 2)
    whole = make("noniid", 1, numbers, {"moments": heavy})
    assert whole["client_id"].to_pylist() == list(range(9))
    assert whole["moments"].to_pylist()[0] == [16, 17]  # the last row was client 0's
    parts = [make("noniid", 1, {n: v[i::3] if np.ndim(v) else v for n, v in numbers.items()}, {"moments": heavy[i::3]}) for i in range(3)]
    assert merge(parts).equals(whole)
    assert merge(parts[::-1]).equals(whole)
    assert len(merge([])) == 0
    assert merge([]).schema.equals(schema())


def test_good_rows_pass_as_a_batch_and_by_hand() -> None:
    batch = make("noniid", 1, columns(), {"moments": np.ones((5, 2))})
    rules: dict[str, Any] = {"payload": {"moments": 2}, "run": "noniid", "round": 1, "clients": range(5)}
    assert validate_insights(batch, **rules)[0].equals(batch)
    assert validate_insights(batch, **rules)[1] == []
    accepted, rejections = validate_insights(batch.to_pylist()[::-1], **rules)
    assert accepted.equals(batch)
    assert rejections == []


class Hostile(dict[str, Any]):
    """A mapping that raises when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no")


FLOATS = ("lr", "epochs", "mean_grad", "std_grad", "uncertainty", "loss_before", "loss_after", "loss_improvement", "train_seconds")
INTS = ("round", "client_id", "expert_id", "num_samples", "steps")
MALFORMED: list[Any] = [
    None, 3, 2.5, "insight", b"insight", [], [1, 2], (), set(), object(), {}, np.ones(15), float("nan"), Hostile(row()),
    *({k: v for k, v in row().items() if k != name} for name in NAMES),
    *(row(**{name: bad}) for name in FLOATS for bad in (math.nan, math.inf, -math.inf, 1e31, 10**400, None, "0.5", True, [0.5], 1j, {})),
    *(row(**{name: bad}) for name in INTS for bad in (-1, 2**31, 10**30, 1.0, math.nan, None, "1", True, [1], np.array(1))),
    *(row(**{name: bad}) for name in ("lr", "epochs", "mean_grad", "std_grad", "loss_before", "train_seconds") for bad in (-1e-3, -5)),
    row(run=None), row(run=7), row(run="other"), row(run="\ud800"), row(run="x" * 10**6), row(run=b"noniid"),
    row(num_samples=0), row(uncertainty=1.001), row(loss_improvement=5.0), row(round=2), row(client_id=1), row(client_id=7),
    row(secret=[1.0, 2.0]), row(moments=[1.0]), {**row(), 5: 1}, {1: 2},
]  # fmt: skip


def test_there_are_many_malformed_variants() -> None:
    assert len(MALFORMED) > 200


@pytest.mark.parametrize("bad", MALFORMED, ids=lambda bad: type(bad).__name__)
def test_a_malformed_insight_is_counted_and_the_good_ones_stay(bad: Any) -> None:
    good = row(client_id=3)
    accepted, rejections = validate_insights([bad, good], run="noniid", round=1, clients=[0, 3])
    assert accepted["client_id"].to_pylist() == [3]
    assert len(rejections) == 1
    client, reason = rejections[0]
    assert client is None or isinstance(client, int)
    assert reason


@pytest.mark.parametrize("bad", [
    [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [], 5.0, None, "abc", [1.0, math.nan, 2.0], [1.0, math.inf, 2.0], [1e31, 0, 0], ["1", "2", "3"],
    [True, False, True], [[1.0, 2.0, 3.0]], [1.0, None, 2.0], [1, 2, 10**40], {"a": 1, "b": 2, "c": 3}, np.ones((3, 1)),
    np.ones(3, dtype=complex),
])  # fmt: skip
def test_a_malformed_payload_is_refused(bad: Any) -> None:
    accepted, rejections = validate_insights([row(moments=bad), row(client_id=1, moments=[1, 2.5, np.float32(3)])], payload={"moments": 3})
    assert accepted["moments"].to_pylist() == [[1, 2.5, 3]]
    assert [client for client, _ in rejections] == [0]


@pytest.mark.parametrize("insights", [None, 5, "abc", {}, row(), [], iter([]), b""])
def test_what_is_no_list_of_insights_does_not_raise(insights: Any) -> None:
    assert len(validate_insights(insights)[0]) == 0


def test_numbers_of_other_libraries_are_numbers() -> None:
    odd = row(
        client_id=np.int64(4), num_samples=np.uint8(9), lr=np.float64(0.1), epochs=Fraction(1, 2), mean_grad=3, std_grad=np.float16(1)
    )
    accepted, rejections = validate_insights([odd])
    assert rejections == []
    assert accepted["epochs"].to_pylist() == [0.5]


def test_the_second_good_insight_of_a_client_is_refused_and_a_malformed_one_is_none() -> None:
    first, second = row(mean_grad=1.0), row(mean_grad=2.0)
    accepted, rejections = validate_insights([row(mean_grad=math.nan), first, row(client_id=1), second])
    assert accepted["mean_grad"].to_pylist()[0] == 1.0
    assert accepted["client_id"].to_pylist() == [0, 1]
    assert [client for client, _ in rejections] == [0, 0]
    assert "already" in rejections[1][1]
    batch = merge([make("r", 1, columns(3)), make("r", 1, columns(2))])
    assert validate_insights(batch)[0]["client_id"].to_pylist() == [0, 1, 2]
    assert [client for client, _ in validate_insights(batch)[1]] == [0, 1]


def broken(name: str, values: list[Any], sizes: dict[str, int] | None = None) -> pa.RecordBatch:
    """A batch of the right schema, one column of which holds other values."""
    batch = make("noniid", 1, columns(len(values)), {n: np.ones((len(values), size)) for n, size in (sizes or {}).items()})
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, batch.schema.field(place), pa.array(values, batch.schema.field(place).type))


@pytest.mark.parametrize(("name", "values"), [
    ("mean_grad", [math.nan, 1, math.inf, 2]), ("loss_after", [-math.inf, 0.5, None, 0.5]), ("num_samples", [0, 1, None, 5]),
    ("steps", [-1, 0, -(2**31), 4]), ("run", [None, "noniid", "other", "noniid"]), ("round", [2, 1, None, 1]),
    ("client_id", [-1, 1, 4, 3]), ("uncertainty", [1.5, 0, -0.1, 1]), ("loss_improvement", [9, None, math.nan, -9]),
    ("moments", [[1, math.nan], [0, 0], None, [2, 2]]), ("moments", [[1, None], [0, 0], [3e38, 0], [2, 2]]),
])  # fmt: skip
def test_bad_rows_of_a_batch_are_refused_as_by_hand(name: str, values: list[Any]) -> None:
    batch = broken(name, values, {"moments": 2})
    if name in ("loss_after",):  # the improvement belongs to the losses
        after = np.array([np.nan if v is None else v for v in values], dtype=np.float32)
        place = batch.schema.get_field_index("loss_improvement")
        batch = batch.set_column(place, batch.schema.field(place), pa.array(batch["loss_before"].to_numpy() - after))
    rules: dict[str, Any] = {"payload": {"moments": 2}, "run": "noniid", "round": 1, "clients": range(4)}
    accepted, rejections = validate_insights(batch, **rules)
    by_hand, others = validate_insights(batch.to_pylist(), **rules)
    assert accepted.equals(by_hand)
    assert len(rejections) == len(others)
    expected = [] if name == "loss_improvement" else [1, 3]
    assert accepted["client_id"].to_pylist() == expected


def test_a_batch_of_another_schema_is_judged_row_by_row() -> None:
    batch = make("noniid", 1, columns(3))
    assert len(validate_insights(batch.drop_columns(["steps"]))[0]) == 0
    assert [client for client, _ in validate_insights(batch.drop_columns(["steps"]))[1]] == [0, 1, 2]
    assert len(validate_insights(batch, payload={"moments": 2})[0]) == 0
    assert len(validate_insights(make("noniid", 1, columns(3), {"moments": np.ones((3, 3))}), payload={"moments": 2})[1]) == 3
    assert len(validate_insights(make("noniid", 1, columns(3), {"moments": np.ones((3, 3))}))[1]) == 3
    text = pa.RecordBatch.from_pydict({**batch.to_pydict(), "steps": ["1", "2", "3"]})
    assert len(validate_insights(text)[1]) == 3
    no_text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], dtype=np.int32)), pa.py_buffer(b"\xff"))
    damaged = make("noniid", 1, columns(1)).set_column(0, schema().field("run"), no_text)
    assert validate_insights(damaged)[1] == [(None, "it is NoneType, not a mapping of fields")]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_only_finite_rows_within_their_ranges_pass(data: st.DataObject) -> None:
    k = data.draw(st.integers(0, 6))
    anything = st.floats(width=32) | st.floats(0, 1, width=32)
    numbers: dict[str, Any] = {**columns(k), **{name: np.array(data.draw(st.lists(anything, min_size=k, max_size=k))) for name in FLOATS
               if name != "loss_improvement"}}  # fmt: skip
    batch = make("noniid", 1, numbers)
    accepted, rejections = validate_insights(batch)
    assert len(accepted) + len(rejections) == k
    assert accepted.equals(validate_insights(batch.to_pylist())[0])
    for name in FLOATS:
        values = accepted[name].to_numpy()
        assert np.all(np.isfinite(values))
        assert name == "loss_improvement" or np.all(values >= 0)


# -- the scalar part of a real round -----------------------------------------------------------------------------------


def problem_of(task: str, y: Any, starts: list[int], dims: int = 3, **local: Any) -> tuple[Problem, Shards]:
    rng = np.random.default_rng(0)
    shards = Shards(rng.standard_normal((len(y), dims)).astype(np.float32), y, np.array(starts))
    outputs = 4 if task == "classification" else 1
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(dims, outputs))
    settings_ = Local(**{"lr": 0.1, "batch_size": 2, **local})
    return make_problem(module, local=settings_, task=task, outputs=outputs, shape=(dims,), samples=shards.counts, seed=1), shards  # type: ignore[arg-type]  # a parameter


def test_the_scalar_part_of_a_round() -> None:
    y = np.array([0, 1, 2, 3, 0, 1, 2])
    problem, shards = problem_of("classification", y, [0, 5, 7], epochs=2)
    task = Task(problem, shards, np.array([0]), round=1, norms=True)
    before = problem.row[None]
    after = task.local_sgd(before)
    found = scalar_columns(task, before, after, 0.25)
    assert found["steps"].tolist() == [6]  # ceil(5 / 2) minibatches, twice
    assert found["epochs"].tolist() == [2.0]
    assert found["num_samples"].tolist() == [5]
    assert found["loss_before"] == task.loss(before)
    assert found["loss_after"] == task.loss(after)
    assert 0 < found["uncertainty"][0] < 1
    assert found["mean_grad"][0] > 0
    assert validate_insights(make("r", 1, found))[1] == []


def test_without_training_there_are_no_steps_and_without_a_model_the_initial_one_counts() -> None:
    problem, shards = problem_of("classification", np.array([0, 1, 2]), [0, 3])
    task = Task(problem, shards, np.array([0]), round=1, norms=True)
    found = scalar_columns(task, None, None, 0.0)
    assert [found[name].tolist() for name in ("steps", "epochs", "mean_grad", "std_grad")] == [[0], [0.0], [0.0], [0.0]]
    assert found["loss_before"] == found["loss_after"] == task.loss(problem.row[None])
    assert validate_insights(make("r", 1, found))[1] == []


def test_losses_are_over_validation_rows_where_there_are_some() -> None:
    problem, shards = problem_of("classification", np.array([0, 1, 2, 3]), [0, 2, 4])
    held = Shards(shards.x[:1], np.array([3]), np.array([0, 0, 1]))  # client 1 has one, client 0 none
    task = Task(problem, shards, np.array([0, 1]), round=1, norms=True)
    theta = problem.row[None]
    found = scalar_columns(task, theta, theta, 0.0, held)
    own = task.loss(theta)
    scores = problem.module(torch.from_numpy(held.x)).detach()
    assert found["loss_after"][0] == own[0]
    assert found["loss_after"][1] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, torch.tensor([3]))), rel=1e-6)


def test_a_diverged_client_has_no_insight() -> None:
    problem, shards = problem_of("classification", np.array([0, 1, 2, 3]), [0, 2, 4])
    task = Task(problem, shards, np.array([0, 1]), round=1, norms=True)
    after = task.local_sgd(problem.row[None])
    after[1] = math.nan
    accepted, rejections = validate_insights(make("r", 1, scalar_columns(task, problem.row[None], after, 0.0)))
    assert accepted["client_id"].to_pylist() == [0]
    assert [client for client, _ in rejections] == [1]


def test_uncertainty_of_a_classifier_is_its_entropy_as_a_share() -> None:
    problem, shards = problem_of("classification", np.array([0, 1, 2]), [0, 3])
    task = Task(problem, shards, np.array([0]), round=1)
    nothing = torch.zeros_like(problem.row)[None]
    assert uncertainty(task, nothing, task.loss(nothing)) == pytest.approx([1.0])  # uniform over 4 classes
    probabilities = torch.softmax(problem.module(torch.from_numpy(shards.x)), 1).detach().numpy().astype(float)
    by_hand = -(probabilities * np.log(probabilities)).sum(1).mean() / np.log(4)
    assert uncertainty(task, problem.row[None], task.loss(problem.row[None])) == pytest.approx([by_hand], rel=1e-5)


def test_uncertainty_of_a_regression_is_noise_over_noise_and_signal() -> None:
    y = np.array([[1.0], [3.0], [5.0], [2.0]], dtype=np.float32)
    problem, shards = problem_of("regression", y, [0, 3, 4])
    task = Task(problem, shards, np.array([0]), round=1)
    # Labels 1, 3, 5: variance 8/3. A mean squared residual of 8/3 says as much as their mean; 0 says all; 24 = 9 x 8/3.
    for loss, expected in ((8 / 3, 0.5), (0.0, 0.0), (24.0, 0.9)):
        assert uncertainty(task, problem.row[None], np.array([loss])) == pytest.approx([expected])
    alone = Task(problem, shards, np.array([1]), round=1)
    assert uncertainty(alone, problem.row[None], np.array([2.0])).tolist() == [1.0]  # one row: no signal to explain
