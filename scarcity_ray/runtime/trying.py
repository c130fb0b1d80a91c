"""One trial of a search: a setting, played on the rows by which settings are chosen."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.inner import judged
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.trials import Status
from scarcity_ray.runtime.fleet import ActorLost
from scarcity_ray.runtime.loop import rounds as play_rounds
from scarcity_ray.runtime.plan import RunPlan, planned, prepare
from scarcity_ray.runtime.session import Session
from scarcity_ray.scenario import Diagnostic, Scenario, ScenarioError, SpecErrors, parse
from scarcity_ray.scenario.tuning import Choice, Range, Tune
from scarcity_ray.tuning.applied import OF_EACH, conflicts, own, place
from scarcity_ray.tuning.space import Setting, Space

_ATTEMPTS = 3


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    value: the metric, a mean over folds and strategies. played: rounds, and bytes: of a client, up and down, both the most of all folds
    and strategies. These three are None unless it finished. updates: client updates that were trained for it.
    """

    status: Status
    updates: int
    value: float | None = None
    played: int | None = None
    bytes: float | None = None


class Trials:
    """What the trials of one scenario have in common: its data, dealt once, the rows that judge, and where a parameter goes.

    shown: the metric that is searched for. folds: the federations that a setting is played on (data.inner).
    """

    def __init__(self, scenario: Scenario, base_dir: Path) -> None:
        assert scenario.tune is not None
        self.scenario, self.tune = scenario, scenario.tune
        self.plan = prepare(scenario, base_dir)
        self.shown: Shown = headline(self.plan.federation.task, self.tune.metric or scenario.evaluation.metric)
        self.folds = judged(self.plan.federation, scenario.seed, inner=scenario.data.split is None)
        self.titles = tuple(strategy.title for strategy in scenario.strategies)
        self._trains = cache(self._trains_locally)

    def concerns(self, path: str, title: str) -> bool:
        """Whether a parameter can change what a strategy does: `local` and `model` do not where its clients train no step."""
        field = place(path, title)
        return bool(field) and (path.startswith("strategies.") or field[0] == "rounds" or self._trains(title))

    def space(self, titles: Sequence[str]) -> Space:
        """The parameters that concern some strategies."""
        return {path: choice for path, choice in self.tune.parameters.items() if any(self.concerns(path, title) for title in titles)}

    def most_rounds(self, titles: Sequence[str]) -> int:
        """The rounds that a setting of these strategies may play, at most."""
        return max(_largest(self.tune, f"strategies.{title}.rounds", "rounds") or self._own_rounds(title) for title in titles)

    def refuse_what_cannot_be_tried(self) -> None:
        """Raises ScenarioError for a parameter that is no field, a value that is not allowed, or data without rows to choose by."""
        found = [
            Diagnostic(("tune", "parameters", path), f"sets what {other} sets of {title}: leave one of them out")
            for title in self.titles
            for other, path in conflicts(list(self.tune.parameters), title)
        ]
        for path, choice in self.tune.parameters.items():
            found += self._refused(path, choice)
        if self.tune.halving is not None:
            for title in self.titles:
                try:
                    self.of((title,), {}, self.tune.halving.first_rounds)
                except ScenarioError as error:
                    where = ("tune", "halving", "first_rounds")
                    found.append(Diagnostic(where, f"is too few for {title}: {error.problems[0].message}"))
        if found:
            raise ScenarioError(list(dict.fromkeys(found)))
        if not any(len(fold.test.x) for fold in self.folds):
            raise SpecError(("data", "validation_fraction"), self.scenario.data.validation_fraction, "no row is left to choose by")

    def _refused(self, path: str, choice: Choice) -> list[Diagnostic]:
        first, *rest = path.split(".")
        where = ("tune", "parameters", path)
        if first == "strategies" and (len(rest) < 2 or rest[0] not in self.titles):
            names = ", ".join(self.titles)
            return [Diagnostic(where, f"names no strategy; allowed: strategies.NAME.field, with NAME one of {names}")]
        if first != "strategies" and first not in OF_EACH:
            return [Diagnostic(where, "is no setting of a strategy: `sweep` is for what the federation is like")]
        if path == "local":
            return [Diagnostic(where, "has fields: name one, as local.lr")]
        found = []
        for value in (choice.low, choice.high) if isinstance(choice, Range) else choice:
            whole = int(value) if isinstance(choice, Range) and choice.integer else value  # type: ignore[arg-type]
            for title in [one for one in self.titles if self.concerns(path, one)]:
                try:
                    self.of((title,), {path: whole}, self.most_rounds((title,)))
                except ScenarioError as error:
                    found.append(Diagnostic(where, f"cannot be {whole!r} for {title}: {error.problems[0].message}"))
        return found

    def played(self, titles: Sequence[str], setting: Setting, rounds: int, session: Session) -> Outcome:
        """Plays a setting of some strategies, for at most so many rounds and no more bytes than the search allows."""
        found: list[Outcome] = []
        for fold in self.folds:
            try:
                scenario = self.of(titles, setting, rounds)
                plan = planned(scenario, fold, scenario.seed)
            except (ScenarioError, SpecError, SpecErrors):
                return Outcome("impossible", sum(each.updates for each in found))
            for title in titles:
                one = self._of_fold(plan, title, session)
                found.append(one)
                if one.status != "finished":
                    return replace(one, updates=sum(each.updates for each in found))
        values, played, sent = zip(*((one.value, one.played, one.bytes) for one in found), strict=True)
        return Outcome("finished", sum(one.updates for one in found), sum(values) / len(values), max(played), max(sent))

    def of(self, titles: Sequence[str], setting: Setting, rounds: int) -> Scenario:
        """The scenario of a trial: these strategies with a setting, for at most so many rounds. Raises ScenarioError."""
        data = self.changed(dict.fromkeys(titles, setting))
        data["strategies"] = [one for one in data["strategies"] if one["name"] in titles]
        for one in data["strategies"]:
            mine = one["rounds"] or data["rounds"]
            one["rounds"] = min(rounds, mine) if isinstance(mine, int) else mine
        data["evaluation"] |= {"every": rounds, "metric": self.tune.metric or data["evaluation"]["metric"], "target": None}
        data["evaluation"] |= {"scarcity_report": False, "predictions": False}
        return parse(data).model_copy(update={"data": self.scenario.data})

    def changed(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """The scenario's plain data, with its own setting in each strategy that has one."""
        data: dict[str, Any] = deepcopy(self.scenario.model_dump(mode="json", exclude={"tune": True, "sweep": True}))
        data["repeats"] = 1
        for title, one in zip(self.titles, data["strategies"], strict=True):
            one["name"] = title
            for path, value in settings.get(title, {}).items():
                if self.concerns(path, title):
                    own(data, one, place(path, title), value)
        return data

    def _own_rounds(self, title: str) -> int:
        return self.plan.rounds(self.scenario.strategy(title))

    def _trains_locally(self, title: str) -> bool:
        strategy = self.scenario.strategy(title)
        problem = self.plan.problems[title]
        return bool(strategy.planned_steps(problem, strategy.init_server(problem)).any())

    def _of_fold(self, plan: RunPlan, title: str, session: Session) -> Outcome:
        """Plays a strategy on a fold, for as many rounds as the bytes of a client allow."""
        strategy, limit = plan.scenario.strategy(title), self.tune.bytes
        if limit is not None and (known := plan.bytes_a_client(strategy)) is not None:
            before, each = known
            fit = plan.rounds(strategy) if before + each * plan.rounds(strategy) <= limit else int((limit - before) // each)
            if fit < 1:
                return Outcome("too large", 0)
            plan = _for(plan, title, fit)
        value, updates, sent = self._rounds(plan, title, session)
        fit = len(sent) if limit is None else bisect_right(sent, limit)
        if fit < len(sent):  # what a strategy without weights sends is known once it was sent
            if fit < 1:
                return Outcome("too large", updates)
            value, more, sent = self._rounds(_for(plan, title, fit), title, session)
            updates += more
            if value is None:  # so few rounds leave no model
                return Outcome("too large", updates)
        return Outcome("diverged", updates) if value is None else Outcome("finished", updates, value, len(sent), sent[-1])

    def _rounds(self, plan: RunPlan, title: str, session: Session) -> tuple[float | None, int, list[float]]:
        """The metric at the end, None where it diverged; client updates; and bytes a client after each round."""
        clients = plan.federation.clients
        for attempt in range(1, _ATTEMPTS + 1):
            updates, sent, value = 0, [], None
            try:
                group = session.group(plan, lambda _: None)
                group.load_federation(plan)
                for result in play_rounds(plan, group, Checkpoint(title, plan.seed), dict):
                    updates += int(result.row["clients"])
                    sent.append(result.row["uplink_bytes"] + result.row["downlink_bytes"])
                    if result.diverged:
                        return None, updates, []
                    measured = result.row.get(self.shown.metric.column)
                    value = value if measured is None else measured
            except ActorLost:
                if attempt == _ATTEMPTS:
                    raise
                group.recover(plan)
                continue
            shown = float("nan") if value is None else float(self.shown.shape(value))
            return (shown if shown == shown else None), updates, [total / clients for total in accumulate(sent)]
        raise AssertionError


def _for(plan: RunPlan, title: str, rounds: int) -> RunPlan:
    """The same plan with so many rounds of a strategy."""
    strategies = [one.model_copy(update={"rounds": rounds}) if one.title == title else one for one in plan.scenario.strategies]
    return replace(plan, scenario=plan.scenario.model_copy(update={"strategies": strategies}))


def _largest(tune: Tune, *paths: str) -> int | None:
    """The largest value of the first of some parameters that is searched."""
    for path in paths:
        if (choice := tune.parameters.get(path)) is not None:
            return int(choice.high) if isinstance(choice, Range) else max((one for one in choice if isinstance(one, int)), default=None)
    return None
