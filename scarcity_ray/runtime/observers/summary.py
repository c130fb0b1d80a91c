"""summary.json, from the rows of a run."""

from __future__ import annotations

import pyarrow.compute as pc

from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.summary import Status, Tally
from scarcity_ray.runtime.failure_policy import Decision, Failure
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun


class SummaryWriter(Observer):
    """Adds each round to the tally, and writes the summary at the end. last: the checkpoint that the run continues from."""

    def __init__(self, recorder: Recorder, tally: Tally, last: Checkpoint | None) -> None:
        self.recorder, self.tally, self.last = recorder, tally, last

    def on_run_start(self) -> None:
        if self.last is None:
            return
        self.tally.load_state_dict(self.last.tally)
        for name, runs in self.last.tally["runs"].items():
            for seed in map(int, runs):
                rows = {row["round"]: row for row in self.recorder.rows("rounds", name, seed).to_pylist()}
                for row in rows.values():
                    self.tally.round(row)
                found = self.recorder.rows("clients", name, seed)
                found = found.filter(pc.equal(found["round"], pc.max(found["round"])))
                if len(found):
                    columns = {column: values.to_numpy() for column, values in zip(found.column_names, found.columns, strict=True)}
                    self.tally.evaluated(rows.get(found["round"][0].as_py()), columns | {"strategy": name, "seed": seed})

    def on_strategy_start(self, run: StrategyRun) -> None:
        if run.first == 1:
            self.tally.begin(run.name, run.strategy.kind_title, run.seed, run.strategy.ends_early)

    def on_round(self, run: StrategyRun, round: Round) -> None:
        self.tally.round(round.row, round.result.steps)
        if round.clients is not None:
            self.tally.evaluated(round.row, round.clients)
        if (part := round.result.taking_part) is not None:
            self.tally.took_part(run.name, run.seed, part, run.plan.federation.at(round.number), run.plan.groups(round.number))
        if round.learned:
            self.tally.learned(run.name, run.seed, round.learned)

    def on_failure(self, what: str, failure: Failure, decision: Decision) -> None:
        self.tally.recovered += decision is Decision.RETRY

    def on_strategy_end(self, run: StrategyRun, last: int, status: Status) -> None:
        self.tally.end(run.name, run.seed, status, self.recorder.result_hash(run.name, run.seed))

    def on_run_end(self, error: BaseException | None) -> None:
        self.recorder.finish(self.tally.summary())
