"""The events of a run, and what an observer gets of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from scarcity_ray.actors.report import RoundResult
from scarcity_ray.baselines import ALONE
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.metrics.tested_rows import tested_rows
from scarcity_ray.results.screened import named
from scarcity_ray.results.summary import Status
from scarcity_ray.runtime.actor_group import TrainedModels
from scarcity_ray.runtime.failure_policy import Decision, Failure
from scarcity_ray.runtime.gains import gain_columns
from scarcity_ray.runtime.plan import RunPlan
from scarcity_ray.training.problem import Problem


@dataclass(frozen=True)
class StrategyRun:
    """One strategy under one seed. first: the round it starts with; above 1 where it continues from a checkpoint."""

    plan: RunPlan
    strategy: Strategy
    first: int = 1

    @property
    def name(self) -> str:
        """The strategy's name in tables and files."""
        return self.strategy.title

    @property
    def seed(self) -> int:
        """The seed of this part of the run."""
        return self.plan.seed

    @property
    def rounds(self) -> int:
        """The most rounds that the strategy plays."""
        return self.plan.rounds(self.strategy)

    @property
    def problem(self) -> Problem:
        """What its clients learn."""
        return self.plan.problems[self.name]


@dataclass(frozen=True)
class Round:
    """A round as the tables show it. row: its row of `rounds`. clients: columns of `clients`, None where it was not evaluated.
    predictions: columns of `predictions`, None unless it is a last round that they are asked for of. learned: what summary.json says of
    it."""

    result: RoundResult
    row: dict[str, Any]
    clients: dict[str, Any] | None
    predictions: dict[str, Any] | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The round, from 1."""
        return int(self.row["round"])

    @classmethod
    def of(cls, run: StrategyRun, result: RoundResult) -> Round:
        """The rows of a result."""
        who, round = {"strategy": run.name, "seed": run.seed}, result.row["round"]
        row = {**who, **result.row, "seconds": result.seconds}
        federation, population = run.plan.federation.at(round), run.problem.population
        learned = named(result.learned, lambda client: federation.called(client, population))
        if result.clients is None:
            return cls(result, row, None, learned=learned)
        ids = result.clients["client_id"]
        clients = {**who, "round": round, "group": federation.group[ids], "client": federation.own_names(ids), **result.clients}
        if result.tested_rows is not None:
            alone = tested_rows(run.plan.baselines[ALONE].stats)
            clients |= gain_columns(run.plan.headline(), alone, result.tested_rows, ids, run.seed)
        predictions = None if result.predictions is None else who | in_the_users_words(result.predictions, federation)
        return cls(result, row, clients, predictions, learned)


def in_the_users_words(predictions: dict[str, NDArray[Any]], federation: Federation) -> dict[str, Any]:
    """Predictions with the clients' own names, and targets that are no longer relative to their mean."""
    encoding = federation.encoding
    if encoding is None:
        return predictions
    shifted = {name: values + encoding.label_mean for name, values in predictions.items() if name.startswith(("y", "prediction"))}
    return {**predictions, **(shifted if federation.task == "regression" else {}), "client": federation.own_names(predictions["client_id"])}


class Observer:
    """Watches a run. The loop calls each hook once an event, in the order of the list of observers; none changes a result."""

    def on_run_start(self) -> None:
        """The run starts, or continues from a checkpoint."""

    def on_strategy_start(self, run: StrategyRun) -> None:
        """A strategy starts under a seed, or continues. Called once, however often its rounds are retried."""

    def on_round(self, run: StrategyRun, round: Round) -> None:
        """A round has ended. Called once a round: one that is computed again after a failure is not shown again."""

    def on_failure(self, what: str, failure: Failure, decision: Decision) -> None:
        """Some work failed. what: the work, in words."""

    def on_trained(self, run: StrategyRun, last: int, models: TrainedModels) -> None:
        """The rounds of a strategy are over, the last of which is `last`; before `on_strategy_end`."""

    def on_strategy_end(self, run: StrategyRun, last: int, status: Status) -> None:
        """A strategy ends under a seed, also by an error (`interrupted`). last: the last round that was recorded."""

    def on_run_end(self, error: BaseException | None) -> None:
        """The run ends. error: what ended it early, None where all was played."""
