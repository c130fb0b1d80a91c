"""A strategy's answer to scarcity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Late = Literal["drop", "partial", "stale"]


@dataclass(frozen=True)
class Answer:
    """How synchronous rounds meet scarcity.

    over_selection: clients selected for each that is needed. deadline: seconds of a round, None without. late: what becomes of clients
    that would come later. minimum: share of the clients needed without whom a round is void. stalest: rounds after which a late update
    counts no more.
    """

    over_selection: float = 1.0
    deadline: float | None = None
    late: Late = "drop"
    minimum: float = 0.0
    stalest: int = 0
