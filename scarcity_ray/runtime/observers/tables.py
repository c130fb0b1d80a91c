"""The tables of a run, row by row."""

from __future__ import annotations

from scarcity_ray.results.recorder import Recorder
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun


class TableWriter(Observer):
    """Records each round in the tables, and puts all rows on disk at the end."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_round(self, run: StrategyRun, round: Round) -> None:
        self.recorder.round(round.row)
        if round.clients is not None:
            self.recorder.clients(round.clients)
        if round.predictions is not None:
            self.recorder.predictions(round.predictions)
        if round.result.insights is not None:
            self.recorder.insights(round.result.insights, run.name, run.seed)

    def on_run_end(self, error: BaseException | None) -> None:
        self.recorder.close()
