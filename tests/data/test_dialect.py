"""Text tables as people have them: delimiter, decimal mark and encoding, recognised or said, read alike in training and in prediction."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import deal
from scarcity_ray.data.dialect import Dialect, recognised
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.plan_in_words import plan_in_words
from scarcity_ray.scenario import parse
from scarcity_ray.serving.predict import predict

MARKS = ((",", "."), (";", ","), (";", "."), ("\t", ","), ("|", "."))
DIALECTS = [Dialect(*marks, encoding) for marks in MARKS for encoding in ("utf-8", "utf-16", "cp1252")]


def wards() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    names = ["Köln", "Genève", "Nice; Sud", "Paris | Est", 'St. "Anna"']
    frame = pd.DataFrame({"ward": np.repeat(names, 30), "note": ["two\nlines", "a, b"] * 75, "dose": draw.normal(2, 1, 150).round(3)})
    return frame.assign(days=(2 * frame["dose"] + draw.normal(0, 0.1, 150)).round(3))


def written(path: Path, dialect: Dialect) -> Path:
    text = wards().to_csv(index=False, sep=dialect.delimiter, decimal=dialect.decimal)
    path.write_bytes(text.encode(dialect.encoding))
    return path


def content(path: Path, **source: Any) -> dict[str, Any]:
    table = {"kind": "table", "path": str(path), "label": "days", "client": "ward", **source}
    return scenario(rounds=1, data={"source": table}, model={"kind": "linear"})


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_it_is_recognised_and_read_as_the_usual_one(dialect: Dialect, tmp_path: Path) -> None:
    usual, other = written(tmp_path / "usual.csv", Dialect()), written(tmp_path / "other.csv", dialect)
    assert recognised(other) == dialect
    one, two = (deal(parse(content(path)).data, 0, tmp_path) for path in (usual, other))
    assert np.array_equal(one.train.x, two.train.x)
    assert np.array_equal(one.train.y, two.train.y)
    assert one.names == two.names
    told = dict(plan_in_words(prepare(parse(content(other)), tmp_path))).get("table")
    assert told == (None if dialect.usual else str(dialect))


@pytest.mark.parametrize(("raw", "wanted"), [
    (b"\xef\xbb\xbfa;b\n1,5;2\n", Dialect(";", ",", "utf-8")),
    ("a;b\n1,5;2\n".encode("utf-16-le"), Dialect(";", ",", "utf-16-le")),
    (gzip.compress("a|b\nä|2\n".encode("cp1252")), Dialect("|", ".", "cp1252")),
    (b"a;b\n1,5;2.5\n", Dialect(";", ".", "utf-8")),  # both marks: a comma may also part thousands
    (b"only\n1\n2\n", Dialect()),
    (b"", Dialect()),
], ids=["mark", "zeros", "gzip", "both", "one column", "empty"])  # fmt: skip
def test_marks_zeros_gzip_and_files_of_one_column(raw: bytes, wanted: Dialect, tmp_path: Path) -> None:
    path = tmp_path / ("table.csv.gz" if raw[:2] == b"\x1f\x8b" else "table.csv")
    path.write_bytes(raw)
    assert recognised(path) == wanted


def test_what_is_said_is_taken_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "table.csv", Dialect(";", ",", "cp1252"))
    said = {"delimiter": ";", "decimal": ",", "encoding": "cp1252"}
    one, two = (deal(parse(content(path, **options)).data, 0, tmp_path) for options in ({}, said))
    assert np.array_equal(one.train.x, two.train.x)
    with pytest.raises(SpecError, match="cannot be read as utf-8"):
        deal(parse(content(path, encoding="utf-8")).data, 0, tmp_path)


def test_a_model_predicts_for_a_table_of_another_dialect(tmp_path: Path) -> None:
    german, usual = written(tmp_path / "german.csv", Dialect(";", ",", "cp1252")), written(tmp_path / "usual.csv", Dialect())
    run = simulate(content(german), out=tmp_path / "run")
    one, two = (predict(run, path, model="fed_avg") for path in (german, usual))
    assert one.equals(two)
