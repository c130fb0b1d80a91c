"""Files of a run as a stranger, a bad disk or another version may hand them over: a clear error, and nothing is run or written.

Each case damages a copy of a real run and then reads, predicts and unlearns: every read must succeed, or raise a RunError of one line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.directories import ACTS, FILES, MODEL, OF_FILE, ROWS, file_of, refused

from scarcity_ray import Results
from scarcity_ray.core.tables import is_optional
from scarcity_ray.results.reading import RunError


def test_the_whole_run_is_refused_nothing(run: Path) -> None:
    assert refused(run, tuple(ACTS)) == {}


# -- damage by accident ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_file_is_named(run: Path, name: str, share: float) -> None:
    path = file_of(run, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    found = refused(run)
    if not name.endswith(".yaml") or share == 0.0:  # a cut YAML may be a shorter YAML
        assert OF_FILE[name] in found
        assert name in found[OF_FILE[name]]
    if name in ("summary.json", "clients.parquet", "insights.parquet", MODEL):  # what unlearning needs
        assert "unlearn" in refused(run, ("unlearn",))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_found_or_harmless(run: Path, whole: Path, name: str, seed: int) -> None:
    """In tables and models no flip may change what is read; JSON and YAML are text for people, and must only not crash."""
    draw, path = random.Random(f"{name} {seed}"), file_of(run, name)
    damaged = bytearray(path.read_bytes())
    for _ in range(1 + seed % 3):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    found = refused(run)
    if name == MODEL:
        assert "cannot be read" in found["predict"]
    elif name.endswith(".parquet"):
        table = name.removesuffix(".parquet")
        assert table in found or Results.load(run).table(table).equals(Results.load(whole).table(table))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if name == "scenario.yaml":
        with pytest.raises(RunError, match="not the directory of a run"):
            Results.load(run)
    else:
        assert OF_FILE[name] in refused(run)


@pytest.mark.parametrize("name", FILES)
def test_what_stands_in_a_files_place_is_not_waited_for(run: Path, name: str) -> None:
    """A pipe, a folder, an endless device."""
    path = file_of(run, name)
    path.unlink()
    os.mkfifo(path)
    if name != "scenario.yaml":
        assert OF_FILE[name] in refused(run)
    path.unlink()
    path.mkdir()
    if name != "scenario.yaml":
        assert OF_FILE[name] in refused(run)
    path.rmdir()
    path.symlink_to("/dev/zero")
    if name != "scenario.yaml":
        assert OF_FILE[name] in refused(run)


# -- malice ----------------------------------------------------------------------------------------------------------


DEEP = "[" * 100_000
TEXTS = {
    "not text": b"\xff\xfe\x00",
    "empty": b"",
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "too deep": DEEP.encode(),
    "too deep with objects": ('{"a":' * 50_000).encode(),
    "a number of a million digits": b'{"a": ' + b"9" * 10**6 + b"}",
    "control characters": b'{"a": "\x00\x1b]0;owned\x07"}',
    "a tag that makes objects": b"!!python/object/apply:os.system ['touch mark']",
    "aliases of aliases": ("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))).encode(),
    "an alias of itself": b"a: &a [*a]\n",
    "merges of merges": ("a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))).encode(),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("name", ["scenario.yaml", "environment.json", "summary.json"])
def test_text_that_is_no_runs_is_refused(run: Path, name: str, case: str) -> None:
    (run / name).write_bytes(TEXTS[case])
    found = refused(run)
    if name.endswith(".json") or case not in ("control characters", "a number of a million digits"):
        assert OF_FILE[name] in found or case == "control characters"


@pytest.mark.parametrize("name", ["scenario.yaml", "environment.json", "summary.json", MODEL])
def test_files_of_a_hundred_megabytes_and_of_terabytes_are_not_read(run: Path, name: str) -> None:
    for size in (100 * 2**20 if name != MODEL else 2**30, 2**42):
        os.truncate(run / name, size)  # sparse: it takes no room on this disk
        found = refused(run, (OF_FILE[name],))
        assert "bytes are read" in found[OF_FILE[name]] or "at most" in found[OF_FILE[name]]


def a_table(run: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    part = file_of(run, f"{name}.parquet")
    pq.write_table(change(pq.read_table(part)), part)


def codes(rows: pa.Table) -> pa.Array:
    return pa.array(["__import__('os')"] * len(rows))


TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "fewer columns": lambda rows: rows.drop_columns(["uplink_bytes"]),
    "columns of another name": lambda rows: rows.rename_columns([f"{name}_" for name in rows.column_names]),
    "columns of another type": lambda rows: rows.set_column(1, "seed", rows["seed"].cast(pa.string())),
    "a column twice": lambda rows: rows.append_column("seed", rows["seed"]),
    "an unknown column twice": lambda rows: rows.append_column("code", codes(rows)).append_column("code", codes(rows)),
    "an unknown column of codes": lambda rows: rows.append_column("code", codes(rows).dictionary_encode()),
    "an unknown column of records": lambda rows: rows.append_column("code", pa.array([{"a": 1}] * len(rows))),
    "an unknown column of bytes": lambda rows: rows.append_column("code", codes(rows).cast(pa.binary())),
    "an unknown column of a name that is none": lambda rows: rows.append_column("\x1b]0;owned\x07", codes(rows)),
    "an unknown column of a name without end": lambda rows: rows.append_column("c" * 10_000, codes(rows)),
    "other rows": lambda rows: pa.table({"x": [1]}),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("name", ["rounds", "clients"])
def test_a_table_of_another_version_is_refused(run: Path, name: str, case: str) -> None:
    a_table(run, name, TABLES[case])
    assert "another version" in refused(run, (name,))[name]


@pytest.mark.parametrize("name", ["rounds", "clients", "insights"])
def test_columns_of_a_later_version_are_passed_through(run: Path, name: str) -> None:
    before = Results.load(run).table(name)
    later = {"weather": pa.array([0.5] * len(before)), "notes": codes(before), "sizes": pa.array([[1, 2]] * len(before))}
    for column, values in later.items():
        a_table(run, name, lambda rows, column=column, values=values: rows.append_column(column, values))  # type: ignore[misc]
    assert refused(run) == {}
    found = Results.load(run).table(name)
    assert found.select(before.column_names).equals(before)
    assert found.select(list(later)).to_pydict() == {column: values.to_pylist() for column, values in later.items()}


@pytest.mark.parametrize("name", ["rounds", "clients"])
def test_columns_that_were_added_since_are_null(run: Path, name: str) -> None:
    """As in a run of the first version, which stated none."""
    before = Results.load(run).table(name)
    added = [field.name for field in before.schema if is_optional(field)]
    a_table(run, name, lambda rows: rows.drop_columns(added).replace_schema_metadata(None))
    assert refused(run) == {}
    found = Results.load(run).table(name)
    kept = before.drop_columns(added)
    assert found.select(kept.column_names).equals(kept)
    assert {found[column].null_count for column in added} == {len(before)}
    assert "test_loss_global" in added or "test_loss_pooled" in added
    assert Results.load(run).table(name, ["seed", added[1]]).column_names == ["seed", added[1]]
    assert Results.load(run).table(name, added[:1])[added[0]].to_pylist() == [None] * len(before)


@pytest.mark.parametrize("name", ["rounds", "clients", "insights"])
def test_a_newer_major_version_is_refused_in_words(run: Path, name: str) -> None:
    minor, major = ({b"schema_version": f"{one}.{other}".encode()} for one, other in ((1, 99), (2, 0)))
    a_table(run, name, lambda rows: rows.replace_schema_metadata(minor))
    assert refused(run) == {}
    a_table(run, name, lambda rows: rows.replace_schema_metadata(major))
    assert "it has version 2.0 of the tables" in refused(run, (name,))[name]
    a_table(run, name, lambda rows: rows.replace_schema_metadata({b"schema_version": b"9" * 10_000}))
    assert "not two numbers" in refused(run, (name,))[name]


def test_parts_of_one_table_have_the_same_columns(run: Path) -> None:
    part = file_of(run, "rounds.parquet")
    pq.write_table(pq.read_table(part).append_column("code", codes(pq.read_table(part))), part.with_name("part-00000001.parquet"))
    assert "other columns" in refused(run, ("rounds",))["rounds"]


def test_a_table_that_says_it_has_more_rows_than_it_has_is_refused(run: Path) -> None:
    """The number of rows stands in the file's footer several times; each of its places is set to something else."""
    part = file_of(run, "rounds.parquet")
    whole, rows = part.read_bytes(), pq.read_metadata(part).num_rows
    footer = len(whole) - 8 - pq.read_metadata(part).serialized_size
    varint, other = bytes([rows * 2]), bytes([rows * 2 + 64])
    places = [place for place in range(footer, len(whole)) if whole[place : place + 1] == varint]
    expected, seen = pq.read_table(part), 0
    assert places
    for place in places:
        part.write_bytes(whole[:place] + other + whole[place + 1 :])
        if "rounds" in refused(run, ("rounds",)):
            seen += 1
        else:
            assert Results.load(run).rounds.equals(expected)
    assert seen


