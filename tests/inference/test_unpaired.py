"""The difference of two kinds of clients: against SciPy's Welch interval, and by how often it holds the truth."""

import numpy as np
import pytest
from scipy import stats

from scarcity_ray.inference.unpaired import unpaired


def test_of_one_seed_it_is_welch_s():
    rng = np.random.default_rng(0)
    values, first = np.concatenate([rng.normal(0.8, 0.1, 300), rng.normal(0.7, 0.2, 200)]), np.arange(500) < 300
    found = unpaired(values[None], first[None], keep_rows=False)
    expected = stats.ttest_ind(values[:300], values[300:], equal_var=False).confidence_interval(0.9)
    assert found.difference == pytest.approx(values[:300].mean() - values[300:].mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-4)
    assert found.clients == (300, 200)


@pytest.mark.parametrize(("seeds", "keep"), [(1, False), (3, False), (3, True)])
def test_nine_of_ten_intervals_hold_the_truth_and_no_fewer(seeds, keep):
    """115 clients that joined and 5 that did not, dealt again in each seed; kept clients have a part of their own that all seeds share."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        own = rng.normal(0, 0.15, 120) if keep else np.zeros(120)
        first = rng.permuted(np.tile(np.arange(120) >= 5, (seeds, 1)), axis=1)
        values = own + np.where(first, 0.8, 0.7) + rng.normal(0, 0.1, (seeds, 120)) + rng.normal(0, 0.01, (seeds, 1))
        found = unpaired(values, first, keep_rows=keep)
        held += found.low <= 0.1 <= found.high
    assert held >= 0.86 * 200


def test_of_squares_it_is_the_difference_of_roots():
    rng = np.random.default_rng(2)
    errors, first = rng.normal(0, 2, (1, 4000)) ** 2, np.arange(4000)[None] < 2000
    found = unpaired(errors, first, keep_rows=False, root=True)
    assert found.difference == pytest.approx(np.sqrt(errors[first].mean()) - np.sqrt(errors[~first].mean()))
    # the root of a mean of 2,000 squares of normal numbers has the standard error 2 / sqrt(2 * 2000)
    assert found.high - found.low == pytest.approx(2 * 1.645 * np.sqrt(2) * 2 / np.sqrt(4000), rel=0.05)


def test_what_cannot_be_known_is_not_said():
    one = unpaired([[0.5, 0.7, np.nan, 0.9]], [[True, True, True, False]], keep_rows=True)
    assert one.difference == pytest.approx(-0.3)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(unpaired([[0.5, 0.7]], [[True, True]], keep_rows=True).difference)
    with pytest.raises(ValueError, match="must be"):
        unpaired([0.5], [True], keep_rows=True)
