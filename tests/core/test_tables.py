import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scarcity_ray.core import tables
from scarcity_ray.core.insights import PAYLOADS, SCHEMA

ROUND = {
    "strategy": "fed_avg",
    "seed": 7,
    "round": 1,
    "clients": 10,
    "rejected": 0,
    "train_loss": 0.5,
    "uplink_bytes": 40,
    "downlink_bytes": 40,
    "seconds": 0.1,
}


FIRST_ROUNDS = [
    *("strategy", "seed", "round", "clients", "rejected", "train_loss"),
    *("test_loss", "test_accuracy", "test_accuracy_worst_decile", "test_loss_worst_decile"),
    *("uplink_bytes", "downlink_bytes", "seconds"),
]
FIRST_CLIENTS = [
    *("strategy", "seed", "round", "client_id", "group", "num_train", "num_test", "test_loss", "test_accuracy"),
    *("uplink_bytes", "downlink_bytes", "expert_id", "confidence", "contribution", "contribution_whole"),
]
"""The columns of version 1.0: a result hash covers them, with their nulls, and they keep their places."""


@pytest.mark.parametrize("schema", [tables.rounds(), tables.clients()])
def test_every_column_is_documented(schema):
    for field in schema:
        assert field.metadata[b"description"]
        assert b"unit" in field.metadata


@pytest.mark.parametrize(("schema", "first"), [(tables.rounds(), FIRST_ROUNDS), (tables.clients(), FIRST_CLIENTS)])
def test_later_columns_come_last_and_change_no_older_hash(schema, first):
    assert schema.names[: len(first)] == first
    assert [field.name for field in schema if tables.hashed_as(field) == "yes"] == [name for name in first if name != "seconds"]
    assert all(tables.is_optional(field) == (field.name not in first) for field in schema)


def test_wall_clock_is_declared():
    every = [*tables.rounds(), *tables.clients(), *SCHEMA, *PAYLOADS]
    assert [field.name for field in every if tables.is_wall_clock(field)] == ["seconds", "train_seconds"]
    assert {tables.hashed_as(field) for field in every if tables.is_wall_clock(field)} == {"no"}
    simulated = tables.column("clock_seconds", pa.float64(), "seconds", "a simulated clock", nullable=True, hashed="unless_null")
    assert not tables.is_wall_clock(simulated)
    assert tables.hashed_as(simulated) == "unless_null"
    assert tables.hashed_as(pa.field("bare", pa.int64())) == "yes"


def test_what_a_column_declares_survives_a_file(tmp_path):
    pq.write_table(tables.rounds().empty_table(), tmp_path / "rounds.parquet")
    found = pq.read_schema(tmp_path / "rounds.parquet")
    assert [field.metadata for field in found] == [field.metadata for field in tables.rounds()]
    assert tables.version_of(found) == tables.SCHEMA_VERSION
    assert tables.version_of(found.remove_metadata()) == (1, 0)


@pytest.mark.parametrize("version", [b"", b"2", b"two.0", b"1.0.0", b"1." + b"9" * 50])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(ValueError, match="schema_version"):
        tables.version_of(pa.schema([], metadata={"schema_version": version}))


def test_stored_rows_conform_to_a_schema_of_another_version():
    wanted = pa.schema([tables.column("a", pa.int64(), "", "a"), tables.column("late", pa.float64(), "", "b", nullable=True, hashed="no")])
    found = tables.conform(pa.record_batch({"unknown": ["x", "y"], "a": pa.array([1, 2], pa.int64())}), wanted)
    assert found.schema.equals(wanted, check_metadata=True)
    assert found.to_pylist() == [{"a": 1, "late": None}, {"a": 2, "late": None}]


def test_what_is_left_out_and_what_is_no_number_is_null():
    row = tables.batch(tables.rounds(), ROUND | {"test_loss": float("nan")}).to_pylist()[0]
    assert row["test_loss"] is None
    assert row["test_accuracy"] is None
    assert row["train_loss"] == 0.5


def test_scalars_hold_for_all_rows():
    columns = {
        "strategy": "a",
        "seed": np.int64(7),
        "round": 2,
        "client_id": np.arange(3),
        "group": 0,
        "num_train": 8,
        "num_test": [1, 0, 1],
    }
    columns |= {"test_loss": np.array([0.5, np.nan, 0.25], np.float32), "uplink_bytes": 0, "downlink_bytes": np.zeros(3, np.int32)}
    found = tables.batch(tables.clients(), columns)
    assert found.schema.equals(tables.clients())
    assert found["test_loss"].to_pylist() == [0.5, None, 0.25]
    assert found["strategy"].to_pylist() == ["a"] * 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"host": "x"}, "host"),
        ({"round": None}, "round"),
        ({"clients": "ten"}, "clients"),
        ({"clients": [1, 2], "rejected": [0, 0, 0]}, "lengths"),
        ({"clients": np.array([1.5])}, "clients"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        tables.batch(tables.rounds(), ROUND | change)


def test_the_insight_table_starts_with_strategy_and_seed():
    assert tables.insights(pa.schema([("client_id", pa.int32())])).names == ["strategy", "seed", "client_id"]
