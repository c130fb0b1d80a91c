import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scarcity_ray.metrics.delong import auc_interval, delong

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(row[0] for row in rows) < len(rows)
)


def brute_force(scores, positive):
    """Areas and DeLong's covariance, from all pairs."""
    kernel = np.stack([np.heaviside(s[positive][:, None] - s[~positive][None], 0.5) for s in scores])
    covariance = np.zeros((len(scores), len(scores)))
    for placements in (kernel.mean(2), kernel.mean(1)):
        if placements.shape[1] > 1:
            covariance += np.atleast_2d(np.cov(placements)) / placements.shape[1]
    return kernel.mean((1, 2)), covariance


@given(ROWS)
def test_agrees_with_all_pairs_and_with_scikit_learn(rows):
    positive, *scores = map(np.array, zip(*rows, strict=True))
    found = delong(scores, positive)
    areas, covariance = brute_force(np.array(scores, dtype=float), positive)
    np.testing.assert_allclose(found.areas, areas, atol=1e-12)
    np.testing.assert_allclose(found.parts @ found.parts.T, covariance, atol=1e-12)
    assert found.areas[0] == pytest.approx(roc_auc_score(positive, scores[0]), abs=1e-12)


@given(ROWS)
def test_depends_on_the_order_of_scores_alone(rows):
    positive, one, other = map(np.array, zip(*rows, strict=True))
    np.testing.assert_allclose(delong([one, other], positive).parts, delong([np.exp(one), other * 3 - 1], positive).parts, atol=1e-12)
    assert delong([-one], positive).areas[0] == pytest.approx(1 - delong([one], positive).areas[0])


def test_interval_covers_the_true_area():
    draw, hits, positive = np.random.default_rng(0), 0, np.arange(80) < 30
    truth = norm.cdf(1 / np.sqrt(2))
    for _ in range(400):
        _, low, high = auc_interval(draw.normal(size=80) + positive, positive)
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_parted_classes_and_ties():
    assert auc_interval([0, 1, 2, 3], [False, False, True, True]) == (1, 1, 1)
    assert auc_interval([0, 0], [False, True])[0] == 0.5


@pytest.mark.parametrize(
    ("scores", "positive"), [([[1.0, 2]], [True, True]), ([[1.0, np.nan]], [True, False]), ([[1.0]], [True, False]), ([1.0], [True])]
)
def test_refuses(scores, positive):
    with pytest.raises(ValueError, match=r"must be|need"):
        delong(scores, positive)
