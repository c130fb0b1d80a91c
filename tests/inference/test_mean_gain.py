import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kurtosis, skew
from scipy.stats import t as student

from scarcity_ray.inference.mean_gain import _kurtosis, _skewness, mean_gain

GAINS = st.tuples(st.integers(1, 4), st.integers(2, 8)).flatmap(lambda shape: arrays(float, shape, elements=st.integers(-9, 9)))
FIELDS = ("mean", "low", "high")


def test_symmetric_gains_of_one_seed_are_students_with_left_out_means():
    # -2, -1, 1, 2 has no skewness and less kurtosis than normal gains; leaving one of n out gives s^2 / n times n / (n - 1)
    gains = np.array([-2.0, -1, 1, 2])
    found = mean_gain(gains[None], keep_rows=True)
    error = gains.std(ddof=1) / 2 * np.sqrt(4 / 3)
    assert (found.standard_error, found.degrees) == pytest.approx((error, 3))
    assert (found.low, found.high) == pytest.approx((-student.ppf(0.975, 3) * error, student.ppf(0.975, 3) * error))
    assert not found.holds_luck_of_training
    narrower = mean_gain(gains[None], keep_rows=True, level=0.9)
    assert (narrower.low, narrower.high) == pytest.approx((-student.ppf(0.95, 3) * error, student.ppf(0.95, 3) * error))


def test_the_jackknife_influences_are_hc3():
    regression = pytest.importorskip("statsmodels.regression.linear_model")
    draw = np.random.default_rng(0)
    gains, rows = draw.normal(size=12), draw.integers(1, 40, 12)
    for weights in (np.ones(12), rows):
        theirs = regression.WLS(gains, np.ones(12), weights=weights).fit(cov_type="HC3")
        found = mean_gain(gains[None], keep_rows=True, rows=weights)
        assert found.mean == pytest.approx(theirs.params[0], abs=1e-9)
        assert found.from_clients == pytest.approx(theirs.cov_params()[0, 0], abs=1e-9)


def test_seeds_that_share_all_are_students_over_seeds():
    shared = np.array([-1.0, 0, 1, 0])
    for keep_rows in (True, False):
        found = mean_gain(np.repeat(shared[:, None], 6, axis=1), keep_rows=keep_rows)
        half = student.ppf(0.975, 3) * shared.std(ddof=1) / 2
        assert (found.from_clients, found.degrees) == pytest.approx((0, 3))
        assert (found.low, found.high) == pytest.approx((-half, half))
        assert found.holds_luck_of_training


def test_splits_of_the_same_rows_are_no_new_clients():
    gains = np.random.default_rng(1).normal(size=10)
    kept = mean_gain(np.tile(gains, (5, 1)), keep_rows=True)
    fresh = mean_gain(np.tile(gains, (5, 1)), keep_rows=False)
    assert kept[:4] == pytest.approx(mean_gain(gains[None], keep_rows=True)[:4])
    assert (kept.clients, fresh.clients) == (10, 50)
    assert fresh.from_clients == fresh.from_splits == pytest.approx(kept.from_clients / 5)
    assert (kept.from_seeds, kept.from_splits) == pytest.approx((0, 0), abs=1e-30)


def test_the_side_of_the_long_tail_is_longer():
    gains = np.random.default_rng(0).exponential(size=(1, 15))
    found = mean_gain(gains, keep_rows=True)
    symmetric = student.ppf(0.975, found.degrees) * found.standard_error
    assert found.mean - found.low == pytest.approx(symmetric)
    assert symmetric < found.high - found.mean <= 2 * symmetric


def test_moments_are_scipys():
    values = np.random.default_rng(0).exponential(size=12)
    assert _kurtosis(values) == pytest.approx(kurtosis(values, bias=False))
    assert _skewness(values - values.mean()) == pytest.approx(skew(values, bias=False))
    assert _kurtosis(np.array([-1.0, -1, 1, 1])) == _kurtosis(np.full(9, 0.1)) == _kurtosis(values[:3]) == 0


def test_rows_weigh():
    found = mean_gain([[1.0, 5.0]], keep_rows=True, rows=[3, 1])
    assert found.mean == 2
    # who has nearly all rows leaves few degrees of freedom
    assert mean_gain([[1.0, 5.0, 2.0]], keep_rows=True, rows=[1000, 1, 1]).degrees < 1


def test_missing_values_are_left_out():
    gains = np.array([[1.0, np.nan, 3.0, np.nan], [2.0, 4.0, np.nan, np.nan]])
    assert mean_gain(gains, keep_rows=True).mean == pytest.approx((1.5 + 4 + 3) / 3)
    assert mean_gain(gains, keep_rows=False).mean == pytest.approx((2 + 3) / 2)
    assert mean_gain(gains, keep_rows=True).clients == 3
    alone = mean_gain([[1.0]], keep_rows=True)
    assert alone.mean == 1
    assert np.isnan(alone.low)
    assert mean_gain([[np.nan]], keep_rows=True).clients == 0


@given(GAINS, st.booleans(), st.integers(-20, 20), st.sampled_from([-3.0, 0.5, 2.0]))
def test_moves_scales_and_mirrors(gains, keep_rows, shift, scale):
    one, other = mean_gain(gains, keep_rows=keep_rows), mean_gain(shift + scale * gains, keep_rows=keep_rows)
    expected = [shift + scale * getattr(one, name) for name in FIELDS]
    if scale < 0:
        expected[1:] = expected[:0:-1]
    assert [getattr(other, name) for name in FIELDS] == pytest.approx(expected, abs=1e-6)
    assert one.low <= one.mean <= one.high


@given(GAINS, st.booleans(), st.randoms())
def test_the_order_of_seeds_and_clients_does_not_matter(gains, keep_rows, random):
    rows, columns = list(range(gains.shape[0])), list(range(gains.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    one, other = mean_gain(gains, keep_rows=keep_rows), mean_gain(gains[rows][:, columns], keep_rows=keep_rows)
    assert one == pytest.approx(other, abs=1e-6)


def test_covers_where_seeds_share_luck():
    draw, hits = np.random.default_rng(0), 0
    for _ in range(300):
        gains = draw.normal(size=(5, 1)) + draw.normal(size=20) + draw.normal(size=(5, 20))
        found = mean_gain(gains, keep_rows=True)
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 300 <= 0.99


@pytest.mark.parametrize(("gains", "rows"), [([1.0, 2.0], None), ([[1.0, 2.0]], [0, 1]), ([[1.0, 2.0]], [1, 2, 3])])
def test_refuses(gains, rows):
    with pytest.raises(ValueError, match=r"must be|shape"):
        mean_gain(gains, keep_rows=True, rows=rows)
