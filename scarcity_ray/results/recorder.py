"""Writes the run directory while the run continues, and hashes what it writes."""

from __future__ import annotations

import functools
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from scarcity_ray.core import tables
from scarcity_ray.core.metrics import Metric
from scarcity_ray.results.checkpoints import FOLDER, Checkpoint, Checkpoints
from scarcity_ray.results.files import to_json, write_whole
from scarcity_ray.results.growing_table import GrowingTable
from scarcity_ray.results.hashing import ResultHash
from scarcity_ray.results.log import get_logger
from scarcity_ray.results.sealed import save_sealed
from scarcity_ray.results.stored_table import PREDICTIONS, TABLES, read_batches
from scarcity_ray.scenario import what_if

REPORT = ("scarcity.csv", "scarcity.json", "scarcity.png")
"""The files of the report on what each scarcity costs."""

FLUSH_SECONDS = 0.5
"""Rows reach the disk at most so long after they arrive, plus the time of writing: a killed run loses no more."""

MODEL_BYTES = 256 * 2**20
"""The largest model file: personal models of many clients beyond it are hashed and not saved."""


def model_file(strategy: str, seed: int | None = None) -> str:
    """The name of a model's file: `NAME.safetensors` for the first seed, `NAME.seed8.safetensors` for a later one, 8."""
    return f"{strategy}.safetensors" if seed is None else f"{strategy}.seed{seed}.safetensors"


