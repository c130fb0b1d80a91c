import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import r2_score, roc_auc_score

from scarcity_ray.inference.effects import random_effects
from scarcity_ray.inference.paired import gain_variances, over_seeds, paired_auc, paired_means, paired_r2, paired_rmse
from scarcity_ray.inference.shrinkage import shrink

DRAW = np.random.default_rng(3)
CLIENT = np.repeat([0, 1, 2], [40, 1, 25])
ALONE, STRATEGY = DRAW.chisquare(2, 66), DRAW.chisquare(2, 66)
LABELS = DRAW.normal(size=66)


def squares(parts, client):
    return np.bincount(client, parts**2)


def bootstrap(statistic, *columns):
    """The variance of a statistic over draws of rows with replacement."""
    draw, rows = np.random.default_rng(0), len(columns[0])
    return np.var([statistic(*(column[chosen] for column in columns)) for chosen in draw.integers(0, rows, (4000, rows))])


def test_means_are_the_paired_t_test():
    found = paired_means(ALONE, STRATEGY, CLIENT, 4, higher_is_better=False)
    theirs = ttest_rel(ALONE[:40], STRATEGY[:40])
    assert found.gain[0] / np.sqrt(squares(found.parts, CLIENT)[0]) == pytest.approx(theirs.statistic)
    assert found.gain[1] == ALONE[40] - STRATEGY[40]
    assert found.parts[40] == 0
    assert np.isnan(found.gain[3])
    other = paired_means(ALONE, STRATEGY, CLIENT, 4, higher_is_better=True)
    np.testing.assert_array_equal(other.gain, -found.gain)


def test_rmse_by_the_delta_method():
    found = paired_rmse(ALONE, STRATEGY, CLIENT, 3)
    assert found.gain[0] == pytest.approx(np.sqrt(ALONE[:40].mean()) - np.sqrt(STRATEGY[:40].mean()))
    resampled = bootstrap(lambda a, b: np.sqrt(a.mean()) - np.sqrt(b.mean()), ALONE[:40], STRATEGY[:40])
    assert squares(found.parts, CLIENT)[0] == pytest.approx(resampled, rel=0.15)


def test_rmse_of_a_client_without_error():
    found = paired_rmse([1.0, 4.0], [0.0, 0.0], [0, 0], 1)
    assert found.gain[0] == np.sqrt(2.5)
    assert np.isfinite(found.parts).all()


def test_r2_by_the_delta_method():
    found = paired_r2(ALONE, STRATEGY, LABELS, CLIENT, 3)
    error_a, error_b = np.sqrt(ALONE[:40]), np.sqrt(STRATEGY[:40])
    truth = LABELS[:40]
    assert found.gain[0] == pytest.approx(r2_score(truth, truth + error_b) - r2_score(truth, truth + error_a))
    assert np.isnan(found.gain[1])
    resampled = bootstrap(lambda a, b, y: (a - b).mean() / y.var(), ALONE[:40], STRATEGY[:40], truth)
    assert squares(found.parts, CLIENT)[0] == pytest.approx(resampled, rel=0.25)


def test_auc_of_each_client_by_itself():
    positive = LABELS > 0
    found = paired_auc(ALONE, STRATEGY, positive, CLIENT, 3)
    a, b, y = ALONE[:40], STRATEGY[:40], positive[:40]
    assert found.gain[0] == pytest.approx(roc_auc_score(y, b) - roc_auc_score(y, a))
    assert np.isnan(found.gain[1])
    mixed = np.random.default_rng(0).permutation(66)
    again = paired_auc(ALONE[mixed], STRATEGY[mixed], positive[mixed], CLIENT[mixed], 3)
    np.testing.assert_allclose(again.gain, found.gain)
    np.testing.assert_allclose(again.parts, found.parts[mixed])


def test_variances_are_shrunk_and_those_without_a_gain_have_none():
    found = paired_means(ALONE, STRATEGY, CLIENT, 4, higher_is_better=True)
    variances = gain_variances(found, CLIENT)
    own = squares(found.parts, CLIENT)
    pooled = (own[[0, 2]] * [40, 25] * [39, 24]).sum() / (39 + 24)
    assert variances[1] == pytest.approx(pooled)
    assert np.isnan(variances[3])
    undefined = paired_auc(ALONE, STRATEGY, LABELS > 0, CLIENT, 3)
    assert np.isnan(gain_variances(undefined, CLIENT)[1])


def test_an_area_is_as_uncertain_as_its_rarer_class_makes_it():
    """Half of the clients have 10 + 10 rows and half 1 + 19: the mean variance is right for each half."""
    draw, client = np.random.default_rng(2), np.repeat(np.arange(600), 20)
    positive = np.tile(np.repeat([True, False, True, False], [10, 10, 1, 19]), 300)
    scores = draw.normal(size=(2, len(client))) + positive
    found = paired_auc(*scores, positive, client, 600)
    variances = gain_variances(found, client)
    for half in (0, 1):
        assert variances[half::2].mean() == pytest.approx(found.gain[half::2].var(), rel=0.25)


def test_rows_that_all_agree_are_no_proof():
    """Three clients with rows that do not differ: 2 + 1 + 0 degrees of freedom, and a gain of 1 that may be off by 1 in 5."""
    found = paired_means([0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2], 3, higher_is_better=True)
    np.testing.assert_allclose(gain_variances(found, [0, 0, 0, 1, 1, 2]), np.array([1 / 3, 1 / 2, 1]) / 5)
    assert shrink(found.gain, np.sqrt(gain_variances(found, [0, 0, 0, 1, 1, 2]))).sure.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("error")
def test_gains_of_nothing_can_be_weighed():
    found = paired_means(np.ones(40), np.ones(40), np.arange(40) % 4, 4, higher_is_better=True)
    variances = gain_variances(found, np.arange(40) % 4)
    together = random_effects(found.gain, variances)
    assert (together.mean, together.tau2) == (0, 0)
    assert max(-together.next_low, together.next_high) < 1e-20
    assert shrink(found.gain, np.sqrt(variances)).sure.tolist() == [0] * 4


def test_a_row_that_comes_again_is_one_row():
    """The same rows in three seeds give the variance of one seed; rows of their own a third of it."""
    one = paired_means(ALONE, STRATEGY, CLIENT, 3, higher_is_better=True)
    three = over_seeds([one] * 3, [CLIENT] * 3)
    np.testing.assert_allclose(three.gain, one.gain)
    rows, client = np.tile(np.arange(66), 3), np.tile(CLIENT, 3)
    np.testing.assert_allclose(gain_variances(three, client, rows), gain_variances(one, CLIENT))
    fresh = gain_variances(three, client, np.arange(198))
    np.testing.assert_allclose(fresh[[0, 2]], gain_variances(one, CLIENT)[[0, 2]] / 3, rtol=0.2)


def test_seeds_without_a_value_are_left_out_of_a_clients_mean():
    one = paired_auc(ALONE, STRATEGY, LABELS > 0, CLIENT, 3)
    none = paired_auc(ALONE, STRATEGY, np.ones(66), CLIENT, 3)
    both = over_seeds([one, none], [CLIENT, CLIENT])
    np.testing.assert_allclose(both.gain, one.gain)
    np.testing.assert_allclose(both.parts[:66], one.parts)


def test_refuses():
    with pytest.raises(ValueError, match="must all be"):
        paired_means([1.0], [1.0, 2.0], [0, 0], 1, higher_is_better=True)
    with pytest.raises(ValueError, match="from 0 to 0"):
        paired_means([1.0], [1.0], [1], 1, higher_is_better=True)
