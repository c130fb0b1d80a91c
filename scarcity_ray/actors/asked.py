"""What a round asks of each client, known before it begins: bytes, operations and memory."""

from __future__ import annotations

import numpy as np

from scarcity_ray.actors.report import Ids
from scarcity_ray.actors.validation import rows_of
from scarcity_ray.core.exchange import ServerState, packed_bytes
from scarcity_ray.core.selection import Select
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.scarcity.played import Asked
from scarcity_ray.training.problem import Problem


def upload_bytes(strategy: Strategy, problem: Problem, state: ServerState) -> int:
    """Bytes of one client's uploads in a round, without what transforms save."""
    uploads = strategy.uploads(problem, state)
    return sum(packed_bytes(value, problem.layout) for value in uploads.values()) + 4 * len(rows_of(uploads, state))


def asked_of(strategy: Strategy, problem: Problem, state: ServerState, round: int, due: Ids, select: Select | None = None) -> Asked:
    """What a round asks of each client. due: bytes that go down to each, `[clients]`. select: as Asked says."""
    up = upload_bytes(strategy, problem, state) + strategy.said_bytes(problem, round)
    up_bytes, down_bytes = strategy.traffic(problem, np.full(len(due), up), due)
    return Asked(
        lambda ids, steps: strategy.flops(problem, state, round, ids, steps),
        down_bytes,
        up_bytes,
        float(strategy.memory(problem)),
        ", ".join(strategy.payload(problem, round)),
        select,
    )
