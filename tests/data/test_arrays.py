"""Arrays that a program hands over: the same as a table of the same numbers, kept as a digest or as a file, refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate, verify
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data import deal
from scarcity_ray.data.arrays import FILE, Held
from scarcity_ray.results.hashing import fingerprint
from scarcity_ray.runtime.simulation import Interrupted
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.serving import unlearn

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 4)) * [1, 10, 100, 1000]
Y = (X[:, 0] > 0).astype(int)
WHO = np.array(["north", "south", "east"])[np.arange(60) % 3]


def given(**source: Any) -> dict[str, Any]:
    return scenario(data={"source": {"kind": "arrays", **source}}, model={"kind": "linear"}, rounds=2)


def hashes(results: Results) -> dict[str, str]:
    return {name: entry["result_hash"] for name, entry in results.summary["strategies"].items()}


class Stop:
    def on_round(self, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "y", [Y, Y.astype(bool), np.where(Y, "yes", "no"), X @ [1.0, 0.1, 0.01, 0.001]], ids=["int", "bool", "word", "float"]
)
def test_columns_are_those_of_a_table(y: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({**{f"x{place}": X[:, place] for place in range(4)}, "y": y, "client": WHO}), tmp_path / "rows.parquet")
    table = {"kind": "table", "path": "rows.parquet", "label": "y", "client": "client"}
    found = [
        fingerprint(deal(parse(content).data, 5, tmp_path))
        for content in (given(x=X, y=y, client=WHO), scenario(data={"source": table}, model={"kind": "linear"}))
    ]
    assert found[0] == found[1]


def test_images_stay_as_they_are() -> None:
    x, y = RNG.normal(size=(20, 3, 5, 5)), np.arange(20) % 4
    federation = deal(parse(given(x=torch.tensor(x), y=y.tolist(), client=np.arange(20) // 5)).data, 0, Path())
    assert federation.shape == (3, 5, 5)
    assert federation.names == ("0", "1", "2", "3")
    rows = np.concatenate([federation.train.x, federation.test.x]).reshape(20, -1)
    assert set(map(bytes, rows)) == set(map(bytes, x.astype(np.float32).reshape(20, -1)))


def test_a_run_that_keeps_its_arrays_goes_on_alone(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["age", "weight", "dose", "height"])
    content = given(x=frame, y=Y, client=WHO, save=True)
    whole = simulate(content, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        simulate(content, out=tmp_path / "cut", observers=[Stop()])
    moved = (tmp_path / "cut").rename(tmp_path / "moved")
    assert hashes(resume(moved)) == hashes(whole)
    assert verify(moved).difference is None
    assert [column.name for column in whole.encoding("fed_avg").inputs] == list(frame)
    unlearn(simulate(given(x=X, y=Y, client=WHO, save=True) | {"strategies": [{"kind": "local_only"}]}, out=tmp_path / "left"), "east")
    assert not (tmp_path / "left" / FILE).exists()


def test_a_run_that_keeps_a_digest_asks_for_the_same_arrays(tmp_path: Path) -> None:
    run = simulate(given(x=X, y=Y, client=WHO), out=tmp_path / "run")
    assert not (run.directory / FILE).exists()
    assert len(run.scenario["data"]["source"]["digest"]) == 64
    with pytest.raises(ScenarioError, match="a program hands the arrays over"):
        resume(run.directory)
    with pytest.raises(ScenarioError, match=r"data\.source\.digest is .* these are other arrays"):
        resume(run.directory, arrays={"x": X + 1, "y": Y, "client": WHO})
    assert verify(run.directory, arrays={"x": X, "y": Y, "client": WHO}).difference is None


def test_an_npz_file_is_a_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=X, y=Y, client=WHO)
    from_file = deal(parse(given(path="mine.npz")).data, 5, tmp_path)
    assert fingerprint(from_file) == fingerprint(deal(parse(given(x=X, y=Y, client=WHO)).data, 5, tmp_path))
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(SpecError, match=r"it cannot be read as an \.npz file"):
        deal(parse(given(path="bad.npz")).data, 5, tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"x": X}, r"data\.source\.y is not given: hand over the arrays x and y"),
        ({"x": X, "y": Y[:-1]}, r"data\.source\.y is \[59\]: it has one value for each of the 60 rows"),
        (
            {"x": np.where(X > 200, np.nan, X), "y": Y},
            r"data\.source\.x .* of its numbers are missing or infinite, the first at \[\d+, 3\]",
        ),
        ({"x": X.astype(str), "y": Y}, r"data\.source\.x is '<U\d+': allowed: numbers \(for words, write a table"),
        ({"x": X[:, 0], "y": Y}, r"data\.source\.x is \[60\]: its first axis is rows"),
        ({"x": X, "y": Y, "client": X[:, 1]}, r"data\.source\.client is 'float64': allowed: whole numbers, words"),
        ({"x": X, "y": Y, "standardize": True}, r"data\.source\.standardize is not a field here; did you mean standardise\?"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        parse(given(**source))


def test_numpy_numbers_and_tuples_are_plain_data() -> None:
    content = given(x=X, y=Y, client=WHO) | {"rounds": np.int64(7)}
    assert parse(content).rounds == 7
    with pytest.raises(ScenarioError, match=r"rounds is 'object': allowed in a scenario: dicts, lists, numbers"):
        parse(content | {"rounds": object()})


def test_the_digest_counts_types_shapes_and_names() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    found = [Held.of(X, Y), Held.of(X.astype(np.float32), Y), Held.of(X.reshape(60, 2, 2), Y), Held.of(X, Y, WHO), Held.of(frame, Y)]
    assert len({one.digest() for one in found}) == len(found)
    assert Held.of(X[::1], Y).digest() == Held.of(np.asfortranarray(X), Y).digest()
