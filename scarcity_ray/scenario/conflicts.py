"""Conflicts: settings that are valid one by one but impossible together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core.registry import class_title
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.data.held_out import participants
from scarcity_ray.ensemble.representation import Automatic, Representation

if TYPE_CHECKING:
    from scarcity_ray.scenario.schema import Scenario


def conflicts(data: Any) -> list[SpecError]:
    """Every conflict in a scenario's plain data. The data may have other errors too: what cannot be read is skipped."""
    return list(_conflicts(data)) if isinstance(data, Mapping) else []


def unavailable(scenario: Scenario) -> list[SpecError]:
    """The settings that ask for more than this machine has, for a scenario that is to run on this machine."""
    asked, there = scenario.execution.cpus, cores()
    if asked == "auto" or asked <= there:
        return []
    return [SpecError(("execution", "cpus"), asked, f"this process may use {there}; allowed: auto, or 1 to {there}")]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _conflicts(data: Mapping[str, Any]) -> Iterator[SpecError]:
    try:
        clients = _participants(_section(data, "data"))
    except SpecError as error:
        yield error
        return
    strategies = data.get("strategies")
    listed = [(place, item) for place, item in enumerate(strategies) if isinstance(item, Mapping)] if isinstance(strategies, list) else []
    yield from _names(listed)
    yield from _models(data, listed)
    for place, strategy in listed:
        yield from _cohort(("strategies", place), strategy, clients)
        yield from _local(("strategies", place), _section(strategy, "local"), _section(data, "local"))
        yield from _preparation(("strategies", place), strategy, _count(data.get("rounds")))
    yield from _execution(_section(data, "execution"), clients)
    sample = _count(_section(data, "evaluation").get("clients"))
    if sample and clients and sample > clients:
        yield SpecError(("evaluation", "clients"), sample, f"data.clients is {clients:,}; allowed: all, or at most {clients:,}")


def _participants(data: Mapping[str, Any]) -> int | None:
    """How many clients take part; None if the data do not say. Raises SpecError if held_out_clients leaves none."""
    clients, share = _count(data.get("clients")), data.get("held_out_clients")
    return participants(clients, share) if clients and isinstance(share, float) and 0 < share < 1 else clients


def _names(listed: list[tuple[int, Mapping[str, Any]]]) -> Iterator[SpecError]:
    first: dict[str, int] = {}
    for place, strategy in listed:
        title = strategy.get("name") or strategy_name(strategy)
        if not isinstance(title, str):
            continue
        if title.casefold() in (ALONE, GUESS):
            message = "that name is a baseline's, which every run computes; choose another `name`"
            yield SpecError(("strategies", place, "name"), title, message)
        known = first.setdefault(title.casefold(), place)  # names become file names, and some disks ignore case
        if known != place:
            message = f"strategies.{known} has that name too; give one of them a different `name`"
            yield SpecError(("strategies", place, "name"), title, message)


def _models(data: Mapping[str, Any], listed: list[tuple[int, Mapping[str, Any]]]) -> Iterator[SpecError]:
    if data.get("model") is not None:
        return
    needing = [
        strategy_name(strategy)
        for _, strategy in listed
        if strategy.get("model") is None
        and (cls := STRATEGIES.find(strategy)) is not None
        and (
            cls.problem is Strategy.problem  # a strategy with its own model overrides this
            or _section(strategy, "representation").get("kind") == "trunk"
        )
    ]
    if needing:
        names = ", ".join(dict.fromkeys(needing))
        yield SpecError(("model",), None, f"needed by {names}; say what to train, for example `model: {{kind: linear}}`")


def _cohort(path: tuple[str, int], strategy: Mapping[str, Any], clients: int | None) -> Iterator[SpecError]:
    sampled = strategy.get("clients_per_round")
    if sampled is not None and strategy.get("fraction") is not None:
        yield SpecError((*path, "clients_per_round"), sampled, f"fraction is given too ({strategy['fraction']}); keep one of them")
    count = _count(sampled)
    if count and clients and count > clients:
        yield SpecError((*path, "clients_per_round"), count, f"data.clients is {clients:,}; allowed: at most {clients:,}")


def _local(path: tuple[str, int], own: Mapping[str, Any], inherited: Mapping[str, Any]) -> Iterator[SpecError]:
    """A strategy's momentum, if the optimizer that it inherits from the scenario has none."""
    momentum = own.get("momentum")
    if isinstance(momentum, int | float) and momentum > 0 and "optimizer" not in own and inherited.get("optimizer") == "adam":
        message = "only sgd has momentum, and local.optimizer is adam; leave momentum out, or set `optimizer: sgd` here too"
        yield SpecError((*path, "local", "momentum"), momentum, message)


def _preparation(path: tuple[str, int], strategy: Mapping[str, Any], scenario_rounds: int | None) -> Iterator[SpecError]:
    """A strategy whose representation takes all of its rounds: it would learn no model."""
    own, representation = strategy.get("rounds"), _representation(strategy)
    rounds = _count(own) or scenario_rounds
    if representation is None or rounds is None:
        return
    trained, asked = representation.rounds, representation.asked
    if isinstance(representation, Automatic):
        asked = (*asked, "moments")  # a trial follows them
    if trained >= rounds:
        message = f"the strategy has {rounds:,} rounds, and at least one must follow those that train the trunk; raise `rounds`"
        yield SpecError((*path, "representation", "rounds"), trained, message)
    elif len(asked) >= rounds:
        said = "" if _count(own) else f"the scenario's `rounds` is {rounds:,}, and "
        first = f"{len(asked)} round{'s' * (len(asked) > 1)} ({' and '.join(asked)})"
        message = f"{said}its representation takes {first} before the strategy can learn"
        yield SpecError((*path, "rounds"), own, f"{message}; allowed: at least {len(asked) + 1}, or a number as representation.bandwidth")


def _representation(strategy: Mapping[str, Any]) -> Any:
    """A strategy's representation; None if it has none, or an invalid one."""
    cls = STRATEGIES.find(strategy)
    field = None if cls is None else cls.model_fields.get("representation")
    try:
        return field and TypeAdapter(Representation).validate_python(strategy.get("representation", field.default))
    except ValidationError:
        return None


def strategy_name(strategy: Mapping[str, Any]) -> str:
    """The default `name` of a strategy: its kind, or the name of the class that it imports."""
    kind, path = strategy.get("kind"), strategy.get("path")
    return class_title(path.rpartition(":")[2].rpartition(".")[2]) if kind == "import" and isinstance(path, str) else str(kind)


def _execution(execution: Mapping[str, Any], clients: int | None) -> Iterator[SpecError]:
    actors, each = _count(execution.get("actors")), _count(execution.get("clients_per_actor"))
    if actors and each:
        yield SpecError(("execution", "clients_per_actor"), each, f"actors is given too ({actors}); keep one of them")
    if actors and clients and actors > clients:
        yield SpecError(("execution", "actors"), actors, f"data.clients is {clients:,}; allowed: auto, or at most one actor per client")
    if execution.get("ray") is False and execution.get("address") not in (None, "local"):
        yield SpecError(("execution", "address"), execution["address"], "ray is false, so no cluster is used; leave out one of them")


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name)
    return section if isinstance(section, Mapping) else {}


def _count(value: Any) -> int | None:
    """The value if it is an integer of at least 1; None for `auto`, `all` and anything invalid."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
