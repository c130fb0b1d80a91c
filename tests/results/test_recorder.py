import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.rows import INSIGHTS, a_round, some_clients

from scarcity_ray.core import tables
from scarcity_ray.results import recorder as module
from scarcity_ray.results.growing_table import ROW_GROUPS, GrowingTable
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.results import Results, RunError

NUMBERS = pa.schema([pa.field("n", pa.int64(), False), pa.field("text", pa.string(), False)])


def some_insights(seconds=0.5):
    return pa.record_batch(
        {"run": ["x", "x"], "client_id": pa.array([0, 1], pa.int32()), "train_seconds": pa.array([seconds] * 2, pa.float32())}
    )


def numbers(start, stop):
    return pa.record_batch({"n": pa.array(range(start, stop), pa.int64()), "text": ["abc"] * (stop - start)}, schema=NUMBERS)


def test_a_new_run_directory_is_complete(tmp_path):
    with Recorder(tmp_path / "run", "name: x\n", {"seed": 7}, INSIGHTS):
        assert (tmp_path / "run" / "scenario.yaml").read_text() == "name: x\n"
        assert json.loads((tmp_path / "run" / "environment.json").read_text()) == {"seed": 7}
        for name, schema in (("rounds", tables.rounds()), ("clients", tables.clients()), ("insights", INSIGHTS)):
            table = pq.read_table(tmp_path / "run" / f"{name}.parquet")
            assert table.num_rows == 0
            assert table.schema.names == schema.names


def test_rows_come_back_in_the_order_of_arrival(tmp_path):
    with Recorder(tmp_path, "name: x\n", {}, INSIGHTS) as recorder:
        for number in range(1, 6):
            recorder.round(a_round(number))
            recorder.clients(some_clients(number))
            recorder.insights(some_insights(), "fed_avg", 7)
            recorder.flush()
    results = Results.load(tmp_path)
    assert results.rounds["round"].to_pylist() == [1, 2, 3, 4, 5]
    assert results.clients["round"].to_pylist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert results.insights.select(["strategy", "client_id"]).to_pylist()[:2] == [
        {"strategy": "fed_avg", "client_id": 0},
        {"strategy": "fed_avg", "client_id": 1},
    ]
    assert results.rounds.schema.field("seconds").metadata == tables.rounds().field("seconds").metadata


def test_a_second_run_in_the_directory_leaves_nothing_of_the_first(tmp_path):
    with Recorder(tmp_path, "name: x\n", {}, INSIGHTS) as recorder:
        recorder.round(a_round(1))
        recorder.model("fed_avg", {"w": torch.ones(2)}, {}, seed=7)
        recorder.finish({})
    (tmp_path / "own notes.txt").write_text("mine")
    with Recorder(tmp_path, "name: y\n", {}, INSIGHTS):
        pass
    results = Results.load(tmp_path)
    assert results.rounds.num_rows == 0
    assert results.models == []
    with pytest.raises(RunError, match=r"summary\.json is missing"):
        _ = results.summary
    assert (tmp_path / "own notes.txt").read_text() == "mine"


def test_a_part_only_grows_at_its_end(tmp_path):
    """What makes reading safe while the file is replaced: an old footer still describes the new file."""
    table = GrowingTable(tmp_path / "t.parquet", NUMBERS)
    part = tmp_path / "t.parquet" / "part-00000000.parquet"
    before = None
    for step in range(5):
        table.append(numbers(10 * step, 10 * step + 1 + step))
        table.flush()
        content, footer = part.read_bytes(), pq.read_metadata(part)
        if before:
            old_content, old_footer = before
            end = len(old_content) - 8 - old_footer.serialized_size
            assert content[:end] == old_content[:end]
        before = content, footer


def test_parts_are_few_and_in_order(tmp_path):
    table = GrowingTable(tmp_path / "t.parquet", NUMBERS)
    for step in range(3 * ROW_GROUPS + 1):
        table.append(numbers(step, step + 1))
        table.flush()
    assert len(list((tmp_path / "t.parquet").iterdir())) == 4
    assert pq.read_table(tmp_path / "t.parquet")["n"].to_pylist() == list(range(3 * ROW_GROUPS + 1))


