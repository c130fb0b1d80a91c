"""What follows a failure, decided without any actor."""

from __future__ import annotations

import pytest

from scarcity_ray.runtime.failure_policy import MAX_ATTEMPTS, Decision, Failure, FailurePolicy
from scarcity_ray.runtime.fleet import ActorLost, OutOfMemory, WorkerError

LOST = ActorLost("Client", "local_train", "an actor died")


def decisions(recorded: list[int], policy: FailurePolicy | None = None) -> str:
    """The decisions after losses of an actor, by the last recorded round at each: + for RETRY, . for RAISE."""
    policy, failure, found = policy or FailurePolicy(), None, ""
    for round in recorded:
        failure = Failure.after(failure, LOST, round)
        found += "+" if policy.decide(failure) is Decision.RETRY else "."
    return found


def test_a_loss_is_retried_until_the_fifth_in_a_row() -> None:
    assert MAX_ATTEMPTS == 5
    assert decisions([0] * 5) == "++++."
    assert decisions([7, 7], FailurePolicy(max_attempts=2)) == "+."


def test_the_count_begins_again_once_something_was_recorded() -> None:
    assert decisions([3, 3, 3, 3, 4, 4, 4, 4, 5]) == "+++++++++"
    assert decisions([3, 3, 3, 3, 4, 4, 4, 4, 4]) == "++++++++."


@pytest.mark.parametrize("error", [WorkerError("Client", "local_train", "client 3: KeyError: 'x'"), OSError("no space"), ValueError("no")])
def test_an_error_that_would_come_again_ends_the_run(error: Exception) -> None:
    assert FailurePolicy().decide(Failure.after(None, error, 0)) is Decision.RAISE


def test_a_machine_without_memory_may_have_some_later() -> None:
    assert FailurePolicy().decide(Failure.after(None, OutOfMemory("Client", "local_train", "memory ran out"), 0)) is Decision.RETRY
