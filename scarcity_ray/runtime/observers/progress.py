"""What the terminal shows during a run."""

from __future__ import annotations

from scarcity_ray.report.progress import Progress
from scarcity_ray.results.summary import Status, Tally
from scarcity_ray.runtime.failure_policy import Decision, Failure
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun


class ProgressDisplay(Observer):
    """Shows each round on the terminal, with the rate of client updates that the tally knows."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        self.progress, self.tally = progress, tally

    def on_strategy_start(self, run: StrategyRun) -> None:
        self.progress.begin(run.name, run.seed, run.rounds, repeats=run.plan.scenario.repeats, at_most=run.strategy.ends_early)

    def on_round(self, run: StrategyRun, round: Round) -> None:
        updates, seconds = self.tally.seconds(run.name, run.seed)
        self.progress.update(round.row, updates / seconds if seconds > 0 else 0.0)

    def on_failure(self, what: str, failure: Failure, decision: Decision) -> None:
        if decision is Decision.RETRY:
            self.progress.message(f"{what}: {failure.error}; its work is done again")

    def on_strategy_end(self, run: StrategyRun, last: int, status: Status) -> None:
        self.progress.end(status)