def test_tables_are_readable_while_they_grow(tmp_path):
    table = GrowingTable(tmp_path / "t.parquet", NUMBERS)
    stop = threading.Event()

    def write():
        start = 0
        while not stop.is_set():
            table.append(numbers(start, start + 1 + start % 7))
            table.flush()
            start += 1 + start % 7
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen, reads, until = 0, 0, time.monotonic() + 60
        while reads < 60 or (not seen and time.monotonic() < until):
            reads += 1
            found = pq.read_table(tmp_path / "t.parquet")["n"].to_pylist()
            assert found == list(range(len(found)))
            assert len(found) >= seen
            seen = len(found)
    finally:
        stop.set()
        writer.join()
    assert seen > 0


def test_a_failed_flush_loses_no_rows(tmp_path, monkeypatch):
    table = GrowingTable(tmp_path / "t.parquet", NUMBERS)
    table.append(numbers(0, 2))

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            table.flush()
    table.append(numbers(2, 3))
    table.flush()
    assert pq.read_table(tmp_path / "t.parquet")["n"].to_pylist() == [0, 1, 2]


def test_a_disk_that_fills_up_stops_the_run_at_its_next_row(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.01)
    recorder = Recorder(tmp_path, "name: x\n", {}, INSIGHTS)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    recorder.round(a_round(1))
    recorder._writer.join(timeout=30)
    with pytest.raises(OSError, match=f"cannot write to {tmp_path}/rounds.parquet/part-00000000.parquet: No space"):
        recorder.round(a_round(2))


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers.rows import INSIGHTS, a_round, some_clients
from scarcity_ray.results.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), "name: x\\n", {}, INSIGHTS)
recorder.round(a_round(1))
recorder.clients(some_clients(1))
print("written", flush=True)
time.sleep(600)
"""


def test_a_killed_run_keeps_all_but_its_last_second(tmp_path):
    """No call follows the rows: they reach the disk by themselves while a long round goes on."""
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parents[1])], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline() == "written\n"
        assert module.FLUSH_SECONDS < 1
        for _ in range(600):
            if Results.load(tmp_path).clients.num_rows:
                break
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    results = Results.load(tmp_path)
    assert results.rounds["round"].to_pylist() == [1]
    assert results.clients.num_rows == 2


def test_models_are_saved_by_strategy_and_seed(tmp_path):
    row = torch.arange(6.0)
    with Recorder(tmp_path, "name: x\n", {}, INSIGHTS) as recorder:
        for seed in (7, 8):
            views = {"weight": row[:4].view(2, 2), "bias": row[4:], "transposed": row[:4].view(2, 2).T}
            recorder.model("fed_avg", views, {"problem": {"shape": [2]}}, seed=seed)
    results = Results.load(tmp_path)
    assert results.models == ["fed_avg", "fed_avg.seed8"]
    assert torch.equal(results.tensors("fed_avg.seed8")["transposed"], torch.tensor([[0.0, 2.0], [1.0, 3.0]]))
    assert results.metadata("fed_avg") == {"problem": {"shape": [2]}}


def test_a_model_too_large_is_hashed_and_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MODEL_BYTES", 7)
    with Recorder(tmp_path, "name: x\n", {}, INSIGHTS) as recorder:
        before = recorder.result_hash("fed_avg", 7)
        assert recorder.model("fed_avg", {"w": torch.ones(2)}, {}, seed=7) is None
        assert recorder.result_hash("fed_avg", 7) != before
    assert Results.load(tmp_path).models == []


def test_the_hash_of_a_strategy_is_of_its_own_rows_and_no_wall_clock(tmp_path):
    hashes = []
    for name, seconds in (("a", 0.1), ("b", 9.9)):
        with Recorder(tmp_path / name, "name: x\n", {}, INSIGHTS) as recorder:
            recorder.round(a_round(1) | {"seconds": seconds})
            recorder.insights(some_insights(seconds), "fed_avg", 7)
            if name == "b":
                recorder.round(a_round(1, strategy="other"))
                recorder.round(a_round(1, seed=8))
                recorder.flush()
            recorder.clients(some_clients(1))
            hashes.append(recorder.result_hash("fed_avg", 7))
    assert hashes[0] == hashes[1]
