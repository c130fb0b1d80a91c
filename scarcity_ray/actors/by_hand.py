"""What an actor made by hand starts with: a lone client's data, and a problem with a linear model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem


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


def problem_by_hand(
    strategy: Strategy, first: Federation, samples: NDArray[np.int64], model: nn.Module | None, local: Local | None, seed: int
) -> Problem:
    """The strategy's problem on clients whose task, shape and outputs are those of the first.

    samples: training rows of each client. model: a linear one if None, its initial weights from the seed. Raises SpecError for settings
    of the strategy that cannot work with it.
    """
    from scarcity_ray.models import Linear, build

    problem = strategy.problem(
        make_problem(
            model or build(Linear(), first.shape, first.outputs, seed),
            local=local or Local(lr=0.01),
            task=first.task,
            outputs=first.outputs,
            shape=first.shape,
            samples=samples,
            seed=seed,
        )
    )
    for error in strategy.refused(problem, first):
        raise error
    return problem
