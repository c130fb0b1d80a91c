"""Tables as people have them: missing values, yes and no, dates, row numbers; in training, and the same in prediction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from scarcity_ray.core.federation import Encoding, Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import Data, deal
from scarcity_ray.data.encoding import encode
from scarcity_ray.data.reader import days_of_text, truth
from scarcity_ray.data.standardise import merge, upload
from scarcity_ray.data.table import TableError

ROWS = 120


def hospitals(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    admitted = pd.Timestamp("2019-03-01") + pd.to_timedelta(draw.permutation(ROWS) % 90, unit="D")
    frame = pd.DataFrame(
        {
            "clinic": [f"c{place % 6}" for place in range(ROWS)],
            "age": draw.normal(60, 9, ROWS).round(1),
            "bmi": draw.normal(25, 3, ROWS).round(1),
            "ward": draw.choice(["A", "B", "C"], ROWS),
            "smoker": draw.choice(["yes", "No"], ROWS),
            "admitted": admitted.strftime("%Y-%m-%d"),
            "left": (admitted + pd.to_timedelta(3, unit="D")).strftime("%d.%m.%Y"),
            "died": draw.choice(["yes", "no"], ROWS),
        }
    )
    frame.loc[[3, 8, 50], "bmi"] = np.nan
    frame.loc[[8, 9], "ward"] = None
    frame.loc[[20], "smoker"] = None
    frame.loc[[21, 22], "left"] = None
    return frame


def dealt(tmp_path: Any, frame: pd.DataFrame | None = None, data: dict[str, Any] | None = None, **source: Any) -> Federation:
    if frame is not None:
        frame.to_csv(tmp_path / "rows.csv", sep=";", decimal=",", encoding="cp1252")  # with pandas' row numbers, as people write it
    source = {"kind": "table", "path": "rows.csv", "label": "died", "client": "clinic", "missing": "indicator", **source}
    return deal(Data(source=source, **(data or {})), 3, tmp_path)


def kept(encoding: Encoding) -> Encoding:
    return Encoding.model_validate_json(encoding.model_dump_json())


def test_numbers_get_the_mean_and_an_indicator_as_in_scikit_learn(tmp_path: Any) -> None:
    frame = hospitals()
    federation = dealt(tmp_path, frame, features=["age", "bmi"])
    read = encode(pa.Table.from_pandas(frame), kept(federation.encoding))
    train = np.array([bytes(row) in set(map(bytes, federation.train.x)) for row in read.x])
    values = SimpleImputer(add_indicator=True).fit(frame[["age", "bmi"]][train]).transform(frame[["age", "bmi"]])
    scaler = StandardScaler().fit(frame[["age", "bmi"]][train])  # it ignores NaN, as the clients do
    expected = np.column_stack([(values[:, :2] - scaler.mean_) / scaler.scale_, values[:, 2]])
    assert train.sum() >= len(federation.train.x)
    np.testing.assert_allclose(read.x, expected, atol=1e-5)
    assert [type(one).__name__ for one in federation.encoding.inputs] == ["Number", "Number", "Missing"]


def test_words_dates_and_yes_have_inputs_that_say_where_they_are_missing(tmp_path: Any) -> None:
    frame = hospitals()
    federation = dealt(tmp_path, frame)
    encoding = kept(federation.encoding)
    assert [(type(one).__name__, one.name) for one in encoding.inputs] == [
        ("Number", "age"),
        ("Number", "bmi"),
        ("Missing", "bmi"),
        ("WordsOrNone", "ward"),
        ("YesNo", "smoker"),
        ("Missing", "smoker"),
        ("Date", "admitted"),
        ("Date", "left"),
        ("Missing", "left"),
    ]
    assert encoding.inputs[3].words == ("A", "B", "C", "(no value)")
    assert (encoding.inputs[6].since, encoding.inputs[7].since) == ("2019-03-01", "2019-03-04")
    read = encode(pa.Table.from_pandas(frame), encoding)
    x, how = read.x, encoding.inputs
    assert np.flatnonzero(x[:, 6]).tolist() == [8, 9]
    smoker = x[:, 7] * how[4].std + how[4].mean
    np.testing.assert_allclose(smoker[frame["smoker"].notna()], (frame["smoker"].dropna() == "yes").astype(float), atol=1e-6)
    days = (pd.to_datetime(frame["admitted"]) - pd.Timestamp("2019-03-01")).dt.days
    np.testing.assert_allclose(x[:, 9] * how[6].std + how[6].mean, days, atol=1e-4)
    np.testing.assert_allclose(x[[21, 22], 10], 0.0)
    assert encoding.classes == ("no", "yes")  # the label's words stay those of the user
    assert sorted(read.notes) == [
        "bmi: 3 of 120 rows lack a value",
        "left: 2 of 120 rows lack a value",
        "smoker: 1 of 120 rows lack a value",
        "ward: 2 of 120 rows lack a value",
    ]


def test_what_was_done_is_said(tmp_path: Any) -> None:
    frame = hospitals()
    frame.loc[[0, 1], "died"] = None
    frame.loc[frame["clinic"] == "c4", "died"] = None
    notes = " | ".join(dealt(tmp_path, frame).notes)
    for words in (
        "the column without a name numbers the rows, and is no feature",
        "22 of 120 rows lack a value and are left out: died 22",
        "rows without a value are kept, with an input that says so: bmi 3, ward 2, smoker 1, left 1",
        "smoker: yes is 1, no is 0",
        "admitted: dates, as days since the first, 2019-03-01",
        "c4 has no rows left, and no part in the run",
    ):
        assert words in notes
    dropped = dealt(tmp_path, missing="drop")
    assert "28 of 120 rows lack a value and are left out: died 22, bmi 3, ward 2, smoker 1, left 2" in dropped.notes[1]
    assert dropped.clients == 5
    with pytest.raises(SpecError, match=r"bmi 3, .*; `missing: drop` leaves out those 28 rows of 120, and `missing: indicator` keeps"):
        dealt(tmp_path, missing="refuse")


def test_new_rows_may_lack_what_training_rows_had_and_have_new_words(tmp_path: Any) -> None:
    whole = hospitals().dropna()
    encoding = kept(dealt(tmp_path, whole).encoding)
    assert {type(one).__name__ for one in encoding.inputs} == {"Number", "Words", "YesNo", "Date"}
    new = whole.head(4).astype(object).assign(age=[None, 1.0, 2.0, 3.0], ward=["A", "Z", None, "B"], smoker=["TRUE", "y", None, "no"])
    read = encode(pa.Table.from_pandas(new), encoding)
    assert read.notes == (
        "age: 1 of 4 rows lack a value",
        "ward: 1 of 4 rows have a word that the training rows did not have",
        "ward: 1 of 4 rows lack a value",
        "smoker: 1 of 4 rows lack a value",
    )
    np.testing.assert_array_equal(read.x[:, 2:5], [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert read.x[0, 0] == 0
    for change, words in (({"smoker": "perhaps"}, "'perhaps' in row 1 is not yes or no"), ({"left": "soon"}, "the column holds no dates")):
        with pytest.raises(TableError, match=words):
            encode(pa.Table.from_pandas(whole.head(2).assign(**change)), encoding)


def test_what_is_asked_of_nobody_costs_nothing(tmp_path: Any) -> None:
    whole = hospitals().dropna()
    refused, asked = (dealt(tmp_path, whole, missing=missing, features=["age", "bmi", "ward"]) for missing in ("refuse", "indicator"))
    assert refused.encoding == asked.encoding
    np.testing.assert_array_equal(refused.train.x, asked.train.x)
    assert (asked.uplink_bytes - refused.uplink_bytes).tolist() == [2 * 4] * 6  # how many values each of two columns has
    assert (asked.downlink_bytes - refused.downlink_bytes).tolist() == [2] * 6


@settings(max_examples=30)
@given(st.lists(st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=1, max_size=6), min_size=1, max_size=5))
def test_moments_of_what_is_there_are_those_of_the_pool(clients: list[list[float | None]]) -> None:
    column = np.array([value for rows in clients for value in rows], dtype=float)
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in clients])])
    scale = merge(upload([column], starts, gaps=True))[0]
    there = column[~np.isnan(column)]
    assert scale["mean"][0] == pytest.approx(there.mean() if len(there) else 0.0, abs=1e-3)
    if len(there) and there.std() > 1e-3 * max(1.0, abs(there.mean())):
        assert scale["std"][0] == pytest.approx(there.std(), rel=1e-3)


def test_words_that_are_numbers_in_disguise() -> None:
    assert truth(["Yes", " no "]) == [1.0, 0.0]
    assert truth(["y", "N"]) == [1.0, 0.0]
    assert truth(["yes"]) is truth(["yes", "no", "maybe"]) is truth(["yes", "n"]) is None
    days = days_of_text(pa.chunked_array([["1.1.1970", "02.01.1970", None]]))
    np.testing.assert_array_equal(days, [0.0, 1.0, np.nan])
    assert days_of_text(pa.chunked_array([["31.2.2020"]])) is None
    np.testing.assert_array_equal(days_of_text(pa.chunked_array([["1970-01-02 12:00", "1970-01-01 00:00"]])), [1.5, 0.0])


def test_a_word_of_the_table_is_never_that_of_no_value(tmp_path: Any) -> None:
    frame = hospitals().assign(ward=lambda table: table["ward"].replace("C", "(no value)"))
    words = dealt(tmp_path, frame, features=["ward"]).encoding.inputs[0].words
    assert words == ("(no value)", "A", "B", "((no value))")
    assert json.loads(dealt(tmp_path, features=["ward"]).encoding.model_dump_json())["inputs"][0]["kind"] == "text_or_none"
