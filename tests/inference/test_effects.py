import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from scarcity_ray.inference.effects import next_client, paule_mandel, random_effects

CLIENTS = st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 4)), min_size=2, max_size=20)


def test_equal_variances_have_a_closed_form():
    gains = np.array([1.0, 2.0, 3.0, 6.0])
    found = random_effects(gains, np.full(4, 0.5))
    assert found.tau2 == pytest.approx(gains.var(ddof=1) - 0.5)
    assert found.mean == pytest.approx(3)
    assert found.standard_error == pytest.approx(gains.std(ddof=1) / 2)
    assert found.high - found.mean == pytest.approx(student.ppf(0.975, 3) * gains.std(ddof=1) / 2)


def test_where_variances_are_nothing_the_next_client_is_student_distributed():
    # the mixture over tau^2 = (n - 1) s^2 / chi-squared of N(m, tau^2 (1 + 1 / n)) is Student's t with n - 1
    gains = np.random.default_rng(1).normal(size=12)
    half = student.ppf(0.975, 11) * gains.std(ddof=1) * np.sqrt(1 + 1 / 12)
    low, high = next_client(gains, np.full(12, 1e-9))
    assert (low, high) == pytest.approx((gains.mean() - half, gains.mean() + half), rel=0.01)


def test_less_spread_than_noise_has_no_tau2_and_still_room_for_the_next():
    gains = np.array([0.1, -0.1, 0.05, -0.05])
    found = random_effects(gains, np.ones(4))
    assert found.tau2 == 0
    assert found.next_high - found.next_low > 2 * 1.96 * 0.5  # wider than the mean's own error


@given(CLIENTS)
def test_agrees_with_statsmodels(clients):
    meta = pytest.importorskip("statsmodels.stats.meta_analysis")
    gains, variances = map(np.array, zip(*clients, strict=True))
    found = random_effects(gains, variances)
    # theirs falls back to 0 where rounding takes a step beyond the solution, so it starts just before it
    theirs = meta.combine_effects(gains, variances, use_t=True, tau2_start=found.tau2 * (1 - 1e-12), atol=1e-9)
    low, high = theirs.conf_int(use_t=True)[3]
    assert found.tau2 == pytest.approx(theirs.tau2, abs=1e-9)
    assert (found.mean, found.low, found.high) == pytest.approx((theirs.mean_effect_re, low, high), abs=1e-9)


@given(CLIENTS, st.floats(-10, 10), st.floats(0.1, 10))
def test_moves_and_scales_with_the_gains(clients, shift, scale):
    gains, variances = map(np.array, zip(*clients, strict=True))
    one, other = random_effects(gains, variances), random_effects(shift + scale * gains, scale**2 * variances)
    assert other.tau2 == pytest.approx(scale**2 * one.tau2, rel=1e-6, abs=1e-9)
    for place in ("mean", "low", "high", "next_low", "next_high"):
        assert getattr(other, place) == pytest.approx(shift + scale * getattr(one, place), rel=1e-5, abs=1e-5)


@given(CLIENTS)
def test_tau2_solves_its_equation(clients):
    gains, variances = map(np.array, zip(*clients, strict=True))
    tau2 = paule_mandel(gains, variances)
    w = 1 / (variances + tau2)
    q = w @ (gains - w @ gains / w.sum()) ** 2
    assert q == pytest.approx(len(gains) - 1, rel=1e-9) if tau2 else q <= len(gains) - 1


def test_what_is_missing_is_left_out():
    assert random_effects([1.0, np.nan, 2.0], [1, np.nan, 1]) == random_effects([1.0, 2.0], [1, 1])
    alone = random_effects([1.0], [1])
    assert alone.mean == 1
    assert np.isnan(alone.low)
    assert random_effects([], []).clients == 0


@pytest.mark.parametrize("variances", [[0.0, 1], [np.nan, 1], [1.0]])
def test_refuses(variances):
    with pytest.raises(ValueError, match="must be"):
        random_effects([1.0, 2.0], variances)
