"""The world of a run in words, and what a round costs in it, before anything starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from scarcity_ray.scarcity.draws import Floats, Ids
from scarcity_ray.scarcity.played import Asked
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.world import World


def world_in_words(spec: Scarcity, world: World) -> str:
    """What is scarce, with the range of each value over clients."""
    parts = [] if spec.samples is None else [f"at most {spec.samples.maximum:,} training rows"]
    if spec.compute is not None:
        parts.append(f"devices of {_range(world.flops / 1e9)} GFLOP/s")
        if spec.compute.memory is not None:
            parts.append(f"{_range(world.memory / 2**20)} MiB")
    if spec.network is not None:
        parts.append(f"links of {_range(world.downlink * 8e-6)} Mbit/s down, {_range(world.uplink * 8e-6)} up")
    if spec.availability.kind != "always":
        parts.append(f"presence: {spec.availability.kind}")
    if spec.dropout is not None:
        parts.append(f"{spec.dropout.before:.0%} lost before and {spec.dropout.after:.0%} after the work")
    if spec.energy is not None and spec.energy.battery is not None:
        parts.append(f"batteries of {_range(world.battery)} J")
    for name, limit in world.budgets.items():
        if np.isfinite(limit).any():
            parts.append(f"{name.replace('_', ' ')}: at most {_range(limit)}")
    if spec.deadline is not None:
        parts.append(f"over after {spec.deadline:g} s")
    return "; ".join(parts) or "nothing"


def turn_in_words(world: World, asked: Asked, steps: Ids) -> str:
    """How long a client's turn takes, and how many clients can never pay for one. asked: by a round, of so many local steps `[clients]`."""
    ids = np.arange(world.clients)
    turn = world.turn(1, ids, asked.flops(ids, steps), asked.down, asked.up)
    joules = turn.work_joules + turn.per_byte * (asked.down + asked.up)
    seconds = turn.total / 1e6
    costs: dict[str, Any] = {
        "uplink_bytes": asked.up,
        "downlink_bytes": asked.down,
        "joules": joules,
        "seconds": seconds,
        "rounds": 1,
    }
    able = (world.memory >= asked.memory) & (world.battery >= joules)
    for name, limit in world.budgets.items():
        able &= limit >= costs[name]
    words = f"a turn takes {np.median(seconds):.3g} s in the median, {np.quantile(seconds, 0.9):.3g} s or more for the slowest tenth"
    if world.power.any() or world.per_byte.any():
        words += f", and {np.median(joules):.3g} J"
    lacking = int((~able).sum())
    return f"{words}; {lacking:,} of {world.clients:,} clients cannot pay for one" if lacking else words


def _range(values: Floats) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
