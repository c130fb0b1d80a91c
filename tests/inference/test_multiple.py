import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.inference.multiple import holm


def test_by_hand():
    # sorted .01, .02, .03, .04: times 4, 3, 2, 1 are .04, .06, .06, .04, and monotone .04, .06, .06, .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_what_is_missing_does_not_count():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.02]), [0.02, np.nan, 0.02])


def test_agrees_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    draw = np.random.default_rng(0)
    for size in (1, 7, 60):
        p = np.round(draw.random(size) ** 3, draw.integers(1, 9))  # with ties
        np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], atol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_lies_between_the_p_value_and_bonferroni(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()


@pytest.mark.parametrize("wrong", [[1.1], [-0.1], [[0.5]]])
def test_refuses_what_is_no_p_value(wrong):
    with pytest.raises(ValueError, match="p-values must be"):
        holm(wrong)
