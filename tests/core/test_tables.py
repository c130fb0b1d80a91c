import numpy as np
import pyarrow as pa
import pytest

from scarcity_ray.core import tables

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


@pytest.mark.parametrize("schema", [tables.ROUNDS, tables.CLIENTS])
def test_every_column_is_documented(schema):
    for field in schema:
        assert field.metadata[b"description"]
        assert b"unit" in field.metadata


def test_wall_clock_columns_are_known_by_their_names():
    assert [name for name in tables.ROUNDS.names + tables.CLIENTS.names if tables.wall_clock(name)] == ["seconds"]
    assert tables.wall_clock("train_seconds")
    assert tables.wall_clock("client_updates_per_second")
    assert tables.wall_clock("started_at")
    assert not tables.wall_clock("format")


def test_what_is_left_out_and_what_is_no_number_is_null():
    row = tables.batch(tables.ROUNDS, ROUND | {"test_loss": float("nan")}).to_pylist()[0]
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
    found = tables.batch(tables.CLIENTS, columns)
    assert found.schema.equals(tables.CLIENTS)
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
        tables.batch(tables.ROUNDS, ROUND | change)


def test_the_insight_table_starts_with_strategy_and_seed():
    assert tables.insights(pa.schema([("client_id", pa.int32())])).names == ["strategy", "seed", "client_id"]
