import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from scarcity_ray.inference import winner
from scarcity_ray.inference.winner import best, chosen_on_validation, cross_fitted, halves, strategy_of_rows


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=60), st.integers(0, 2**40))
def test_halves_are_halves_of_each_client(rows, seed):
    client, row = map(np.array, zip(*rows, strict=True))
    first = halves(seed, client, row)
    for number in set(client):
        mine = client == number
        distinct = dict(zip(row[mine], first[mine], strict=True))
        assert all(distinct[r] == f for r, f in zip(row[mine], first[mine], strict=True))
        assert abs(2 * sum(distinct.values()) - len(distinct)) <= 1
    # a client's halves do not depend on who else there is
    alone = client == client[0]
    np.testing.assert_array_equal(halves(seed, client[alone], row[alone]), first[alone])


def test_an_odd_row_goes_either_way():
    first = halves(1, np.arange(400), np.zeros(400))
    assert 150 < first.sum() < 250


def test_best_by_clients_and_by_rows():
    gains = np.array([[[1.0, 0.0, np.nan]], [[0.0, 0.8, 0.0]], [[np.nan] * 3]])
    assert best(gains) == 0
    assert best(gains, rows=[1, 9, 1]) == 1
    with pytest.raises(ValueError, match="must be"):
        best(gains[2:])


def test_validation_chooses_and_test_reports():
    found = chosen_on_validation([[[0.0, 1]], [[2.0, 2]]], [[[9.0, 9]], [[1.0, 3]]])
    assert (found.first, found.second, found.widen, found.single) == (1, 1, 1.0, True)
    np.testing.assert_array_equal(found.gains, [[1, 3]])


def test_each_half_is_reported_under_the_others_choice():
    first = np.array([[[1.0, 1, np.nan]], [[0.0, 0.5, 0]]])
    second = np.array([[[2.0, np.nan, 2]], [[4.0, 4, 4]]])
    found = cross_fitted(first, second, ([[1.0, 1, 1]], [[3.0, 1, 1]]))
    assert (found.first, found.second, found.single) == (0, 1, False)
    # client 0: three rows of the second half under 0, one of the first under 1; the others lack a half
    np.testing.assert_allclose(found.gains, [[(3 * 2 + 1 * 0) / 4, 0.5, (2 + 0) / 2]])
    np.testing.assert_array_equal(strategy_of_rows([True, False], found), [1, 0])


def test_one_clear_strategy_costs_nothing():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(2, 3, 1, 40))
    one[1] += 5
    other[1] += 5
    found = cross_fitted(one, other)
    assert (found.first, found.widen) == (1, 1.0)
    np.testing.assert_allclose(found.gains, (one[1] + other[1]) / 2)
    assert cross_fitted(one[:1], other[:1]).widen == 1.0


def test_the_largest_of_noise_is_not_reported():
    draw, reported, largest, squares = np.random.default_rng(0), [], [], []
    for _ in range(2000):
        one, other = draw.normal(size=(2, 6, 1, 20))
        found = cross_fitted(one, other)
        reported.append(found.gains.mean())
        squares.append((found.gains.mean() / (np.sqrt(0.5 / 20) * found.widen)) ** 2)
        largest.append(((one + other) / 2).mean((1, 2)).max())
    assert abs(np.mean(reported)) < 0.015
    assert np.mean(largest) > 0.15
    # six candidates: Bonferroni's 2.638 in place of 1.96
    assert np.mean(squares) == pytest.approx((1.149 * 1.96 / 2.638) ** 2, abs=0.1)


def test_how_much_wider():
    def largest(k):
        return quad(lambda x: x * k * norm.pdf(x) * norm.cdf(x) ** (k - 1), -9, 9)[0]

    assert max(largest(k) ** 2 / (k - 1) for k in range(2, 30)) == pytest.approx(winner._WIDER**2 - 1, abs=1e-4)


def test_clients_luck_that_both_halves_share_is_held_by_the_level():
    draw, claims = np.random.default_rng(0), 0
    for _ in range(1000):
        gains = draw.normal(size=(6, 1, 200))
        found = cross_fitted(gains, gains)
        claims += found.gains.mean() > 1.96 * found.widen / np.sqrt(200)
    assert claims / 1000 < 0.045
