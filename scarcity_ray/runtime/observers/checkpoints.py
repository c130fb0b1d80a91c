"""The checkpoints of a run: when one is made, and where a strategy continues after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from scarcity_ray.core import insights
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.summary import Status, Tally
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun
from scarcity_ray.training.problem import Problem

_CHECKPOINT_SHARE = 20
"""Where checkpoints are `auto`, this many times the seconds of one pass until the next: they cost a twentieth at most."""

History = Mapping[int, pa.RecordBatch]
"""The accepted insights of each round so far."""


class Checkpointer(Observer):
    """Keeps the last checkpoint, and has it written. The one observer that the loop asks for something: where to start.

    every: `execution.checkpoint_every`. last: the checkpoint that the run continues from.
    """

    def __init__(self, recorder: Recorder, tally: Tally, every: int | Literal["auto"], last: Checkpoint | None) -> None:
        self.recorder, self.tally, self.every, self.last = recorder, tally, every, last
        self._due = 0.0

    def ended(self) -> dict[tuple[str, int], Status]:
        """How each strategy and seed ended that had come to its end by the last checkpoint."""
        runs = {} if self.last is None else self.last.tally.get("runs", {})
        return {
            (name, int(seed)): one["status"]
            for name, seeds in runs.items()
            for seed, one in seeds.items()
            if one["result_hash"] is not None
        }

    def start_of(self, name: str, seed: int) -> Checkpoint:
        """Where a strategy starts under a seed: after its last checkpoint, or before round 1 (its round is 0 then)."""
        if self.last is None or (self.last.strategy, self.last.seed) != (name, seed):
            self.last = Checkpoint(name, seed)
        return self.last

    def history_of(self, run: StrategyRun, until: int) -> History:
        """The insights of a strategy from round 1 to `until`, read back from the tables."""
        return history_of(lambda: self.recorder.rows("insights", run.name, run.seed), run.strategy, run.problem, until)

    def is_due(self, round: int) -> bool:
        """Whether the server is to add to this round's result what a checkpoint needs."""
        return time.perf_counter() >= self._due if self.every == "auto" else round % self.every == 0

    def on_strategy_start(self, run: StrategyRun) -> None:
        self._due = 0.0

    def on_round(self, run: StrategyRun, round: Round) -> None:
        result = round.result
        if result.server is not None and not (result.done or result.diverged):
            point = Checkpoint(run.name, run.seed, round.number, result.server, result.client_state, self.tally.state_dict())
            self._keep(point, result.kept_seconds)

    def on_strategy_end(self, run: StrategyRun, last: int, status: Status) -> None:
        if status != "interrupted":
            self._keep(Checkpoint(run.name, run.seed, last, status=status, tally=self.tally.state_dict()))

    def _keep(self, checkpoint: Checkpoint, seconds: float = 0.0) -> None:
        """seconds: what it took to make."""
        self.last = checkpoint
        self.recorder.checkpoint(checkpoint, _CHECKPOINT_SHARE if self.every == "auto" else 0)
        self._due = time.perf_counter() + _CHECKPOINT_SHARE * seconds


def history_of(read: Callable[[], pa.Table], strategy: Strategy, problem: Problem, until: int) -> History:
    """The insights of a strategy by round, as the MetaLearner kept them. read: gets its rows of the insight table; not called where
    the strategy has no insights."""
    if not strategy.sends_insights:
        return {}
    rows = read()
    rounds = sorted(round for round in set(rows["round"].to_pylist()) if round <= until)
    return {round: insights.of_table(rows.filter(pc.equal(rows["round"], round)), strategy.payload(problem, round)) for round in rounds}
