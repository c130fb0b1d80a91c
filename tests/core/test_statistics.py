import numpy as np
import pytest

from scarcity_ray.core import statistics


def test_mean_counts_every_client_with_rows_once():
    # clients with rows: 0.5 and 1.0, so (0.5 + 1.0) / 2, whatever their 1 and 9 rows; the third has none
    assert statistics.mean([0.5, 1.0, np.nan], [1, 9, 0]) == 0.75
    assert np.isnan(statistics.mean([np.nan], [0]))


def test_a_diverged_client_is_not_left_out_of_the_mean():
    assert np.isnan(statistics.mean([0.5, np.nan], [1, 1]))


@pytest.mark.parametrize(
    ("clients", "higher", "expected"),
    [
        (9, True, 0.0),  # 9 // 10 = 0, so max(1, 0) = 1 client: the lowest of 0 .. 8
        (10, True, 0.0),  # 1 client
        (25, True, 0.5),  # 25 // 10 = 2 clients: (0 + 1) / 2
        (25, False, 23.5),  # the highest two of 0 .. 24: (23 + 24) / 2
        (100, False, 94.5),  # the highest ten of 0 .. 99: (90 + ... + 99) / 10
    ],
)
def test_worst_decile(clients, higher, expected):
    shuffled = np.random.default_rng(0).permutation(clients)
    assert statistics.worst_decile(shuffled, higher) == expected


def test_worst_decile_counts_only_clients_with_rows():
    # 20 clients of which 10 have rows: one client, the lowest of 10 .. 19
    assert statistics.worst_decile(np.arange(20), True, rows=np.repeat([0, 1], 10)) == 10


def test_worst_decile_of_what_is_no_number():
    assert np.isnan(statistics.worst_decile([1.0, np.nan], False))
    assert np.isnan(statistics.worst_decile([], True))


def test_pooled_weighs_by_rows():
    # (1 * 0.5 + 9 * 1.0) / 10; the third client has no rows and no value
    assert statistics.pooled([0.5, 1.0, np.nan], [1, 9, 0]) == pytest.approx(0.95)
    assert np.isnan(statistics.pooled([np.nan], [0]))


def test_shares_keep_ties_apart():
    # better, equal, worse, and a client without test rows: thirds of three
    found = statistics.shares([0.9, 0.5, 0.1, np.nan], [0.5, 0.5, 0.5, np.nan], higher_is_better=True)
    assert found == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    found = statistics.shares([1.0, 1.0, 4.0], [2.0, 3.0, 3.0], higher_is_better=False)
    assert found == pytest.approx((2 / 3, 0, 1 / 3))
    assert statistics.shares([np.nan], [np.nan], True) is None


def test_a_client_whose_model_gives_no_number_is_worse_off():
    assert statistics.shares([np.nan, 1.0], [1.0, 2.0], higher_is_better=False) == (0.5, 0.0, 0.5)


def test_spread_is_students():
    # 1, 2, 3: mean 2, std sqrt(2 / 2) = 1, t(0.975, 2) = 4.3027 (any table), so 4.3027 / sqrt(3) = 2.4841
    assert statistics.spread([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.0, 2.4841), abs=1e-4)
    alone = statistics.spread([5.0])
    assert alone.mean == 5.0
    assert np.isnan(alone.std)
    assert np.isnan(alone.half_width)


def test_root():
    assert statistics.root(9.0) == 3.0
