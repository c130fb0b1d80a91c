"""What differs between two runs of one scenario."""

from __future__ import annotations

from scarcity_ray.core import tables
from scarcity_ray.core.insights import SCHEMA

_MEASURED = {
    "client_updates_per_second",
    *(field.name for field in (*tables.rounds(), *tables.clients(), *SCHEMA) if tables.is_wall_clock(field)),
}


def wall_clock(name: str) -> bool:
    """Whether a column of a table, or an entry of a summary, holds measured time."""
    return name in _MEASURED
