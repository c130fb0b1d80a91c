"""A small scenario to begin with."""

from __future__ import annotations

from typing import Any


def scenario(**changes: Any) -> dict[str, Any]:
    """Twelve clients of digits, three quick rounds, in this process; `changes` replace whole sections."""
    return {
        "name": "small",
        "seed": 3,
        "rounds": 3,
        "data": {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "quantity_skew", "sigma": 1.2}},
        "model": {"kind": "mlp", "hidden": [12]},
        "local": {"epochs": 1, "batch_size": 8, "lr": 0.2},
        "strategies": [{"kind": "fed_avg", "fraction": 0.5}],
        "execution": {"ray": False},
    } | changes
