"""The loop of a run: the rounds of one strategy under one seed, and the walk over all seeds and strategies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.kept import kept
from scarcity_ray.results.log import get_logger
from scarcity_ray.results.summary import Status
from scarcity_ray.runtime.actor_group import ActorGroup, TrainedModels
from scarcity_ray.runtime.failure_policy import Decision, Failure, FailurePolicy
from scarcity_ray.runtime.fleet import ActorLost, describe_error, remedy
from scarcity_ray.runtime.observers import Checkpointer, Observer, Round, StrategyRun
from scarcity_ray.runtime.observers.checkpoints import History
from scarcity_ray.runtime.observers.log import all_rejected
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.scenario import Scenario

_AHEAD = 2
"""Rounds that are ordered at a time: the server plays the next one while the driver writes this one down."""

_T = TypeVar("_T")


class RunFailed(RuntimeError):
    """The run ended before its end; `directory` keeps what was done (None: nothing was)."""

    def __init__(self, message: str, directory: Path | None) -> None:
        super().__init__(message, directory)
        self.message, self.directory = message, directory

    def __str__(self) -> str:
        return "\n".join([self.message, *kept(self.directory)])


def rounds(
    plan: RunPlan,
    group: ActorGroup,
    start: Checkpoint,
    history: Callable[[], History],
    *,
    keep: Callable[[int], bool] = lambda round: False,
    last: int | None = None,
) -> Iterator[RoundResult]:
    """The rounds of a strategy under the seed of a plan, from the one after `start` to its end, or to `last` if that comes first.

    It ends early after a round that diverged, or left nothing more to learn. group: has loaded the plan's federation. history: reads
    the insights until `start`. keep: whether the result of a round is to hold what a checkpoint needs; asked before the round is ordered.
    Nothing is written. Raises ActorLost where the rounds must be started again, from a checkpoint, after `recover`; WorkerError.
    """
    strategy = plan.scenario.strategy(start.strategy)
    end, every, evaluated = plan.rounds(strategy), plan.scenario.evaluation.every, plan.evaluated
    ahead = iter(range(start.round + 1, (end if last is None else last) + 1))
    tickets: deque[Any] = deque()

    def order(count: int) -> None:
        for round in islice(ahead, count):
            tickets.append(group.start_round(round, evaluated, round == end or round % every == 0, keep(round), round == end))

    group.set_strategy(strategy, start, history)
    order(_AHEAD)
    began = time.perf_counter()
    while tickets:
        result = group.finish_round(tickets.popleft())
        assert result is not None  # the strategy was not over before this round
        now = time.perf_counter()
        result.seconds, began = now - began, now
        order(1)
        yield result
        if result.diverged or result.done:
            break
        if tickets:
            group.check()
    for ticket in tickets:
        group.finish_round(ticket)  # it was ordered, and is not played


class Driver:
    """Plays the strategies of a scenario under each of its seeds with one group of actors, and shows all of it to the observers.

    observers, checkpoints: see observers_of. After a failure it does what the policy says.
    """

    def __init__(
        self,
        scenario: Scenario,
        base_dir: Path,
        group: ActorGroup,
        observers: Sequence[Observer],
        checkpoints: Checkpointer,
        policy: FailurePolicy | None = None,
    ) -> None:
        self.scenario, self.base_dir, self.group = scenario, base_dir, group
        self.observers, self.checkpoints, self.policy = observers, checkpoints, policy or FailurePolicy()
        self.ended: dict[tuple[str, int], Status] = checkpoints.ended()
        self.recorded = 0  # the last round of the strategy that the observers have seen
        self.rejections: dict[str, str] = {}  # of strategies that diverged in this process: what was wrong, in a sentence

    def run(self, plan: RunPlan, directory: Path, release: Callable[[], None]) -> list[str]:
        """Plays everything and returns a sentence for each strategy that diverged.

        plan: of the first seed. directory: the run's. release: called once the actors are no longer needed, before summary and plots.
        Raises RunFailed, and OSError where the end of the run cannot be written.
        """
        error: BaseException | None = None
        try:
            for observer in self.observers:
                observer.on_run_start()
            for seed in range(self.scenario.seed, self.scenario.seed + self.scenario.repeats):
                self._seed(plan if seed == plan.seed else prepare(self.scenario, self.base_dir, seed))
        except BaseException as caught:
            error = caught
            if not isinstance(caught, Exception):
                raise
            raise RunFailed("\n".join(filter(None, (describe_error(caught), remedy(caught)))), directory) from caught
        finally:
            release()
            self._end(error)
        diverged = dict.fromkeys(name for (name, _), status in self.ended.items() if status == "diverged")
        unknown = "diverged: every update of a round was rejected (logs/scarcity.log says why)"
        return [self.rejections.get(name, f"{name} {unknown}") for name in diverged]

    def _end(self, error: BaseException | None) -> None:
        """error: what ended the run early; an error in what is written now must not hide it."""
        try:
            for observer in self.observers:
                observer.on_run_end(error)
        except OSError as failure:
            if error is None:
                raise
            get_logger(Server).error("%s", failure)

    def _seed(self, plan: RunPlan) -> None:
        left = [strategy for strategy in self.scenario.strategies if (strategy.title, plan.seed) not in self.ended]
        if left:
            self._retried("the clients' data", plan, lambda: self.group.load_federation(plan))
        for strategy in left:
            self._strategy(plan, strategy)

    def _strategy(self, plan: RunPlan, strategy: Strategy) -> None:
        start = self.checkpoints.start_of(strategy.title, plan.seed)
        run, self.recorded = StrategyRun(plan, strategy, start.round + 1), start.round
        status: Status = "interrupted"
        for observer in self.observers:
            observer.on_strategy_start(run)
        try:
            diverged, models = self._retried(run.name, plan, lambda: self._rounds(run))
            for observer in self.observers:
                observer.on_trained(run, self.recorded, models)
            status = "diverged" if diverged else "finished"
        finally:
            for observer in self.observers:
                observer.on_strategy_end(run, self.recorded, status)
        self.ended[run.name, run.seed] = status

    def _rounds(self, run: StrategyRun) -> tuple[bool, TrainedModels]:
        """The rounds from the last checkpoint on: whether they diverged, and what they have trained."""
        start, diverged = self.checkpoints.start_of(run.name, run.seed), False

        def history() -> History:
            return self.checkpoints.history_of(run, start.round)

        for result in rounds(run.plan, self.group, start, history, keep=self.checkpoints.is_due):
            round, diverged = Round.of(run, result), result.diverged
            if diverged:
                self.rejections.setdefault(run.name, all_rejected(run.name, result))
            if round.number > self.recorded:
                for observer in self.observers:
                    observer.on_round(run, round)
                self.recorded = round.number
        return diverged, self.group.trained_models(run.strategy)

    def _retried(self, what: str, plan: RunPlan, work: Callable[[], _T]) -> _T:
        """What the work returns, done again after failures where the policy says so. what: the work, in words."""
        failure: Failure | None = None
        while True:
            try:
                if failure is not None:
                    self.group.recover(plan)
                return work()
            except Exception as error:
                failure = Failure.after(failure, error, self.recorded)
                decision = self.policy.decide(failure)
                for observer in self.observers:
                    observer.on_failure(what, failure, decision)
                if decision is Decision.RETRY:
                    continue
                if isinstance(error, ActorLost):
                    cause = f"{error.cause} ({failure.attempt} times in a row)"
                    raise type(error)(error.worker, error.method, cause, error.details) from error
                raise
