"""The runs that say what each scarcity costs: nothing scarce, each alone, all but each, all; and a quarter more of each budget.

They are what-if runs with common random numbers: every draw is a hash of (seed, purpose, client), so a client has the same link, the same
battery and the same days in each run where these count at all, and differences between runs are not luck of the draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scarcity_ray.core.spec import Spec
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.data.columns import Columns
from scarcity_ray.scarcity.availability import Always
from scarcity_ray.scarcity.draws import ChoicesDraw, Draw, scaled
from scarcity_ray.scarcity.spec import Budget, Dropout, Scarcity
from scarcity_ray.scenario.schema import NAME_LENGTH, Output, Scenario

FOLDER = "scarcity"
"""Where in a run's directory the further runs lie, each in a folder of its own."""

ALL, FREE = "all", "free"
MORE = 1.25
"""How many times as much of a budget the runs have that say what more of it is worth."""

_NOTHING: dict[str, Spec] = {"availability": Always(), "dropout": Dropout(), "budget": Budget()}
"""What limits nothing although it is written down."""


@dataclass(frozen=True)
class ScarcityRuns:
    """scarcities, budgets: what is scarce, and which budgets are given, in the order of the settings. scenarios: by the name of the run;
    `all` is the scenario itself. played_as: for each row of the report the name of its run; rows whose worlds are the same share one."""

    scarcities: tuple[str, ...]
    budgets: tuple[str, ...]
    scenarios: dict[str, Scenario]
    played_as: dict[str, str]

    @property
    def further(self) -> dict[str, Scenario]:
        """The scenarios beside the one that they are derived from."""
        return {name: one for name, one in self.scenarios.items() if name != ALL}


def only(scarcity: str) -> str:
    """The row in which nothing else is scarce."""
    return f"only_{scarcity}"


def all_but(scarcity: str) -> str:
    """The row in which all else is scarce."""
    return f"all_but_{scarcity}"


def more(budget: str) -> str:
    """The row with MORE of a budget."""
    return f"more_{budget}"


def scarcity_runs(scenario: Scenario, features: Sequence[str] = ()) -> ScarcityRuns:
    """The runs of a scenario's report. features: the input columns of its table, where it has one.

    Energy is scarce by its battery. Its prices (power, idle, per_byte) limit nothing and stay in every run, as `budget.joules` is counted
    by them. A world without any limit stands for no section `scarcity`: results are the same, and strategies may keep their round_interval.
    """
    spec = scenario.scarcity or Scarcity()
    parts = scarcities(spec)
    given = budgets(spec)
    worlds = {
        FREE: _without(spec, parts),
        **{only(name): _without(spec, [other for other in parts if other != name]) for name in parts},
        **{all_but(name): _without(spec, [name]) for name in parts},
        ALL: spec,
        **{more(name): _with_more(spec, name) for name in given},
    }
    scenarios, played_as = {ALL: scenario}, dict[str, str]()
    for row, world in worlds.items():
        same = (name for name, one in scenarios.items() if one.scarcity == world)
        played_as[row] = next(same, row)
        if played_as[row] not in scenarios:
            scenarios[row] = _derived(scenario, row, world, features)
    return ScarcityRuns(parts, given, scenarios, played_as)


def scarcities(spec: Scarcity) -> tuple[str, ...]:
    """The settings of `scarcity` that limit something."""
    found = [name for name in Scarcity.model_fields if getattr(spec, name) not in (None, _NOTHING.get(name))]
    return tuple(name for name in found if name != "energy" or (spec.energy is not None and spec.energy.battery is not None))


def budgets(spec: Scarcity) -> tuple[str, ...]:
    """The budgets that are given: those of `budget`, the run's deadline, and the battery."""
    found = [name for name in Budget.model_fields if spec.budget is not None and getattr(spec.budget, name) is not None]
    battery = spec.energy is not None and spec.energy.battery is not None
    return (*found, *(["deadline"] if spec.deadline is not None else []), *(["battery"] if battery else []))


def _without(spec: Scarcity, names: Collection[str]) -> Scarcity:
    """The world in which these are not scarce."""
    changes: dict[str, Spec | None] = {name: Always() if name == "availability" else None for name in names}
    if "energy" in names and spec.energy is not None:
        changes["energy"] = spec.energy.model_copy(update={"battery": None, "recharge": 0.0})
    return spec.model_copy(update=changes)


def _with_more(spec: Scarcity, budget: str) -> Scarcity:
    if budget == "deadline" and spec.deadline is not None:
        return spec.model_copy(update={"deadline": MORE * spec.deadline})
    if budget == "battery" and spec.energy is not None and spec.energy.battery is not None:
        return spec.model_copy(update={"energy": spec.energy.model_copy(update={"battery": scaled(spec.energy.battery, MORE)})})
    assert spec.budget is not None
    draw = scaled(getattr(spec.budget, budget), MORE)
    return spec.model_copy(update={"budget": spec.budget.model_copy(update={budget: _whole(draw) if budget == "rounds" else draw})})


def _whole(draw: Draw) -> Draw:
    """Rounds, rounded up: 1.25 times 3 rounds would be 3. Values of a law or a column are not whole anyway, or not known here."""
    if isinstance(draw, ChoicesDraw):
        return ChoicesDraw(choices=[float(math.ceil(value)) for value in draw.choices])
    return float(math.ceil(draw)) if isinstance(draw, float) else draw


def _derived(scenario: Scenario, row: str, world: Scarcity, features: Sequence[str]) -> Scenario:
    """A run of the same data, models and strategies in another world."""
    changes = {
        "strategies": [_suited(strategy, world) for strategy in scenario.strategies],
        "name": f"{scenario.name[: NAME_LENGTH - 1 - len(row)]}-{row}",
        "scarcity": world,
        "evaluation": scenario.evaluation.model_copy(update={"scarcity_report": False}),
        "output": Output(),
    }
    source = scenario.data.source
    if isinstance(source, Columns) and source.features is None and scenario.scarcity is not None and scenario.scarcity.columns:
        # A column that only a draw names is no input; without that draw it would be one.
        changes["data"] = scenario.data.model_copy(update={"source": source.model_copy(update={"features": tuple(features)})})
    return scenario.model_copy(update=changes)


def _suited(strategy: Strategy, world: Scarcity) -> Strategy:
    """The strategy, with the uniform draw where its selection goes by time and no turn takes any: nobody is faster than another then."""
    rule = strategy.selects
    if rule is None or rule.needs != "time" or (world.compute, world.network) != (None, None):
        return strategy
    return strategy.model_copy(update={"selection": "uniform"})
