"""Splits by a column, small clients that are left out, and some of the data's own clients."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal
from scarcity_ray.data.split import TEST, TRAIN, VALIDATION, split_groups, split_sizes

TABLE = {"kind": "table", "path": "table.parquet", "label": "ill", "client": "ward", "features": ["row"]}
SIZES = (40, 3, 25, 60, 1, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows in random order: `row` numbers them, patients are of one ward each but the guest, days rise with `row`."""
    folder, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(3)
    ward = np.repeat([f"w{m}" for m in range(len(SIZES))], SIZES)
    row = np.arange(len(ward))
    frame = pd.DataFrame({"ward": ward, "row": row * 1.0, "patient": [f"{one}/{place // 4}" for place, one in enumerate(ward)]})
    frame["ill"] = np.where(rng.random(len(ward)) < 0.5, "yes", "no")
    frame["number"] = pd.factorize(frame["patient"])[0] + 10**15
    frame["day"] = [date(2024, 1, 1) + timedelta(int(place) // 3) for place in row]
    frame = frame.sample(frac=1, random_state=1)
    frame.to_parquet(folder / "table.parquet")
    frame.to_csv(folder / "table.csv", index=False)
    frame.assign(
        patient=["guest" if place % 10 == 0 else one for place, one in zip(frame["row"], frame["patient"], strict=True)]
    ).to_parquet(folder / "guest.parquet")
    return folder


def made(folder, seed=1, first_seed=None, source=TABLE, **data):
    return deal(Data.model_validate({"source": source, **data}), seed, folder, first_seed=first_seed)


def rows(federation, part):
    """The numbers of a part's rows, by client's name."""
    shards, how = getattr(federation, part), federation.encoding.inputs[0]
    number = np.rint(shards.x[:, 0] * how.std + how.mean).astype(int)
    return {name: sorted(number[shards.rows(m)].tolist()) for m, name in enumerate(federation.names)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=25), min_size=1, max_size=6),
    st.sampled_from([(0.0, 0.0), (0.3, 0.2), (0.5, 0.0), (0.1, 0.8)]),
    st.sampled_from([None, 5]),
)
def test_groups_stay_together_and_sizes_are_the_nearest_in_the_order_drawn(clients, fractions, seed):
    counts, ids = np.array([len(one) for one in clients]), np.arange(len(clients))[::-1] * 7
    part = split_groups(counts, ids, np.concatenate(clients).astype(float), *fractions, seed)
    for m, (values, found) in enumerate(zip(clients, np.split(part, np.cumsum(counts)[:-1]), strict=True)):
        own = np.unique(values)
        order = own[::-1] if seed is None else own[np.argsort(hash64(seed, "split", ids[m], np.arange(len(own))), kind="stable")]
        sums = np.cumsum([0, *(np.sum(np.array(values) == value) for value in order)])[:-1]  # one value is left for training
        tests, validations = (int(size[0]) for size in split_sizes(counts[m : m + 1], *fractions))
        tested = min(range(len(sums)), key=lambda k: (abs(sums[k] - tests), -k))
        validated = min(range(tested, len(sums)), key=lambda k: (abs(sums[k] - sums[tested] - validations), -k))
        expected = dict(zip(order.tolist(), [TEST] * tested + [VALIDATION] * (validated - tested) + [TRAIN] * len(own), strict=False))
        assert found.tolist() == [expected[value] for value in values]
        alone = split_groups(counts[m : m + 1], ids[m : m + 1], np.array(values, dtype=float), *fractions, seed)
        assert alone.tolist() == found.tolist()


