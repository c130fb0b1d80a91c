"""Rows of a run's tables, made up."""

import numpy as np
import pyarrow as pa

from scarcity_ray.core import tables

INSIGHTS = tables.insights(
    pa.schema(
        [pa.field("run", pa.string(), False), pa.field("client_id", pa.int32(), False), pa.field("train_seconds", pa.float32(), False)]
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
