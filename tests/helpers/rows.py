"""Rows of a run's tables, made up."""

import numpy as np
import pyarrow as pa

from scarcity_ray.core import statistics, tables

INSIGHTS = tables.insights(
    pa.schema(
        [
            pa.field("run", pa.string(), False),
            pa.field("client_id", pa.int32(), False),
            tables.column("train_seconds", pa.float32(), "seconds", "wall clock", wall_clock=True),
        ]
    )
)


def a_round(number, strategy="fed_avg", seed=7):
    counts = {"clients": 2, "rejected": 0, "uplink_bytes": 8, "downlink_bytes": 8}
    return {"strategy": strategy, "seed": seed, "round": number, "train_loss": 1 / number, "seconds": 0.1, **counts}


def some_clients(number, strategy="fed_avg", seed=7):
    columns = {
        "client_id": np.arange(2),
        "group": 0,
        "num_train": 8,
        "num_test": 4,
        "test_loss": np.array([0.5, 0.25]),
        "test_accuracy": 0.75,
    }
    return {"strategy": strategy, "seed": seed, "round": number, "uplink_bytes": 8, "downlink_bytes": 8, **columns}


def metrics_of(columns):
    """The metrics' columns of a round's row, from the rows of its clients: each client's value is the mean of its test rows."""
    size = len(columns["client_id"])
    values = {name: np.broadcast_to(np.asarray(columns[name], dtype=float), size) for name in ("num_test", "test_loss", "test_accuracy")}
    rows = values.pop("num_test")
    row = {}
    for name, higher in (("test_loss", False), ("test_accuracy", True)):
        row[name] = statistics.mean(values[name], rows)
        row[f"{name}_worst_decile"] = statistics.worst_decile(values[name], higher, rows)
        row[f"{name}_pooled"] = statistics.pooled(values[name], rows)
    return row
