"""The laws of partitions and splits: every row lands once, minimum sizes hold, a seed fixes everything, and all of them end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.partitions import IID, Dirichlet, Natural, QuantitySkew, Shards, natural, partition
from scarcity_ray.data.split import TEST, TRAIN, VALIDATION, split, split_sizes

SPECS = st.one_of(
    st.builds(Dirichlet, alpha=st.floats(1e-6, 1e6), minimum=st.integers(1, 3)),
    st.builds(Shards, classes_per_client=st.integers(1, 3), minimum=st.integers(1, 3)),
    st.builds(IID, minimum=st.integers(1, 3)),
    st.builds(QuantitySkew, sigma=st.floats(0, 10), minimum=st.integers(1, 3)),
)


@given(
    spec=SPECS,
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array),
    clients=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=300)
def test_every_row_lands_once_or_the_partition_is_refused(spec, labels, clients, seed):
    each = spec.classes_per_client if isinstance(spec, Shards) else 1
    if each > len(np.unique(labels)) or clients * max(spec.minimum, each) > len(labels):
        with pytest.raises(SpecError, match=r"\d"):
            partition(spec, labels, clients, np.random.default_rng(seed))
        return
    shares = partition(spec, labels, clients, np.random.default_rng(seed))
    sizes = np.array([len(share) for share in shares])
    assert len(shares) == clients
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(labels)))
    assert sizes.min() >= spec.minimum
    if not isinstance(spec, QuantitySkew):
        assert sizes.max() - sizes.min() <= 1
    again = partition(spec, labels, clients, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


@pytest.mark.parametrize("spec", [Dirichlet(alpha=0.3), Shards(classes_per_client=2), IID(), QuantitySkew(sigma=1.0)])
def test_another_seed_is_another_split(spec):
    labels = np.arange(400) % 10
    one, other = (np.concatenate(partition(spec, labels, 20, np.random.default_rng(seed))) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_dirichlet_alpha_sets_how_few_classes_a_client_sees():
    labels = np.random.default_rng(0).integers(0, 10, 10_000)

    def largest_share(alpha):
        shares = partition(Dirichlet(alpha=alpha), labels, 100, np.random.default_rng(1))
        return np.mean([np.bincount(labels[share]).max() / len(share) for share in shares])

    assert largest_share(0.05) > 0.7 > largest_share(0.5) > 0.3 > largest_share(100.0)


def test_dirichlet_ends_where_a_class_runs_out():
    labels = np.array([0] * 397 + [1] * 3)  # half of the clients wish for class 1 alone; there are three rows of it
    shares = partition(Dirichlet(alpha=1e-3), labels, 200, np.random.default_rng(0))
    assert {len(share) for share in shares} == {2}


def test_shards_give_a_client_few_classes():
    labels = np.arange(10_000) % 10
    shares = partition(Shards(classes_per_client=2), labels, 100, np.random.default_rng(0))
    # 10,000 rows in 200 shards of 50: each class is 20 shards exactly, so no shard straddles two
    assert max(len(np.unique(labels[share])) for share in shares) == 2


def test_quantity_skew_reaches_from_the_minimum_to_hundreds():
    sizes = [len(share) for share in partition(QuantitySkew(sigma=2.0), np.zeros(1797, dtype=int), 100, np.random.default_rng(3))]
    assert min(sizes) == 2
    assert max(sizes) > 200


@pytest.mark.parametrize("spec", [Dirichlet(alpha=1.0), Shards(classes_per_client=1)])
def test_a_regression_is_not_dealt_by_class(spec):
    with pytest.raises(SpecError, match="regression") as error:
        partition(spec, np.linspace(0, 1, 50), 5, np.random.default_rng(0), "regression")
    assert error.value.field == ("data", "partition", "kind")


def test_too_many_clients_are_refused_with_the_arithmetic():
    with pytest.raises(SpecError, match=r"1,000 clients .* need 2,000 rows; there are 1,797, enough for 898 clients"):
        partition(Dirichlet(alpha=1.0), np.zeros(1797, dtype=int), 1000, np.random.default_rng(0))


def test_natural_takes_the_owners_as_they_are():
    owner = np.array([2, 0, 2, 1, 0, 2])
    shares, kept = natural(Natural(minimum=1), owner, 3)
    assert [share.tolist() for share in shares] == [[1, 4], [3], [0, 2, 5]]
    assert kept.tolist() == [0, 1, 2]
    with pytest.raises(SpecError, match="1 of 3 clients hold fewer rows, the smallest 1; `minimum: 1` takes them all"):
        natural(Natural(), owner, 3)
    assert natural(Natural(below="drop"), owner, 3)[1].tolist() == [0, 2]
    with pytest.raises(SpecError, match="3 of 3 clients hold fewer rows, the smallest 1; `minimum: 1` takes them all"):
        natural(Natural(minimum=4, below="drop"), owner, 3)


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=40).map(np.array),
    test=st.floats(0, 0.99),
    validation=st.floats(0, 0.99),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None)
def test_split_keeps_a_training_row_and_depends_on_the_client_alone(counts, test, validation, seed):
    part = split(counts, np.arange(len(counts)), test, validation, seed)
    client = np.repeat(np.arange(len(counts)), counts)
    tests, validations = split_sizes(counts, test, validation)
    assert np.array_equal(np.bincount(client[part == TEST], minlength=len(counts)), tests)
    assert np.array_equal(np.bincount(client[part == VALIDATION], minlength=len(counts)), validations)
    assert (np.bincount(client[part == TRAIN], minlength=len(counts)) >= 1).all()
    others = split(counts[::-1], np.arange(len(counts))[::-1], test, validation, seed)
    for m, (start, end) in enumerate(zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True)):
        assert np.array_equal(part[start:end], others[len(part) - end : len(part) - start])
        assert np.array_equal(part[start:end], split(counts[[m]], np.array([m]), test, validation, seed))


def test_fractions_round_half_up():
    test, validation = split_sizes(np.array([16, 1, 2, 3, 50]), 0.5, 0.29)
    assert test.tolist() == [8, 0, 1, 2, 25]  # 1.5 -> 2; a client of one row trains on it
    assert validation.tolist() == [5, 0, 0, 0, 15]  # 4.64 -> 5; .87 and .58 would take the last training row; 14.5 -> 15
