"""What is said of a round in which nothing could be used."""

from __future__ import annotations

import pytest

from scarcity_ray.actors.validation import cause

MALFORMED = "x is float32 [1, 5], not float32 [928] for each client"
WILD = "x is not finite, or beyond 1e+30"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([MALFORMED, "y is float32 [1, 5], and the server has nothing of that name"], (MALFORMED, False)),
        ([MALFORMED, WILD], (WILD, True)),
        (["its model is not finite any more"], ("its model is not finite any more", True)),
        (["loss_after is not a number from 0 to 1e+30"], ("loss_after is not a number from 0 to 1e+30", True)),
        (["moments has a value that is not finite, or is huge", WILD], ("moments has a value that is not finite, or is huge", True)),
        (["the weight of x is not a finite number of at least 0"], ("the weight of x is not a finite number of at least 0", False)),
        ([], ("nobody sent one", False)),
    ],
)
def test_the_reason_to_give_and_whether_smaller_steps_may_help(reasons: list[str], expected: tuple[str, bool]) -> None:
    assert cause(reasons) == expected
