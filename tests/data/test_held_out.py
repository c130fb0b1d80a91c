"""Clients that are held out: no row is lost or doubled, nothing the participants have depends on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal, describe
from scarcity_ray.data.held_out import participants, participants_first

DIGITS = {"source": {"kind": "digits"}, "clients": 20, "partition": {"kind": "dirichlet", "alpha": 0.3}, "validation_fraction": 0.1}
PARTS = ("train", "validation", "test")


def farms():
    """300 rows of 12 farms in 3 regions, whose soils and crops have three words each."""
    draw = np.random.default_rng(0)
    farm = draw.integers(0, 12, 300)
    return pd.DataFrame(
        {
            "farm": [f"f{m}" for m in farm],
            "region": [f"r{m % 3}" for m in farm],
            "rain": draw.normal(500.0, 80.0, 300),
            "soil": draw.choice(["clay", "loam", "sand"], 300),
            "crop": draw.choice(["a", "b", "c"], 300),
            "yield": draw.normal(5.0, 2.0, 300),
        }
    )


def deal_farms(tmp_path, frame, held_out=0.25, seed=3, **data):
    frame.to_parquet(tmp_path / "farms.parquet", index=False)
    source = {"kind": "table", "path": "farms.parquet", "label": "yield", "client": "farm", "group": "region", "features": ["rain", "soil"]}
    return deal(Data(source=source, held_out_clients=held_out, **data), seed, tmp_path)


def rows_of(shards, client):
    return shards.x[shards.rows(client)], shards.y[shards.rows(client)]


def same_rows(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("transforms", [[], [{"kind": "rotate", "groups": 3}, {"kind": "permute_labels", "groups": 2}]])
def test_everybody_keeps_the_rows_the_split_and_the_group_they_have_when_nobody_is_held_out(transforms):
    whole = deal(Data(**DIGITS, transforms=transforms), 7, Path())
    federation = deal(Data(**DIGITS, transforms=transforms, held_out_clients=0.25), 7, Path())
    ids = participants_first(np.arange(20), 15, 7)
    assert (federation.clients, len(federation.unseen_group)) == (15, 5)
    assert np.array_equal(np.concatenate([federation.group, federation.unseen_group]), whole.group[ids])
    for client, before in enumerate(ids[:15]):
        for part in PARTS:
            assert same_rows(rows_of(getattr(federation, part), client), rows_of(getattr(whole, part), before))
    for stranger, before in enumerate(ids[15:]):
        all_rows = np.concatenate([getattr(whole, part).x[getattr(whole, part).rows(before)] for part in PARTS])
        held = rows_of(federation.unseen, stranger)[0]
        assert np.array_equal(held[np.lexsort(held.T)], all_rows[np.lexsort(all_rows.T)])
    parts = [*(getattr(federation, part) for part in PARTS), federation.unseen]
    assert sum(len(part.x) for part in parts) == 1797
    assert all(part.starts[-1] == len(part.x) == len(part.y) for part in parts)
    assert len(federation.uplink_bytes) == len(federation.downlink_bytes) == 15
    said = describe(federation)
    assert (said["clients"], said["strangers"], said["stranger_rows"]) == (15, 5, len(federation.unseen.x))


def test_without_the_key_there_are_no_strangers():
    federation = deal(Data(**DIGITS), 7, Path())
    assert federation.unseen.x.shape == (0, 64)
    assert federation.unseen.starts.tolist() == [0]
    assert len(federation.unseen_group) == 0


def test_names_and_groups_go_with_the_clients_of_a_table(tmp_path):
    frame = farms()
    federation = deal_farms(tmp_path, frame)
    names = sorted(frame["farm"].unique())
    order = [names[m] for m in participants_first(np.arange(12), 9, 3)]
    assert federation.names == tuple(order[:9])
    assert federation.encoding.clients == federation.names
    assert [f"r{g}" for g in federation.group] == [f"r{int(name[1:]) % 3}" for name in order[:9]]
    assert [f"r{g}" for g in federation.unseen_group] == [f"r{int(name[1:]) % 3}" for name in order[9:]]
    for client, name in enumerate(federation.names):
        assert sum(getattr(federation, part).counts[client] for part in PARTS) == (frame["farm"] == name).sum()
    assert federation.unseen.counts.tolist() == [(frame["farm"] == name).sum() for name in order[9:]]


def test_participants_are_as_if_the_strangers_did_not_exist(tmp_path):
    frame = farms()
    federation = deal_farms(tmp_path, frame)
    theirs = ~frame["farm"].isin(federation.names)
    changed = frame.copy()
    changed.loc[theirs, "rain"] *= 1e6
    changed.loc[theirs, "yield"] -= 1e5
    changed.loc[theirs, "soil"] = "peat"  # a word no participant has
    other = deal_farms(tmp_path, changed)
    for part in PARTS:
        assert np.array_equal(getattr(federation, part).x, getattr(other, part).x)
        assert np.array_equal(getattr(federation, part).y, getattr(other, part).y)
    assert other.encoding == federation.encoding
    assert (other.label_scale, other.shape) == (federation.label_scale, federation.shape)
    assert np.array_equal(other.uplink_bytes, federation.uplink_bytes)
    assert np.array_equal(other.downlink_bytes, federation.downlink_bytes)
    assert federation.unseen.x[:, 1:].sum(axis=1).tolist() == [1.0] * int(theirs.sum())
    assert not other.unseen.x[:, 1:].any()


def test_strangers_are_standardised_by_the_participants_moments(tmp_path):
    frame = farms()
    federation = deal_farms(tmp_path, frame)
    training = frame[frame["farm"].isin(federation.names)]
    rain = federation.encoding.inputs[0]
    whole = deal_farms(tmp_path, training, held_out=0, test_fraction=0)
    assert federation.unseen.x.shape == (300 - len(training), 4)
    # with every row a training row, the moments are those of the participants' rows, by pandas
    assert whole.encoding.inputs[0].mean == pytest.approx(training["rain"].mean(), rel=1e-6)
    assert whole.encoding.inputs[0].std == pytest.approx(training["rain"].std(ddof=0), rel=1e-6)
    strangers = frame[~frame["farm"].isin(federation.names)]
    np.testing.assert_allclose(np.sort(federation.unseen.x[:, 0]), np.sort((strangers["rain"] - rain.mean) / rain.std), rtol=1e-5)
    expected = np.sort((strangers["yield"] - federation.encoding.label_mean) / federation.encoding.label_scale)
    np.testing.assert_allclose(np.sort(federation.unseen.y[:, 0]), expected, rtol=1e-5, atol=1e-6)


def test_dealt_out_clients_can_be_held_out_too(tmp_path):
    federation = deal_farms(tmp_path, farms(), held_out=0.5, clients=10, partition={"kind": "iid"})
    assert (federation.clients, len(federation.unseen_group), federation.names) == (5, 5, None)
    assert federation.train.counts.sum() + federation.test.counts.sum() + federation.unseen.counts.sum() == 300


@given(clients=st.integers(3, 2000), share=st.floats(1e-9, 0.99), seed=st.integers(0, 2**40))
def test_the_share_is_rounded_half_up_and_everybody_is_on_one_side(clients, share, seed):
    leaving = max(1, int(clients * share + 0.5 + 1e-9))
    if clients - leaving < 2:
        with pytest.raises(SpecError, match="at least 2") as error:
            participants(clients, share)
        assert error.value.field == ("data", "held_out_clients")
        return
    staying = participants(clients, share)
    assert staying == clients - leaving
    ids = participants_first(np.arange(clients), staying, seed)
    assert np.array_equal(np.sort(ids), np.arange(clients))
    assert (np.diff(ids[:staying]) > 0).all()
    assert (np.diff(ids[staying:]) > 0).all()


def test_who_is_held_out_hangs_on_the_seed_alone_and_more_hold_out_more():
    drawn = [set(participants_first(np.arange(200), 180, seed)[180:]) for seed in range(20)]
    assert len({frozenset(one) for one in drawn}) == 20
    assert len(set().union(*drawn)) > 150  # nobody is favoured: 20 draws of 20 of 200
    assert set(participants_first(np.arange(200), 180, 5)[180:]) < set(participants_first(np.arange(200), 150, 5)[150:])


@pytest.mark.parametrize(("clients", "share"), [(2, 0.1), (3, 0.5), (1, 0.1), (20, 0.95)])
def test_a_federation_of_one_is_refused(clients, share):
    with pytest.raises(SpecError, match=f"of {clients} clients") as error:
        deal(Data(source={"kind": "blobs", "shape": [2]}, clients=clients, held_out_clients=share), 0, Path())
    assert (error.value.field, error.value.value) == (("data", "held_out_clients"), share)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "0.1", True])
def test_what_is_no_share(share):
    with pytest.raises(ValidationError):
        Data(**DIGITS, held_out_clients=share)
