import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.inference.conclusion import Verdict, conclude, what_would_tell
from scarcity_ray.inference.mean_gain import MeanGain


def gain(low, high, seeds=5, **changes):
    found = MeanGain((low + high) / 2, low, high, 1.0, 9.0, 0.75, 0.25, 0.15, 10, seeds)
    return found._replace(**changes)


NAN = math.nan
UNKNOWN = gain(NAN, NAN, mean=1.0)
LEARNED = [gain(-1, 1), gain(0.1, 1)]


@pytest.mark.parametrize(
    ("interval", "sure", "over_guess", "verdict"),
    [
        (gain(1, 3), [1, 0, 0], LEARNED, Verdict.PAYS),
        (gain(1, 3), [1, 0, -1], LEARNED, Verdict.HARMS_SOME),
        (gain(-1, 3), [1, 0, -1], LEARNED, Verdict.UNCLEAR),
        (gain(-3, -1), [0, 0, 0], LEARNED, Verdict.DOES_NOT_PAY),
        (gain(0, 0), [0, 0, 0], LEARNED, Verdict.DOES_NOT_PAY),
        (gain(1, 3), [1, 1, 1], LEARNED[:1], Verdict.NOTHING_LEARNED),
        (UNKNOWN, [0], [UNKNOWN], Verdict.UNCLEAR),
    ],
)
def test_verdicts(interval, sure, over_guess, verdict):
    found = conclude(interval, interval, over_guess, sure)
    assert found.verdict == verdict
    assert (found.needed is not None) == (verdict == Verdict.UNCLEAR)
    assert (found.surely_better, found.surely_worse) == (sure.count(1), sure.count(-1))
    assert found.cannot_tell == sure.count(0)


def test_a_gain_within_the_margin_is_equal():
    assert conclude(gain(0.1, 0.4), gain(0.1, 0.4), LEARNED, [0], margin=0.5)[:2] == (Verdict.DOES_NOT_PAY, True)
    assert conclude(gain(0.6, 0.9), gain(0.1, 0.4), LEARNED, [0], margin=0.5)[:2] == (Verdict.PAYS, False)
    assert conclude(gain(-2, -1), gain(0.1, 0.4), LEARNED, [0], margin=0.5)[:2] == (Verdict.DOES_NOT_PAY, False)


def test_what_is_said_beside():
    found = conclude(gain(1, 3, seeds=1), gain(-3, -1), LEARNED, [0])
    assert (found.weightings_disagree, found.given_models) == (True, True)
    found = conclude(gain(1, 3), gain(-1, 2), LEARNED, [0])
    assert (found.weightings_disagree, found.given_models) == (False, False)


def test_what_would_tell_by_hand():
    # mean 1 in [-1, 3]: the squared error must fall to a quarter, .25, of which seeds' .25 leave clients nothing
    assert what_would_tell(gain(-1, 3)).clients is None
    # mean 2 in [-.5, 4.5]: .64; clients' .75 must fall to .39; seeds' and splits' .4 to .04; rows' .5 to .14
    found = what_would_tell(gain(-0.5, 4.5), row_noise=0.5, test_rows=8)
    assert found == (math.ceil(5 * 0.4 / 0.04 - 1e-9), math.ceil(8 * 0.5 / 0.14), math.ceil(10 * 0.75 / 0.39))
    # mean .1 in [-1.9, 2.1] takes 400 times the clients, mean .25 in [-1.75, 2.25] takes 64 times
    few = {"from_seeds": 0.0, "from_splits": 0.0, "from_clients": 1.0}
    assert what_would_tell(gain(-1.9, 2.1, **few)).clients is None
    assert what_would_tell(gain(-1.75, 2.25, **few)).clients == 640
    assert what_would_tell(gain(-1, 1)) == what_would_tell(UNKNOWN) == (None, None, None)


@given(st.floats(0.01, 3), st.floats(0.01, 3), st.floats(0.1, 0.9))
def test_as_many_clients_as_needed_do_tell(clients_part, seeds_part, distance):
    before = gain(distance - 1, distance + 1, from_clients=clients_part, from_seeds=seeds_part)
    found = what_would_tell(before).clients
    if found is not None:
        after = clients_part * 10 / found + seeds_part
        assert math.sqrt(after / (clients_part + seeds_part)) <= distance * (1 + 1e-9)
        fewer = clients_part * 10 / (found - 1) + seeds_part if found > 1 else math.inf
        assert math.sqrt(fewer / (clients_part + seeds_part)) >= distance * (1 - 1e-9)


def test_refuses_a_negative_margin():
    with pytest.raises(ValueError, match="margin"):
        conclude(gain(1, 2), gain(1, 2), LEARNED, [0], margin=-1)