@pytest.mark.parametrize(("column", "path"), [("patient", "table.parquet"), ("number", "table.csv")])
def test_a_patient_is_on_one_side_and_another_seed_draws_others(folder, column, path):
    data = {"source": {**TABLE, "path": path}, "split": {"by": column}, "test_fraction": 0.4, "validation_fraction": 0.2}
    federation = made(folder, **data)
    patients = [
        {(name, row // 4) for name, numbers in rows(federation, part).items() for row in numbers}
        for part in ("train", "validation", "test")
    ]
    assert sum(len(one) for one in patients) == len(set().union(*patients))
    for name, size in zip(federation.names, SIZES, strict=True):
        assert abs(len(rows(federation, "test")[name]) - 0.4 * size) <= 2.5
    assert rows(made(folder, seed=2, **data), "test") != rows(federation, "test")
    assert rows(made(folder, **data), "test") == rows(federation, "test")
    assert federation.notes[-1] == f"1 of 6 clients have no test rows, as all their rows have one value of {column}"
    assert federation.shape == (1,)  # the column is no feature


def test_the_split_does_not_depend_on_how_the_column_is_stored(folder):
    by = {"split": {"by": "number"}, "test_fraction": 0.4}
    stored = [rows(made(folder, source={**TABLE, "path": path}, **by), "test") for path in ("table.parquet", "table.csv")]
    assert stored[0] == stored[1]


@pytest.mark.parametrize(("column", "path"), [("row", "table.parquet"), ("day", "table.parquet"), ("day", "table.csv")])
def test_a_client_trains_on_early_rows_and_every_seed_tests_the_same_late_ones(folder, column, path):
    data = {"source": {**TABLE, "path": path}, "split": {"time": column}, "test_fraction": 0.4, "validation_fraction": 0.2}
    federation = made(folder, **data)
    parts = [rows(federation, part) for part in ("train", "validation", "test")]
    days = 3 if column == "day" else 1
    for name, size in zip(federation.names, SIZES, strict=True):
        early, middle, late = ([row // days for row in part[name]] for part in parts)
        assert max(early) < min(middle, default=10**9)
        assert max(early + middle) < min(late, default=10**9)
        assert abs(len(late) - 0.4 * size) <= max(1, days / 2 + 0.5)
    assert rows(made(folder, seed=2, **data), "test") == parts[2]
    assert Data.model_validate(data).repeats == "trainings"
    assert Data.model_validate({**data, "held_out_clients": 0.3}).repeats == "deals"


def test_dealt_rows_may_be_split_by_time_but_not_by_patient(folder):
    dealt = {"source": {**TABLE, "client": None}, "clients": 4, "partition": {"kind": "iid"}}
    assert made(folder, split={"time": "day"}, **dealt).clients == 4
    with pytest.raises(SpecError, match="dealt one by one part those of a value") as error:
        made(folder, split={"by": "patient"}, **dealt)
    assert error.value.field == ("data", "split", "by")


def test_a_patient_of_several_clients_is_told(folder):
    notes = made(folder, source={**TABLE, "path": "guest.parquet"}, split={"by": "patient"}).notes
    values = pd.read_parquet(folder / "guest.parquet")["patient"].nunique()
    assert f"1 of {values} values of patient occur with several clients" in notes[-1]


@pytest.mark.parametrize(
    ("data", "field", "match"),
    [
        ({"split": {"time": "patient"}}, ("data", "split", "time"), "the column is text: times are numbers or dates"),
        ({"split": {"by": "patent"}}, ("data", "split", "by"), "did you mean patient"),
        ({"split": {"by": "ward"}}, ("data", "split", "by"), "the label or the client"),
        ({"split": {"by": "x"}, "source": {"kind": "blobs", "shape": [2]}, "clients": 3}, ("data", "split", "by"), "blobs has none"),
        ({"participants": 7}, ("data", "participants"), "there are 6 clients to take from"),
        ({"participants": 3, "source": {"kind": "blobs", "shape": [2]}, "clients": 5}, ("data", "participants"), "set that"),
        ({"participants": 3, "partition": {"kind": "iid"}, "clients": 5}, ("data", "participants"), "set that"),
        ({"clients": 3}, ("data", "clients"), "take some of them by `participants`"),
        ({"partition": {"kind": "natural", "minimum": 5}}, ("data", "partition", "minimum"), "`below: drop` leaves them out"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(folder, data, field, match):
    with pytest.raises(SpecError, match=match) as error:
        made(folder, **data)
    assert error.value.field == field
    with pytest.raises(ValidationError, match="name one column"):
        Data.model_validate({"source": TABLE, "split": {}})


def test_small_clients_are_left_out_by_name_and_the_others_keep_their_rows(folder):
    whole, few = made(folder), made(folder, partition={"kind": "natural", "minimum": 5, "below": "drop"})
    assert few.names == ("w0", "w2", "w3", "w5")
    assert few.notes[-1] == "2 of 6 clients hold fewer than 5 rows and are left out: w1, w4"
    assert rows(few, "test") == {name: numbers for name, numbers in rows(whole, "test").items() if name in few.names}


def test_participants_are_nested_and_the_same_for_all_seeds_of_a_run(folder):
    whole, drawn = made(folder), [made(folder, participants=count) for count in range(2, 7)]
    for fewer, more in pairwise(drawn):
        assert set(fewer.names) < set(more.names)
    assert rows(drawn[1], "test") == {name: numbers for name, numbers in rows(whole, "test").items() if name in drawn[1].names}
    assert made(folder, seed=2, first_seed=1, participants=3).names == drawn[1].names
    assert len({made(folder, seed=seed, participants=3).names for seed in range(9)}) > 3
    assert Data.model_validate({"source": TABLE, "participants": 3}).repeats == "splits"
    left = made(folder, participants=5, held_out_clients=0.2, partition={"kind": "natural", "minimum": 2, "below": "drop"})
    assert (left.clients, len(left.unseen_group)) == (4, 1)
    assert "w4" not in left.names
