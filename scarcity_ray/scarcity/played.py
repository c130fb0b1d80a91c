"""What a round asks of clients, and what became of it on the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.core.selection import Select
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.draws import Floats, Ids

ATTEMPTS = 1000
"""Times that a round which lasts until somebody is heard is tried."""
SUMMED = ("available", "selected", "late", "dropped", "wasted_bytes")
"""The columns that count over attempts at a round."""


@dataclass(frozen=True)
class Asked:
    """What a round asks of clients, values `[clients]`. flops: of so many local steps `(ids [n], steps [n]) -> [n]`. down, up: bytes.
    memory: bytes that its work needs. message: what they send, by name, where rounds collect it. select: narrows a round to the clients
    selected, with their steps; None: its schedule draws them."""

    flops: Callable[[Ids, Ids], Floats]
    down: Ids
    up: Ids
    memory: float = 0.0
    message: str = ""
    select: Select | None = None


@dataclass(frozen=True)
class Played:
    """A planned round. plan: what clients are to do. columns: of the rounds table, without energy. over: nothing can follow it: nobody is
    left, or the run's time is up. attempts: at the round, of which this is the last."""

    plan: RoundPlan
    columns: dict[str, Any]
    over: bool = False
    attempts: int = 1

    def again(self, answer: Answer) -> bool:
        """Whether another attempt at the round follows, as nobody was heard in this one."""
        return answer.until_heard and not self.over and bool(self.plan.lost.all())

    def after(self, before: Played) -> Played:
        """The same as the last attempt at a round. before: those until now. After ATTEMPTS in vain it is over."""
        sums = {name: self.columns[name] + before.columns[name] for name in SUMMED}
        attempts = before.attempts + 1
        over = self.over or (attempts >= ATTEMPTS and bool(self.plan.lost.all()))
        return replace(self, columns={**self.columns, **sums}, over=over, attempts=attempts)
