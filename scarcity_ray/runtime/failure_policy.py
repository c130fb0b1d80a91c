"""What follows a failure of a run: the work is done again, or the run ends. Pure: it starts and stops nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scarcity_ray.runtime.fleet import ActorLost

MAX_ATTEMPTS = 5
"""How many failures in a row, with nothing new recorded between them, end a run."""


class Decision(Enum):
    """As in Ray Train v2. RETRY: bring the actors back and do the work again from the last checkpoint. RAISE: end the run."""

    RETRY = "retry"
    RAISE = "raise"


@dataclass(frozen=True)
class Failure:
    """An error that interrupted some work. recorded: the last round that was recorded before it. attempt: the number of such errors in
    a row since something new was recorded, this one included."""

    error: Exception
    recorded: int
    attempt: int = 1

    @classmethod
    def after(cls, previous: Failure | None, error: Exception, recorded: int) -> Failure:
        """The failure that follows `previous` (None: the first of this work). The count begins again once something new was recorded."""
        repeated = previous is not None and previous.recorded == recorded
        return cls(error, recorded, previous.attempt + 1 if previous and repeated else 1)


@dataclass(frozen=True)
class FailurePolicy:
    """Retries after the loss of an actor, as this costs time and changes no result; every other error would come again."""

    max_attempts: int = MAX_ATTEMPTS

    def decide(self, failure: Failure) -> Decision:
        """What is to follow a failure."""
        lost = isinstance(failure.error, ActorLost)
        return Decision.RETRY if lost and failure.attempt < self.max_attempts else Decision.RAISE
