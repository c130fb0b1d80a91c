"""Run directories as a stranger, a bad disk or another version may hand them over: a clear error, and nothing is run or written.

Each case damages a copy of a real run and then reads, predicts and unlearns: every read must succeed, or raise a RunError of one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import scenario
from safetensors.torch import save_file

from scarcity_ray import Results, simulate
from scarcity_ray.reporting.reading import RunError
from scarcity_ray.reporting.sealed import load_sealed, save_sealed
from scarcity_ray.serving import predict, unlearn

ROOT = Path(__file__).parents[1]
MODEL = "models/sf_hfe.safetensors"
FILES = ("scenario.yaml", "environment.json", "summary.json", "rounds.parquet", "clients.parquet", "insights.parquet", MODEL)
ROWS = pa.table({f"x{place}": [0.0, 0.5] for place in range(64)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an ensemble and a plain model."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fourier = {"kind": "random_fourier", "features": 16, "bandwidth": 4.0}
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "experts": 2, "representation": fourier}]
    simulate(scenario(model={"kind": "linear"}, strategies=strategies), out=out)
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def file_of(run: Path, name: str) -> Path:
    return run / name / "part-00000000.parquet" if name.endswith(".parquet") else run / name


def content(folder: Path) -> dict[str, str]:
    """What lies in a folder: links by where they lead, files by their hash (the first MiB is enough here)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            with path.open("rb") as file:
                found[str(path)] = hashlib.sha256(file.read(2**20)).hexdigest()
    return found


ACTS: dict[str, Callable[[Results], Any]] = {
    "scenario": lambda run: run.scenario,
    "environment": lambda run: run.environment,
    "summary": lambda run: run.summary,
    "rounds": lambda run: run.rounds.to_pylist(),
    "clients": lambda run: run.clients.to_pylist(),
    "insights": lambda run: run.insights.to_pylist(),
    "fed_avg": lambda run: run.model("fed_avg"),
    "client's model": lambda run: run.model("sf_hfe", client=3),
    "predict": lambda run: predict(run, ROWS),
    "predict for a client": lambda run: predict(run, ROWS, model="sf_hfe", client=3),
    "unlearn": lambda run: unlearn(run, 3),
}


READS = tuple(name for name in ACTS if name != "unlearn")


def refused(run: Path, acts: tuple[str, ...] = READS) -> dict[str, str]:
    """What each act is refused with. Anything but a RunError fails the test; what is refused leaves everything as it was."""
    found, before = {}, content(run.parent)
    for name in acts:
        try:
            ACTS[name](Results.load(run))
        except RunError as error:
            found[name] = str(error)
        after = content(run.parent)
        if name == "unlearn" and name not in found:  # the only one that may write, and to the run alone
            assert {path: told for path, told in after.items() if not path.startswith(f"{run}/")}.items() <= before.items()
        else:
            assert after == before, f"{name} has changed files"
    for name, said in found.items():
        assert str(run) in said, f"{name}: it names no file: {said}"
        assert len(said) < 1200, f"{name}: a wall of text"
    return found


def test_the_whole_run_is_refused_nothing(run: Path) -> None:
    assert refused(run, tuple(ACTS)) == {}


# -- damage by accident ----------------------------------------------------------------------------------------------

OF_FILE = dict(zip(FILES, (*ACTS,), strict=False)) | {MODEL: "predict"}


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


def forge(run: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], model: str = MODEL) -> None:
    """Alters a model and seals it again, as whoever can write the file can."""
    tensors, metadata = load_sealed(run / model)
    change(tensors, metadata)
    save_sealed(run / model, tensors, metadata)


def told(**values: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    """Sets parts of the metadata, `a__b` for b in a."""

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
        for path, value in values.items():
            *parents, last = path.split("__")
            inner = metadata
            for name in parents:
                inner = inner[name]
            inner[last] = value

    return change


def tensor(name: str, value: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    """Replaces a tensor by what `value` makes of it; None removes it."""

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name]).contiguous()

    return change


