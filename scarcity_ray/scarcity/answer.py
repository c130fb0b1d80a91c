"""A strategy's answer to scarcity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Late = Literal["drop", "partial", "stale"]


@dataclass(frozen=True)
class Answer:
    """How synchronous rounds meet scarcity.

    over_selection: clients selected for each that is needed. interval: seconds from the start of a round to that of the next, at least.
    deadline: seconds of a round, None without. late: what becomes of clients
    that would come later. minimum: share of the clients needed without whom a round is void. stalest: rounds after which a late update
    counts no more. collects: where each client sends a message once, the share of all clients whose new messages a round waits for, however
    long that takes; None: a round has those that are there when it begins. message: the name of the one that is learned from, "" where all
    are. until_heard: a round lasts until somebody is heard, as each asks
    for something that the next one needs. concurrency: clients that work at the same time, each from the model that was newest when it
    started; a round ends with the updates that it needs; None: a round's clients start together.
    """

    over_selection: float = 1.0
    interval: float = 0.0
    deadline: float | None = None
    late: Late = "drop"
    minimum: float = 0.0
    stalest: int = 0
    collects: float | None = None
    message: str = ""
    until_heard: bool = False
    concurrency: int | None = None
