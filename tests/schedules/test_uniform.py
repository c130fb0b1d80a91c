"""Who takes part, and who works for whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.runtime.placement import blocks, deal
from scarcity_ray.schedules.uniform import sample
from scarcity_ray.strategies import FedAvg


def test_a_cohort_is_a_sample_without_replacement_by_seed_and_round() -> None:
    drawn = sample(7, 1, np.arange(1000), 100)
    assert len(np.unique(drawn)) == 100
    assert np.array_equal(drawn, sample(7, 1, np.arange(1000), 100))
    assert not np.array_equal(drawn, sample(7, 2, np.arange(1000), 100))
    assert not np.array_equal(drawn, sample(8, 1, np.arange(1000), 100))
    assert set(drawn) <= set(sample(7, 1, np.arange(1000), 200))  # so that strategies meet the same clients


def test_every_client_is_sampled_equally_often() -> None:
    counts = np.bincount(np.concatenate([sample(3, round, np.arange(50), 10) for round in range(2000)]), minlength=50)
    # 2000 rounds of probability 0.2: 400 each, standard deviation sqrt(2000 * 0.2 * 0.8) = 17.9
    assert np.abs(counts - 400).max() < 4.5 * 17.9


@pytest.mark.parametrize(("fraction", "clients", "size"), [(0.1, 100, 10), (0.1, 4, 1), (0.5, 5, 3), (1.0, 7, 7), (None, 7, 7)])
def test_cohort_size(fraction: float | None, clients: int, size: int) -> None:
    assert FedAvg(fraction=fraction).sampled(clients) == size


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 6))
def test_work_is_dealt_once_and_evenly(work: list[int], hands: int) -> None:
    ids = np.arange(len(work)) * 3
    dealt = deal(ids, np.array(work), hands)
    assert sorted(np.concatenate(dealt).tolist()) == ids.tolist()
    loads = [sum(work[i // 3] for i in hand.tolist()) for hand in dealt]
    assert max(loads) - min(loads) <= max(work)  # what a longest-first deal promises


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.data())
def test_homes_hold_every_client_once(samples: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(samples)))
    homes = blocks(np.array(samples), count)
    assert sorted(np.concatenate(homes).tolist()) == list(range(len(samples)))
    sizes = [len(home) for home in homes]
    assert max(sizes) - min(sizes) <= 1