BOMB = {"kind": "mlp", "hidden": [10**9, 10**9], "activation": "relu"}
FORGERIES = {
    "no metadata": lambda tensors, metadata: metadata.clear(),
    "no tensors": lambda tensors, metadata: tensors.clear(),
    "an unknown strategy": told(strategy__kind="../../etc/passwd"),
    "another strategy": told(strategy={"kind": "fed_avg"}),
    "a strategy's name that climbs": told(strategy__name="../../../tmp/x"),
    "a strategy that is a list": told(strategy=[]),
    "a field of another version": told(strategy__temperature=3),
    "a representation of terabytes": told(strategy__representation__features=8192, problem__shape=[10**9]),
    "features that are not there": told(strategy__representation__features=99),
    "a shape of terabytes": told(problem__shape=[10**6, 10**6]),
    "a negative shape": told(problem__shape=[-64]),
    "a shape of words": told(problem__shape="ab"),
    "another shape": told(problem__shape=[65]),
    "no outputs": told(problem__outputs=0),
    "a billion outputs": told(problem__outputs=10**9),
    "endless outputs": told(problem__outputs=1e300),
    "an unknown task": told(problem__task="mining"),
    "the other task": told(problem__task="regression"),
    "no seed": told(seed=None),
    "a seed too large": told(seed=2**80),
    "a model of exabytes": told(model=BOMB),
    "twenty thousand layers": told(model={"kind": "mlp", "hidden": [1] * 20_000}),
    "a model of words": told(model="linear"),
    "a wrong network": told(model={"kind": "cnn", "channels": [10**9], "hidden": 10**9}),
    "no encoding": told(encoding=None),
    "an encoding of words": told(encoding="x"),
    "an encoding of another shape": told(encoding__inputs={"kind": "array", "shape": [10**9]}),
    "an encoding of fewer classes": told(encoding__classes=[0, 1]),
    "heads of another shape": tensor("ensemble.heads", lambda heads: heads[:, :5]),
    "heads without dimensions": tensor("ensemble.heads", lambda heads: heads.sum()),
    "no heads": tensor("ensemble.heads", None),
    "no whole": tensor("ensemble.whole", None),
    "no scale": tensor("ensemble.scale", None),
    "one scale": tensor("ensemble.scale", lambda scale: scale[:1]),
    "scales of words": tensor("ensemble.scale", lambda scale: scale.to(torch.bool)[:, None]),
    "no noise": tensor("ensemble.noise", lambda noise: noise[:0]),
    "scatters of one": tensor("ensemble.scatters", lambda scatters: scatters[:1]),
    "flat covariances": tensor("ensemble.covariances", lambda found: found[0]),
    "experts that are not there": tensor("ensemble.expert_id", lambda ids: ids + 7),
    "negative experts": tensor("ensemble.expert_id", lambda ids: ids - 9),
    "fractions of experts": tensor("ensemble.expert_id", lambda ids: ids + 0.5),
    "clients beyond counting": tensor("ensemble.client_id", lambda ids: ids + 2**62),
    "negative clients": tensor("ensemble.client_id", lambda ids: ids - 50),
    "one client many times": tensor("ensemble.client_id", lambda ids: ids * 0),
    "fewer clients": tensor("ensemble.client_id", lambda ids: ids[:2]),
    "a router of another shape": tensor("ensemble.density.means", lambda means: means[:, :3]),
    "no router": tensor("ensemble.density.means", None),
    "no representation": tensor("representation.frequencies", None),
    "a representation of another shape": tensor("representation.frequencies", lambda found: found[:3]),
    "no head": tensor("head.weight", None),
    "a head of another shape": tensor("head.weight", lambda weight: weight[..., :2]),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_model_that_does_not_hold_together_is_refused(run: Path, case: str) -> None:
    forge(run, FORGERIES[case])
    assert {"predict", "unlearn"} & refused(run, ("client's model", "predict", "predict for a client", "unlearn")).keys()


ELSEWHERE = """
import pathlib
pathlib.Path({mark!r}).write_text("code of a run directory was run")
def make(**args):
    raise SystemExit("and called")
"""


@pytest.mark.parametrize("where", ["model", "strategy", "both"])
@pytest.mark.parametrize("path", ["stranger:make", "os:system", "builtins:exec", "subprocess:run"])
def test_no_module_is_imported_and_nothing_called_because_a_file_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, path: str
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "stranger.py").write_text(ELSEWHERE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"kind": "import", "path": path, "args": {"command": f"touch {mark}"}}
    for file in (MODEL, "models/fed_avg.safetensors"):
        if where in ("model", "both"):
            forge(run, told(model=model), file)
        if where in ("strategy", "both"):
            forge(run, told(strategy__model=model), file)
    found = refused(run, ("fed_avg", "predict", "unlearn"))
    assert set(found) == {"fed_avg", "predict", "unlearn"}
    assert f"comes from {path}" in found["fed_avg"]
    assert "imports=True" in found["fed_avg"]
    assert not mark.exists()
    assert "stranger" not in sys.modules


