"""What an actor made by hand starts with: a lone client's data, and a linear model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from scarcity_ray.core.federation import Federation, Shards


def lone_federation(client_id: int, train: tuple[Any, Any] | None, test: tuple[Any, Any] | None) -> Federation:
    """The shard of one client, under its own id.

    train, test: (x `[n, ...]`, y `[n]` integer classes, or `[n]` or `[n, outputs]` float targets). Without any, the
    client's part of a linear regression on shifted inputs. Raises ValueError for arrays that do not fit together.
    """
    if train is None:
        from scarcity_ray.data import Data, deal  # here, because actors of a run need no loaders
        from scarcity_ray.data.shifted_regression import ShiftedRegression

        federation = deal(Data(source=ShiftedRegression(), clients=client_id + 1), 0, Path())
        mine = np.array([client_id])
        return Federation(
            federation.train.only(mine),
            federation.validation.only(mine),
            federation.test.only(mine),
            federation.group,
            federation.task,
            federation.outputs,
            1.0,
            federation.uplink_bytes,
            federation.downlink_bytes,
        )
    x, y = _arrays(train)
    test_x, test_y = (x[:0], y[:0]) if test is None else _arrays(test)
    classes = y.ndim == 1
    outputs = int(max(y.max(initial=0), test_y.max(initial=0))) + 1 if classes else y.shape[1]
    nothing = np.zeros(client_id + 1, dtype=np.int64)

    def shards(x: Any, y: Any) -> Shards:
        return Shards(x, y, np.concatenate([nothing, [len(x)]]))

    task: Literal["classification", "regression"] = "classification" if classes else "regression"
    return Federation(shards(x, y), shards(x[:0], y[:0]), shards(test_x, test_y), nothing, task, outputs, 1.0, nothing, nothing)


def _arrays(data: tuple[Any, Any]) -> tuple[Any, Any]:
    x, y = np.ascontiguousarray(data[0], dtype=np.float32), np.asarray(data[1])
    if len(x) != len(y) or not len(x):
        raise ValueError(f"data has {len(x)} inputs and {len(y)} labels: give as many of both, at least one")
    if np.issubdtype(y.dtype, np.integer):
        return x, np.ascontiguousarray(y, dtype=np.int64)
    y = np.ascontiguousarray(y, dtype=np.float32)
    return x, y[:, None] if y.ndim == 1 else y


def default_model(shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """A linear model, its initial weights from the seed."""
    from scarcity_ray.models import Linear, build

    return build(Linear(), shape, outputs, seed)