def test_a_table_that_says_it_holds_a_trillion_rows_takes_no_memory(run: Path) -> None:
    """A footer that is at one with itself; runs of one value are stored as such, so a few bytes could be so many rows."""
    part = file_of(run, "rounds.parquet")
    rows = pq.read_table(part)
    pq.write_table(pa.concat_tables([rows] * 4096).combine_chunks().slice(0, 4096), part)
    whole = part.read_bytes()
    size = pq.read_metadata(part).serialized_size
    footer = whole[len(whole) - 8 - size : -8].replace(varint(4096), varint(2**40))
    part.write_bytes(whole[: len(whole) - 8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(part).num_rows == 2**40
    assert "more than the memory" in refused(run, ("rounds",))["rounds"]


def varint(number: int) -> bytes:
    """A positive number as Thrift's compact protocol writes it."""
    left, found = 2 * number, b""
    while left > 127:
        left, found = left >> 7, found + bytes([left & 127 | 128])
    return found + bytes([left])


def test_parts_that_are_missing_are_missed(run: Path) -> None:
    part = file_of(run, "rounds.parquet")
    part.rename(part.with_name("part-00000001.parquet"))
    assert "parts are missing" in refused(run, ("rounds",))["rounds"]


def test_folders_that_look_like_partitions_add_no_columns_and_no_rows(run: Path) -> None:
    part = file_of(run, "rounds.parquet")
    (part.parent / "strategy=owned").mkdir()
    shutil.copy(part, part.parent / "strategy=owned")
    shutil.copy(part, part.parent / "notes.parquet")
    before = pq.read_table(part)
    assert Results.load(run).rounds.equals(before)


# -- ways out of the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "models", "rounds.parquet/part-00000000.parquet"])
def test_a_link_that_leads_out_is_followed_neither_to_read_nor_to_write(run: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    found = refused(run, tuple(ACTS))
    acts = {"models": "predict", "rounds.parquet/part-00000000.parquet": "rounds"}
    assert "leads out of" in found[acts.get(name) or OF_FILE[name]]
    assert "is a link" in found["unlearn"]


@pytest.mark.parametrize("name", [".summary.json.new", "models/.sf_hfe.safetensors.new", ".insights.parquet.new", ".clients.parquet.old"])
def test_unlearning_writes_through_no_link_that_waits_for_it(run: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / name).symlink_to(victim)
    assert "is a link" in refused(run, ("unlearn",))["unlearn"]
    assert victim.read_text() == "mine"


def test_predictions_are_written_through_no_link_that_waits_for_them(run: Path, tmp_path: Path) -> None:
    from scarcity_ray.serving.output import write_predictions

    pq.write_table(ROWS, tmp_path / "rows.parquet")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".out.parquet.new").symlink_to(victim)
    write_predictions(Results.load(run), tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert victim.read_text() == "mine"


def test_json_of_a_run_is_read_as_json(run: Path) -> None:
    assert Results.load(run).summary == json.loads((run / "summary.json").read_text())