class Recorder:
    """A run directory that is complete at any moment, except for its last second.

    One thread calls it; a thread of its own writes the rows to disk. A failure to write (a full disk) is raised by
    the next call. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        directory: Path,
        scenario_yaml: str,
        environment: Mapping[str, Any],
        insight_schema: pa.Schema,
        last: Checkpoint | None = None,
        metrics: Sequence[Metric] | None = None,
        predictions: pa.Schema | None = None,
    ) -> None:
        """Makes the directory if need be and writes scenario.yaml, environment.json and empty tables at once.

        Files of an earlier run there are removed. insight_schema: of the insight table, see tables.insights.
        metrics: those of the run, which have columns; all that are registered if None. predictions: of the table of predictions, where
        there is to be one.
        last: continues the run of the directory after that checkpoint; rows of later rounds are dropped, as they will come
        again. Raises BrokenFile, and leaves all as it is, where its tables cannot be read.
        """
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        kept = [name for name in (*TABLES, PREDICTIONS) if name in TABLES or GrowingTable.there(directory / f"{name}.parquet").exists()]
        for name in kept if last is not None else ():
            for _ in read_batches(GrowingTable.there(directory / f"{name}.parquet"), name):
                """A broken table is found before anything is replaced."""
        for name in ("summary.json", "coefficients.csv", "curves.png", "experts.png", "report.html", *REPORT):
            (directory / name).unlink(missing_ok=True)
        if last is None:
            for name in ("models", FOLDER, f"{PREDICTIONS}.parquet", what_if.FOLDER):
                shutil.rmtree(directory / name, ignore_errors=True)
            write_whole(directory / "scenario.yaml", scenario_yaml.encode())
            write_whole(directory / "environment.json", to_json(environment).encode())
        (directory / "models").mkdir(exist_ok=True)
        self._hashes: dict[tuple[str, int], ResultHash] = {}
        self._first_seed: int | None = None if last is None else environment["seed"]
        schemas = {"rounds": tables.rounds(metrics), "clients": tables.clients(metrics), "insights": insight_schema}
        schemas |= {} if predictions is None else {PREDICTIONS: predictions}
        self._tables = {}
        for name, schema in schemas.items():
            rows = () if last is None or name not in kept else self._kept(name, schema, last)
            self._tables[name] = GrowingTable(directory / f"{name}.parquet", schema, rows)
        self._checkpoints = Checkpoints(directory)
        self._next: Checkpoint | None = None
        self._rest, self._took, self._written = 0.0, 0.0, 0.0  # when the last checkpoint was written, and how long it took
        self._failure: BaseException | None = None
        self._writing, self._closing, self._wake = threading.Lock(), threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._keep_up, name="recorder", daemon=True)
        self._writer.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def round(self, row: Mapping[str, Any]) -> None:
        """Takes a row of `rounds`, `{column: value}`; see tables.batch for what may be left out. Raises ValueError."""
        self._take("rounds", row["strategy"], row["seed"], tables.batch(self._tables["rounds"].schema, row))

    def clients(self, columns: Mapping[str, Any]) -> None:
        """Takes rows of `clients` of one strategy, seed and round: arrays `[clients]` and scalars. Raises ValueError."""
        self._take("clients", columns["strategy"], columns["seed"], tables.batch(self._tables["clients"].schema, columns))

    def insights(self, rows: pa.RecordBatch | pa.Table, strategy: str, seed: int) -> None:
        """Takes insights of the history; a payload that they do not have is null."""
        schema = self._tables["insights"].schema
        for piece in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            self._take("insights", strategy, seed, tables.insight_rows(piece, schema, strategy, seed))

    def predictions(self, columns: Mapping[str, Any]) -> None:
        """Takes rows of `predictions` of one strategy and seed: arrays `[rows]` and scalars. Raises ValueError."""
        self._check()
        table = self._tables[PREDICTIONS]
        table.append(tables.batch(table.schema, columns))  # no hash covers them

    def checkpoint(self, checkpoint: Checkpoint, rest: float = 0.0) -> None:
        """Takes a checkpoint, to be written once all rows taken so far are on disk; a newer one takes the place of one that waits.

        rest: so many times the seconds that the last one took pass before the next is written; a flush does not wait.
        """
        self._check()
        self._next, self._rest = checkpoint, rest
        self._wake.set()

    def rows(self, table: str, strategy: str, seed: int) -> pa.Table:
        """All rows of a strategy and seed so far, read back."""
        self.flush()
        who = [("strategy", "=", strategy), ("seed", "=", seed)]
        return pq.read_table(self._tables[table].path, filters=who)

    def model(self, strategy: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, seed: int) -> Path | None:
        """Saves and hashes a strategy's tensors, by torch's own names and shapes; personal models are `[clients, ...]`.

        metadata: values of any JSON form; "problem" (task, shape, outputs) is what `Results.model` rebuilds from. Returns
        the path, see `model_file`, or None where the tensors are more than MODEL_BYTES. Call it once a strategy and seed.
        """
        self._hash(strategy, seed).tensors(tensors)
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if total > MODEL_BYTES:
            get_logger(Recorder).warning("the model of %s has %d bytes, more than %d: not saved", strategy, total, MODEL_BYTES)
            return None
        name = model_file(strategy, None if seed == self._first_seed else seed)
        path = self.directory / "models" / name
        save_sealed(path, tensors, metadata)
        return path

    def result_hash(self, strategy: str, seed: int) -> str:
        """The hash of all rows and tensors taken for a strategy and seed so far."""
        return self._hash(strategy, seed).hexdigest()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, after all rows taken so far."""
        self.flush()
        write_whole(self.directory / "summary.json", to_json(summary).encode())

    def flush(self) -> None:
        """Puts all rows taken so far on disk, and the last checkpoint after them."""
        self._check()
        self._put()

    def close(self) -> None:
        """Puts all on disk and ends the writing thread; a second call does nothing."""
        if not self._closing.is_set():
            self._closing.set()
            self._wake.set()
            self._writer.join()
            self.flush()

    def _put(self, *, at_once: bool = True) -> None:
        with self._writing:
            rests = not at_once and time.perf_counter() < self._written + self._rest * self._took
            checkpoint = None if rests else self._next  # before the rows, so that its own are among them
            for table in self._tables.values():
                table.flush()
            if checkpoint is not None:
                began = time.perf_counter()
                self._checkpoints.write(checkpoint)
                self._written = time.perf_counter()
                self._took = self._written - began
                if self._next is checkpoint:
                    self._next = None

    def _kept(self, name: str, schema: pa.Schema, last: Checkpoint) -> Iterator[pa.RecordBatch]:
        """The rows of a table until a checkpoint, in a schema; those of the strategy that continues are hashed again."""
        for stored in read_batches(GrowingTable.there(self.directory / f"{name}.parquet"), name):
            batch = tables.conform(stored, schema)
            ended = [
                pc.and_(pc.equal(batch["strategy"], strategy), pc.equal(batch["seed"], int(seed)))
                for strategy, runs in last.tally["runs"].items()
                for seed, run in runs.items()
                if run["result_hash"] is not None
            ]
            current = pc.and_(pc.equal(batch["strategy"], last.strategy), pc.equal(batch["seed"], last.seed))
            # Predictions are of a strategy's last round: it makes them again, unless it has ended.
            current = pc.and_(current, False if name == PREDICTIONS else pc.less_equal(batch["round"], last.round))
            if not last.status and name != PREDICTIONS:
                self._hash(last.strategy, last.seed).rows(name, batch.filter(current))
            yield batch.filter(functools.reduce(pc.or_, ended, current))

    def _take(self, table: str, strategy: str, seed: int, rows: pa.RecordBatch) -> None:
        self._check()
        self._hash(strategy, seed).rows(table, rows)
        self._tables[table].append(rows)

    def _hash(self, strategy: str, seed: int) -> ResultHash:
        if self._first_seed is None:
            self._first_seed = seed
        return self._hashes.setdefault((strategy, seed), ResultHash())

    def _keep_up(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait(FLUSH_SECONDS)
                self._wake.clear()
                self._put(at_once=False)
                self._closing.wait(FLUSH_SECONDS / 5)  # short rounds are written down together
        except Exception as failure:
            self._failure = failure

    def _check(self) -> None:
        if self._failure is not None:
            known = isinstance(self._failure, OSError)
            raise self._failure if known else OSError(f"cannot write to {self.directory}: {self._failure}") from self._failure
