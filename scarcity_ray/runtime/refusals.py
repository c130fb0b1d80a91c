"""Settings that are valid one by one, but cannot work with the data, with a strategy, or with what is scarce."""

from __future__ import annotations

from collections.abc import Mapping

from scarcity_ray.core.aggregation import Aggregator
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scenario import Scenario, scarcity_runs
from scarcity_ray.training.problem import Problem


def impossible(scenario: Scenario, federation: Federation, problems: Mapping[str, Problem]) -> list[SpecError]:
    """What only shows once the clients, their rows and each strategy's problem (by title) are known."""
    clients, found = federation.clients, []
    for place, strategy in enumerate(scenario.strategies):
        if strategy.title in problems:
            for error in [*strategy.refused(problems[strategy.title], federation), *_unsuited(strategy, problems[strategy.title])]:
                own = error.field[0] != "local" or strategy.local is not None
                found.append(SpecError(("strategies", place, *error.field) if own else error.field, error.value, error.message))
        sampled = getattr(strategy, "clients_per_round", None)
        if sampled is not None and sampled > clients:
            found.append(
                SpecError(("strategies", place, "clients_per_round"), sampled, f"there are {clients:,} clients; at most that many")
            )
        for error in [*_unanswered(scenario, strategy), *_unselected(scenario, strategy, clients)]:
            found.append(SpecError(("strategies", place, *error.field), error.value, error.message))
    if scenario.evaluation.scarcity_report and not scarcity_runs(scenario).scarcities:
        message = "nothing is scarce: say what is in a section `scarcity`, as scarcity: {network: {}}, or leave the report out"
        found.append(SpecError(("evaluation", "scarcity_report"), True, message))
    sample, actors = scenario.evaluation.clients, scenario.execution.actors
    if sample != "all" and sample > clients:
        found.append(SpecError(("evaluation", "clients"), sample, f"there are {clients:,} clients; allowed: all, or at most that many"))
    if actors != "auto" and actors > clients:
        found.append(SpecError(("execution", "actors"), actors, f"there are {clients:,} clients; allowed: auto, or at most one actor each"))
    return found


def _unanswered(scenario: Scenario, strategy: Strategy) -> list[SpecError]:
    """Settings that answer a scarcity which is not there, or that need another one."""
    answer, plain, found = strategy.answer, Answer(), []
    fields = {"over_selection": "over_selection", "round_interval": "interval", "round_deadline": "deadline", "minimum_reports": "minimum"}
    if scenario.scarcity is None:
        for field, name in fields.items():
            if (value := getattr(answer, name)) != getattr(plain, name):
                found.append(
                    SpecError((field,), value, "nothing is scarce, so it would do nothing: add a section `scarcity`, or leave it out")
                )
    if answer.concurrency is not None and scenario.scarcity is None:
        message = f"{strategy.kind_title} needs a clock that says who is slow: add a section `scarcity`, as scarcity: {{compute: {{}}}}"
        found.append(SpecError(("kind",), strategy.kind_title, message))
    default = type(strategy).model_fields.get("refresh")
    if (
        default is not None
        and (value := getattr(strategy, "refresh", None)) != default.default
        and (scenario.scarcity is None or answer.collects != value)
    ):
        why = "nothing is scarce" if scenario.scarcity is None else "its clients do not send one by one with these settings"
        found.append(SpecError(("refresh",), value, f"{why}, so it would do nothing: leave it out"))
    if answer.late != "drop" and answer.concurrency is None and answer.deadline is None:
        found.append(SpecError(("late",), answer.late, "without a round_deadline nobody is late: set one, or leave it out"))
    if answer.stalest and strategy.keeps_moves:
        message = f"the server of {strategy.title} adds up what clients keep, and a late part of it must not count less: drop, or partial"
        found.append(SpecError(("late",), answer.late, message))
    if answer.stalest and strategy.newest_only:
        message = f"clients of {strategy.title} start from the newest state, so no late work can count: drop, or partial"
        found.append(SpecError(("late",), answer.late, message))
    return found


def _unselected(scenario: Scenario, strategy: Strategy, clients: int) -> list[SpecError]:
    """A selection that has nothing to choose by, or nobody to choose from."""
    rule, world = strategy.selects, scenario.scarcity
    if rule is None:
        return []
    count, found = strategy.sampled(clients), []
    if count >= clients:
        message = f"all {clients:,} clients take part in each round, so there is nobody to select: set clients_per_round or fraction"
        found.append(SpecError(("selection",), rule.kind_title, message))
    if rule.needs == "time" and (world is None or (world.compute is None and world.network is None)):
        message = "no turn takes time, so nobody is faster than another: add compute or network to a section `scarcity`"
        found.append(SpecError(("selection",), rule.kind_title, message))
    if rule.needs == "energy" and (world is None or world.energy is None):
        message = "no energy is counted: add energy to a section `scarcity`"
        found.append(SpecError(("selection",), rule.kind_title, message))
    if (error := rule.refused(count)) is not None:
        found.append(SpecError(("selection", *error.field), error.value, error.message))
    return found


def _unsuited(strategy: Strategy, problem: Problem) -> list[SpecError]:
    """Settings that do not suit the strategy."""
    found = []
    newest, staleness = strategy.newest_only or strategy.server_half == "meta_learner", strategy.schedule.max_staleness
    if newest and staleness:
        ago = f"with this schedule from one of {staleness} rounds ago: use uniform"
        message = f"clients of {strategy.title} start from the newest state, and {ago}"
        found.append(SpecError(("schedule",), strategy.schedule.kind_title, message))
    aggregator = strategy.aggregation
    if not strategy.uplink and not isinstance(aggregator, Aggregator):
        return found
    uploads = strategy.uploads(problem, strategy.init_server(problem))
    nothing = f"clients of {strategy.title} send {'insights and ' if strategy.sends_insights else ''}no updates, so there is nothing to"
    if strategy.uplink and not uploads:
        message = f"{nothing} transform: leave it out"
        found.append(SpecError(("uplink",), [one.kind_title for one in strategy.uplink], message))
    if isinstance(aggregator, Aggregator):
        sizes = (value.nbytes for value in uploads.values())
        needed = strategy.sampled(problem.population) * sum(sizes) / 2**20
        if needed > aggregator.memory_mb:
            message = f"the updates of a round take {needed:,.1f} MiB: allow as much, sample fewer clients, or take a smaller model"
            found.append(SpecError(("aggregation", "memory_mb"), aggregator.memory_mb, message))
        elif not uploads:
            message = f"{nothing} aggregate: leave it out"
            found.append(SpecError(("aggregation",), aggregator.kind_title, message))
    return found
