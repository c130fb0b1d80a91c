"""logs/scarcity.log: what happened when, and the details of failures."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.actors.validation import cause
from scarcity_ray.results.log import get_logger
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.screened import in_words
from scarcity_ray.results.summary import Status
from scarcity_ray.runtime.failure_policy import Decision, Failure
from scarcity_ray.runtime.fleet import ActorLost, WorkerError
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun


def all_rejected(name: str, result: RoundResult) -> str:
    """Says why a strategy ended: nothing that clients sent in a round could be used."""
    why, grown = cause([reason for _, reason in result.rejected])
    ended, advice = (" diverged", " (try a smaller lr)") if grown else ("", "")
    sent = "update" if result.insights is None else "insight"
    return f"{name}{ended}: every {sent} of round {result.row['round']} was rejected: {why}{advice}"


class RunLog(Observer):
    """Writes what is to be known beforehand, starts, ends, rejected clients and failures to the log."""

    def __init__(self, recorder: Recorder, notes: Sequence[str]) -> None:
        self.recorder, self.notes, self.log = recorder, notes, get_logger(Server)

    def on_run_start(self) -> None:
        for note in self.notes:
            self.log.warning("%s", note)

    def on_strategy_start(self, run: StrategyRun) -> None:
        self.log.info("%s: seed %d, at most %d rounds", run.name, run.seed, run.rounds)

    def on_round(self, run: StrategyRun, round: Round) -> None:
        federation, population = run.plan.federation, run.problem.population
        for client, why in round.result.rejected:
            named = federation.called(client, population)
            self.log.warning("%s: round %d: client %s is rejected: %s", run.name, round.number, named, why)
        for found in round.learned.get("screened", ()):
            self.log.warning("%s: round %d: %s", run.name, round.number, in_words(found))
        if round.result.diverged:
            self.log.error("%s; stopped", all_rejected(run.name, round.result))

    def on_failure(self, what: str, failure: Failure, decision: Decision) -> None:
        if isinstance(failure.error, ActorLost):  # any other error ends the run, and is logged then
            self.log.warning("%s: %s; attempt %d\n%s", what, failure.error, failure.attempt, failure.error.details)

    def on_strategy_end(self, run: StrategyRun, last: int, status: Status) -> None:
        self.log.info("%s: seed %d %s, result hash %s", run.name, run.seed, status, self.recorder.result_hash(run.name, run.seed))

    def on_run_end(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):  # an interrupt is no failure
            details = error.details if isinstance(error, WorkerError) else "".join(traceback.format_exception(error))
            self.log.error("%s\n%s", error, details)
