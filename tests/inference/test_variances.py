import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.inference.variances import shrunk_variances


def test_one_row_gets_the_pooled_variance():
    # pooled: (4 * 1 + 9 * 2) / 13; the client without rows has none
    found = shrunk_variances([1.0, 2.0, np.nan, np.nan], [5, 10, 1, 0])
    assert found[2] == pytest.approx(22 / 13)
    assert np.isnan(found[3])


def test_equal_variances_stay():
    np.testing.assert_allclose(shrunk_variances([2.0] * 4, [2, 5, 50, 1]), 2.0)


def test_by_hand():
    # d = 10 each, pooled 1.5, ratios 2/3 and 4/3 have a spread of 1/9 < 2/10: nothing of their own is kept
    np.testing.assert_allclose(shrunk_variances([1.0, 2.0], [11, 11]), 1.5)
    # ratios .2 and 1.8: .64 seen, .2 by chance, so (.64 - .2) / 1.2 = 11/30 between; kept 11/30 / (11/30 + .2 * 41/30) = 55/96
    np.testing.assert_allclose(shrunk_variances([1.0, 9.0], [11, 11]), 5 + 55 / 96 * np.array([-4, 4]))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 50)), min_size=1, max_size=30))
def test_never_zero_and_between_own_and_pooled(clients):
    own, rows = map(np.array, zip(*clients, strict=True))
    found = shrunk_variances(own, rows)
    assert (found > 0).all()
    many = rows > 1
    pooled = (own * (rows - 1)).sum() / max(1, (rows - 1).sum())
    low, high = np.minimum(own, pooled) * (1 - 1e-9), np.maximum(own, pooled) * (1 + 1e-9)
    assert ((found >= low) & (found <= np.maximum(high, 1e-300)))[many].all()


def test_comes_nearer_the_truth_than_own_and_pooled_variances():
    draw = np.random.default_rng(0)
    true = draw.gamma(2, 0.5, 500)
    rows = draw.integers(2, 30, 500)
    own = true * draw.chisquare(rows - 1) / (rows - 1)
    pooled = ((rows - 1) * own).sum() / (rows - 1).sum()
    error = np.mean((shrunk_variances(own, rows) - true) ** 2)
    assert error < 0.8 * min(np.mean((own - true) ** 2), np.mean((pooled - true) ** 2))


@pytest.mark.parametrize(("variances", "rows"), [([1.0], [2, 3]), ([-1.0], [2]), ([np.nan], [2]), ([1.0], [-1])])
def test_refuses(variances, rows):
    with pytest.raises(ValueError, match="must be"):
        shrunk_variances(variances, rows)