def test_a_scenario_that_names_a_module_is_not_run_again_unasked(run: Path, tmp_path: Path) -> None:
    path = run / "scenario.yaml"
    assert Results.load(run).runnable() == path
    path.write_text(path.read_text() + "\nmodel: {kind: import, path: 'os:system', args: {command: touch mark}}\n")
    with pytest.raises(RunError, match="given twice"):
        Results.load(run).runnable()
    path.write_text("strategies: [{kind: fed_avg, model: {kind: import, path: 'os:system', args: {command: touch mark}}}]\n")
    with pytest.raises(RunError, match="comes from os:system"):
        Results.load(run).runnable()
    assert Results.load(run, imports=True).runnable() == path


def test_who_asks_for_his_own_module_gets_it(tmp_path: Path) -> None:
    own = {"kind": "import", "path": "helpers.models:sigmoid_mlp", "args": {"hidden": 5}}
    simulate(scenario(model=own), out=tmp_path / "run")
    with pytest.raises(RunError, match=r"helpers\.models:sigmoid_mlp"):
        Results.load(tmp_path / "run").model("fed_avg")
    assert len(list(Results.load(tmp_path / "run", imports=True).model("fed_avg").parameters())) == 4


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


def test_a_model_without_a_seal_is_of_another_version(run: Path) -> None:
    tensors, _ = load_sealed(run / MODEL)
    save_file(tensors, run / MODEL, {"format": "pt"})
    assert "not written by this program" in refused(run, ("predict",))["predict"]


def a_table(run: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    part = file_of(run, f"{name}.parquet")
    pq.write_table(change(pq.read_table(part)), part)


TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "fewer columns": lambda rows: rows.drop_columns([rows.column_names[-1]]),
    "a column more": lambda rows: rows.append_column("code", pa.array(["__import__('os')"] * len(rows))),
    "columns of another name": lambda rows: rows.rename_columns([f"{name}_" for name in rows.column_names]),
    "columns of another type": lambda rows: rows.set_column(1, "seed", rows["seed"].cast(pa.string())),
    "a column twice": lambda rows: rows.append_column("seed", rows["seed"]),
    "other rows": lambda rows: pa.table({"x": [1]}),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("name", ["rounds", "clients"])
def test_a_table_of_another_version_is_refused(run: Path, name: str, case: str) -> None:
    a_table(run, name, TABLES[case])
    assert "another version" in refused(run, (name,))[name]


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


@pytest.mark.parametrize("model", ["../sf_hfe", "../../run/models/sf_hfe", "/etc/passwd", "sf_hfe/../sf_hfe", "", ".", "a\0b"])
def test_a_models_name_cannot_climb(run: Path, model: str) -> None:
    shutil.copy(run / MODEL, run / "sf_hfe.safetensors")
    with pytest.raises(RunError, match="has no model"):
        predict(Results.load(run), ROWS, model=model)


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a b", ".hidden", "x" * 200 + "ü"])
def test_a_file_that_no_strategy_is_called_after_is_no_model(run: Path, name: str) -> None:
    shutil.copy(run / MODEL, run / f"models/{name}.safetensors")
    assert Results.load(run).models == ["fed_avg", "sf_hfe"]


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
    from scarcity_ray.serving.predict import write_predictions

    pq.write_table(ROWS, tmp_path / "rows.parquet")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".out.parquet.new").symlink_to(victim)
    write_predictions(Results.load(run), tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert victim.read_text() == "mine"


# -- by the program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["predict", "unlearn"])
def test_the_program_refuses_in_a_line(run: Path, tmp_path: Path, act: str) -> None:
    forge(run, told(model={"kind": "import", "path": "os:system", "args": {"command": f"touch {tmp_path}/mark"}}))
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    rest = [str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "out.parquet")] if act == "predict" else ["--client", "3"]
    command = [sys.executable, "-m", "scarcity_ray.run", act, str(run), *rest]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "os:system" in done.stderr
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out.parquet").exists()


def test_json_of_a_run_is_read_as_json(run: Path) -> None:
    assert Results.load(run).summary == json.loads((run / "summary.json").read_text())
