"""Dealing: sources made by recipe, hidden groups, and the federation that results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal, describe

DIGITS = {"source": {"kind": "digits"}, "clients": 20, "partition": {"kind": "dirichlet", "alpha": 0.3}}


def make(seed=7, **data):
    return deal(Data(**data), seed, Path())


def rows_of(federation, client):
    return np.concatenate([getattr(federation, part).x[getattr(federation, part).rows(client)] for part in ("train", "validation", "test")])


def test_digits_keep_every_image_once():
    federation = make(**DIGITS, validation_fraction=0.1)
    x = np.concatenate([federation.train.x, federation.validation.x, federation.test.x])
    expected = (load_digits().data / 16).astype(np.float32)
    assert np.array_equal(x[np.lexsort(x.T)], expected[np.lexsort(expected.T)])
    assert x.dtype == np.float32
    assert federation.train.y.dtype == np.int64
    assert federation.uplink_bytes.sum() == federation.downlink_bytes.sum() == 0
    assert describe(federation)["clients"] == 20


def test_a_seed_fixes_the_federation():
    one, again, other = make(**DIGITS), make(**DIGITS), make(seed=8, **DIGITS)
    assert np.array_equal(one.train.x, again.train.x)
    assert not np.array_equal(one.train.x, other.train.x)


def test_no_test_fraction_gives_empty_test_shards():
    federation = make(**DIGITS, test_fraction=0)
    assert federation.test.x.shape == (0, 64)
    assert federation.test.counts.tolist() == [0] * 20
    assert len(federation.train.x) == 1797


@pytest.mark.parametrize(("kind", "shape", "outputs"), [("breast_cancer", 30, 2), ("wine", 13, 3), ("diabetes", 10, 1)])
def test_bundled_tables_are_standardised_by_the_clients(kind, shape, outputs):
    federation = make(source={"kind": kind}, clients=10, partition={"kind": "iid"})
    numbers = shape + (kind == "diabetes")
    assert (federation.shape, federation.outputs) == ((shape,), outputs)
    np.testing.assert_allclose(federation.train.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(federation.train.x.std(axis=0), 1, atol=1e-5)
    assert set(federation.uplink_bytes.tolist()) == {4 + 8 * numbers}
    assert set(federation.downlink_bytes.tolist()) == {8 * numbers}
    if kind == "diabetes":
        assert federation.label_scale == pytest.approx(77, abs=5)  # the disease score's standard deviation


OWN_CLASSES = {"kind": "blobs", "shape": [8], "classes": 3, "alpha": 0.3}


@pytest.mark.parametrize("source", [{"kind": "blobs", "shape": [8], "classes": 3}, OWN_CLASSES, {"kind": "shifted_regression"}])
@pytest.mark.parametrize("size", [30, {"lognormal": {"mean": 3, "sigma": 1, "minimum": 5, "maximum": 100}}])
def test_a_made_client_does_not_depend_on_how_many_there_are(source, size):
    few, many = (make(source={**source, "samples_per_client": size}, clients=clients, validation_fraction=0.2) for clients in (5, 40))
    for client in range(5):
        assert np.array_equal(rows_of(few, client), rows_of(many, client))
    assert not np.array_equal(rows_of(many, 0)[:5], rows_of(many, 1)[:5])


def test_lognormal_sizes_have_the_law_and_the_range():
    sizes = make(
        source={
            "kind": "blobs",
            "shape": [1],
            "samples_per_client": {"lognormal": {"mean": 4, "sigma": 1, "minimum": 1, "maximum": 100000}},
        },
        clients=4000,
        test_fraction=0,
    ).train.counts
    assert np.log(sizes + 0.5).mean() == pytest.approx(4, abs=0.06)
    assert np.log(sizes + 0.5).std() == pytest.approx(1, abs=0.04)
    cut = make(source={"kind": "blobs", "shape": [1], "samples_per_client": {"lognormal": {}}}, clients=500, test_fraction=0).train.counts
    assert (cut.min(), cut.max()) == (20, 500)


def test_blobs_lie_as_far_apart_as_they_say():
    data = make(source={"kind": "blobs", "shape": [2, 200], "classes": 5, "samples_per_client": 400}, clients=10, test_fraction=0).train
    means = np.stack([data.x[data.y == c].reshape(-1, 400).mean(axis=0) for c in range(5)])
    distances = [np.linalg.norm(means[a] - means[b]) for a in range(5) for b in range(a)]
    assert np.sqrt(np.mean(np.square(distances))) == pytest.approx(7.0, abs=0.4)
    residual = data.x.reshape(-1, 400) - means[data.y]
    assert residual.std() == pytest.approx(1.0, abs=0.01)
    assert data.x.shape == (4000, 2, 200)


@pytest.mark.parametrize("alpha", [0.2, 5.0])
def test_classes_of_each_clients_own_are_mixed_as_dirichlet_says(alpha: float) -> None:
    data = make(source={**OWN_CLASSES, "alpha": alpha, "samples_per_client": 200}, clients=400, test_fraction=0).train
    shares = np.stack([np.bincount(data.y[data.rows(client)], minlength=3) / 200 for client in range(400)])
    assert shares.mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=4 * np.sqrt(2 / 9 / (3 * alpha + 1) / 400))
    variance = 2 / 9 / (3 * alpha + 1)  # of a symmetric Dirichlet law of three; the multinomial draw of 200 rows adds its own
    assert shares.var(axis=0).mean() == pytest.approx(variance + (2 / 9 - variance) / 200, rel=0.15)


def test_shifted_regression_starts_in_the_tens_and_is_linear():
    federation = make(source={"kind": "shifted_regression"}, clients=50)
    x, y = federation.train.x, federation.train.y
    assert np.mean(y**2) == pytest.approx(20, rel=0.5)  # features (1 + shift^2)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert residual.std() == pytest.approx(0.1, abs=0.01)
    assert np.std([rows_of(federation, client).mean() for client in range(50)]) > 0.2
    assert (federation.label_scale, y.shape[1]) == (1.0, 1)


def test_leaf_synthetic_is_the_published_draw():
    federation = make(seed=0, source={"kind": "leaf_synthetic", "alpha": 0.0, "beta": 0.0}, test_fraction=0)
    assert (federation.clients, len(federation.train.x), federation.shape) == (30, 22_349, (60,))
    # the first device, drawn by the authors' script line by line
    draw = np.random.RandomState(0)
    counts = draw.lognormal(4, 2, 30).astype(int) + 50
    draw.normal(0, 0.0, 30)
    draw.normal(0, 0.0, 30)
    centres = [draw.normal(0.0, 1, 60) for _ in range(30)]
    weights, bias = draw.normal(0, 1, (60, 10)), draw.normal(0, 1, 10)
    rows = draw.multivariate_normal(centres[0], np.diag([(j + 1) ** -1.2 for j in range(60)]), counts[0])
    assert np.array_equal(rows_of(federation, 0), rows.astype(np.float32))
    assert federation.train.y[: counts[0]].tolist() == [int(np.argmax(row @ weights + bias)) for row in rows]


def test_leaf_synthetic_iid_has_one_model():
    federation = make(seed=0, source={"kind": "leaf_synthetic", "iid": True}, test_fraction=0)
    means = [rows_of(federation, client).mean(axis=0) for client in range(30)]
    assert np.abs(np.mean(means, axis=0)).max() < 0.1
    spread = make(seed=0, source={"kind": "leaf_synthetic"}, test_fraction=0)
    assert np.std([rows_of(spread, client).mean() for client in range(30)]) > 0.5
    assert make(source={"kind": "leaf_synthetic"}, clients=7).clients == 7


def test_leaf_synthetic_of_pfedme_has_five_times_the_rows():
    source = {"kind": "leaf_synthetic", "alpha": 0.5, "beta": 0.5}
    one, five = (make(seed=0, source={**source, **more}, clients=100, test_fraction=0) for more in ({}, {"times": 5}))
    assert len(five.train.x) == 205_795
    assert np.array_equal(five.train.counts, 5 * one.train.counts)
    assert np.array_equal(rows_of(five, 0)[: one.train.counts[0]], rows_of(one, 0))  # the same device


@pytest.mark.parametrize("image", [False, True])
def test_rotate_turns_a_group_by_quarter_turns(image):
    data = {**DIGITS, "source": {"kind": "digits", "image": image}}
    plain, turned = make(**data), make(**data, transforms=[{"kind": "rotate", "groups": 4}])
    assert np.array_equal(turned.group, np.arange(20) % 4)
    for client in range(20):
        before, after = (rows_of(federation, client).reshape(-1, 8, 8) for federation in (plain, turned))
        assert np.array_equal(after, np.stack([np.rot90(image, client % 4) for image in before]))


def test_affine_moves_groups_and_keeps_distances():
    plain, moved = make(**DIGITS), make(**DIGITS, transforms=[{"kind": "affine", "groups": 3}])
    assert np.array_equal(rows_of(plain, 3), rows_of(moved, 3))  # group 0
    for client in (1, 2):
        before, after = rows_of(plain, client), rows_of(moved, client)
        assert not np.allclose(before, after)
        np.testing.assert_allclose(
            np.linalg.norm(before[1:] - before[:-1], axis=1), np.linalg.norm(after[1:] - after[:-1], axis=1), rtol=1e-5
        )


def test_permute_labels_renames_classes_group_by_group():
    plain, renamed = make(**DIGITS), make(**DIGITS, transforms=[{"kind": "permute_labels", "groups": 3}])
    names = []
    for group in range(3):
        rows = np.isin(np.repeat(np.arange(20), plain.train.counts) % 3, [group])
        pairs = {(int(a), int(b)) for a, b in zip(plain.train.y[rows], renamed.train.y[rows], strict=True)}
        assert len(pairs) == 10  # each class has one new name
        names.append(tuple(b for _, b in sorted(pairs)))
    assert names[0] == tuple(range(10))
    assert len(set(names)) == 3


def test_groups_of_several_transforms_combine():
    federation = make(**DIGITS, transforms=[{"kind": "rotate", "groups": 2}, {"kind": "permute_labels", "groups": 3}])
    assert np.array_equal(federation.group, np.arange(20) % 6)
    two = make(source={"kind": "wine"}, clients=6, partition={"kind": "iid"}, transforms=[{"kind": "permute_labels", "groups": 6}])
    assert len(np.unique(two.group)) == 6


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({"source": {"kind": "digits"}, "clients": 10}, ("data", "partition"), "no clients of their own"),
        ({"source": {"kind": "digits"}, "partition": {"kind": "iid"}}, ("data", "clients"), "how many clients"),
        ({"source": {"kind": "blobs"}}, ("data", "clients"), "how many clients"),
        ({"source": {"kind": "shifted_regression"}}, ("data", "clients"), "how many clients"),
        ({**DIGITS, "clients": 1000}, ("data", "clients"), "there are 1,797"),
        ({**DIGITS, "partition": {"kind": "shards", "classes_per_client": 11}}, ("data", "partition", "classes_per_client"), "10 classes"),
        (
            {"source": {"kind": "wine"}, "clients": 80, "partition": {"kind": "shards", "classes_per_client": 3}},
            ("data", "partition", "classes_per_client"),
            "need 240 rows",
        ),
        (
            {"source": {"kind": "diabetes"}, "clients": 5, "partition": {"kind": "dirichlet", "alpha": 1}},
            ("data", "partition", "kind"),
            "class",
        ),
        (
            {"source": {"kind": "blobs", "shape": [100000], "samples_per_client": 1000000}, "clients": 1000},
            ("data", "source", "samples_per_client"),
            "GiB",
        ),
        (
            {"source": {"kind": "wine"}, "clients": 5, "partition": {"kind": "iid"}, "transforms": [{"kind": "rotate"}]},
            ("data", "transforms", 0, "kind"),
            "square",
        ),
        (
            {"source": {"kind": "shifted_regression"}, "clients": 5, "transforms": [{"kind": "permute_labels"}]},
            ("data", "transforms", 0, "kind"),
            "no classes",
        ),
        (
            {
                "source": {"kind": "wine"},
                "clients": 9,
                "partition": {"kind": "iid"},
                "transforms": [{"kind": "permute_labels", "groups": 7}],
            },
            ("data", "transforms", 0, "groups"),
            "only 6 permutations",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused(data, field, message):
    with pytest.raises(SpecError, match=message) as error:
        make(**data)
    assert error.value.field == field


@pytest.mark.parametrize(
    "data",
    [
        {"source": {"kind": "digit"}},
        {"source": {"kind": "digits", "images": True}},
        {**DIGITS, "clients": True},
        {**DIGITS, "clients": 2.0},
        {**DIGITS, "clients": 0},
        {**DIGITS, "test_fraction": 1.0},
        {**DIGITS, "test_fraction": float("nan")},
        {**DIGITS, "test_fraction": 0.6, "validation_fraction": 0.4},
        {**DIGITS, "partition": {"kind": "dirichlet", "alpha": 0}},
        {**DIGITS, "partition": {"kind": "dirichlet"}},
        {**DIGITS, "transforms": [{"kind": "rotate", "groups": 5}]},
        {**DIGITS, "transforms": {"kind": "rotate"}},
        {"source": {"kind": "blobs", "shape": [28.0]}},
        {"source": {"kind": "blobs", "samples_per_client": {"lognormal": {"minimum": 9, "maximum": 8}}}},
    ],
)
def test_what_yaml_may_not_say(data):
    with pytest.raises(ValidationError):
        Data(**data)


def test_settings_survive_being_written_and_read():
    data = Data(**DIGITS, transforms=[{"kind": "rotate"}])
    assert Data(**data.model_dump(mode="json")) == data
    assert Data.model_json_schema()["properties"]["source"]


def test_fedem_draws_sizes_weights_and_components_as_published():
    clients, dims = 300, 150
    federation = make(seed=12345, source={"kind": "fedem"}, test_fraction=0)
    assert (federation.clients, len(federation.train.x), federation.shape, federation.outputs) == (clients, 67_758, (dims,), 2)
    draw = np.random.RandomState(12345)  # the order of the authors' script
    sizes = [min(int(size) + 50, 1000) for size in draw.lognormal(4, 2, clients)]
    weights = np.array([draw.dirichlet([0.4, 0.4, 0.4]) for _ in range(clients)])
    theta = draw.uniform(-1, 1, size=(3, dims))
    assert federation.train.counts.tolist() == sizes
    assert np.array_equal(federation.group, weights.argmax(axis=1))

    x, y = federation.train.x.astype(np.float64), federation.train.y
    assert np.abs(x).max() <= 1
    assert x.std() == pytest.approx(1 / np.sqrt(3), abs=2e-3)
    assert abs(x.mean()) < 1e-3
    # a client's rows agree with a component as often as that labelled them, and by chance otherwise
    agree = np.array([np.mean((x[rows] @ theta.T > 0) == y[rows, None], axis=0) for rows in map(federation.train.rows, range(clients))])
    alike = np.mean((x @ theta.T > 0)[:, :, None] == (x @ theta.T > 0)[:, None], axis=0)
    np.testing.assert_allclose(np.average(agree - weights @ alike, axis=0, weights=sizes), 0, atol=0.015)
    alone = weights.max(axis=1) > 0.99
    assert alone.sum() > 10
    assert (agree[alone, federation.group[alone]] > 0.9).all()  # noise of .1 in a logit of standard deviation 4 turns few labels


def test_fedem_obeys_its_settings():
    still = make(source={"kind": "fedem", "noise": 0.0, "components": 1, "dimensions": 5}, clients=20, test_fraction=0)
    draw = np.random.RandomState(7)
    draw.lognormal(4, 2, 20)
    for _ in range(20):
        draw.dirichlet([0.4])
    theta = draw.uniform(-1, 1, 5)
    logit = still.train.x.astype(np.float64) @ theta
    sure = np.abs(logit) > 1e-6
    assert np.array_equal((logit > 0)[sure], still.train.y[sure])
    assert still.group.tolist() == [0] * 20
    loud = make(source={"kind": "fedem", "noise": 1e6, "components": 1, "dimensions": 5}, clients=20, test_fraction=0)
    assert np.mean((loud.train.x @ theta > 0) == loud.train.y) == pytest.approx(0.5, abs=0.03)
    even = make(source={"kind": "fedem", "alpha": 1e4, "components": 4}, test_fraction=0)
    assert set(even.group.tolist()) == {0, 1, 2, 3}
    with pytest.raises(SpecError, match=r"2\*\*32"):
        make(seed=2**32, source={"kind": "fedem"})
