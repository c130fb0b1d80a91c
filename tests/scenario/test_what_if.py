"""Which runs say what each scarcity costs, and that clients have in each of them what they have in the scenario itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario

from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scarcity.availability import Population
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scarcity.world import World
from scarcity_ray.scenario import parse, scarcity_runs

SCARCE: dict[str, Any] = {
    "samples": {"maximum": 5},
    "network": {},
    "energy": {"battery": {"uniform": {"low": 1.0, "high": 3.0}}, "recharge": 0.5},
    "budget": {"joules": {"lognormal": {"median": 2.0, "sigma": 0.5, "maximum": 4.0}}, "rounds": 3.0},
    "deadline": 100.0,
}


def worlds(scarcity: dict[str, Any]) -> dict[str, Scarcity]:
    runs = scarcity_runs(parse(scenario(scarcity=scarcity, evaluation={"scarcity_report": True})))
    assert not any(one.evaluation.scarcity_report for one in runs.further.values())
    return {row: found for row, name in runs.played_as.items() if (found := runs.scenarios[name].scarcity) is not None}


def world_of(spec: Scarcity) -> World:
    return World.of(spec, Population(3, 50, None, {}))


def limits(spec: Scarcity) -> set[str]:
    """What limits anything, apart from the code."""
    found = {name for name in ("samples", "compute", "network", "budget", "deadline", "dropout") if getattr(spec, name) is not None}
    found |= {"availability"} if spec.availability.kind != "always" else set()
    return found | ({"energy"} if spec.energy is not None and spec.energy.battery is not None else set())


def test_each_scarcity_is_alone_once_and_left_out_once() -> None:
    found, every = worlds(SCARCE), set(SCARCE)
    assert limits(found["all"]) == every
    assert limits(found["free"]) == set()
    for name in SCARCE:
        assert limits(found[f"only_{name}"]) == {name}
        assert limits(found[f"all_but_{name}"]) == every - {name}
    assert {row for row in found if row.startswith("more_")} == {"more_joules", "more_rounds", "more_deadline", "more_battery"}
    assert len(found) == 2 * len(SCARCE) + 2 + 4
    for world in found.values():  # a budget of joules is never without the prices that it is counted by
        assert Scarcity.model_validate(world.model_dump()) == world
        assert world.energy is not None
        assert world.energy.power == 5.0


@pytest.mark.parametrize(
    ("scarcity", "runs"),
    [
        ({"network": {}}, {"all", "free"}),
        ({"network": {}, "energy": {}, "dropout": {}, "budget": {}}, {"all", "free"}),  # the others limit nothing
        ({"network": {}, "deadline": 5.0}, {"all", "free", "only_network", "only_deadline", "more_deadline"}),
        ({"availability": {"kind": "always"}}, {"all"}),
    ],
)
def test_rows_with_the_same_world_are_one_run(scarcity: dict[str, Any], runs: set[str]) -> None:
    assert set(scarcity_runs(parse(scenario(scarcity=scarcity))).scenarios) == runs


def test_a_quarter_more_is_of_that_budget_alone_for_every_client() -> None:
    found = worlds(SCARCE)
    for budget, path in {"joules": ("budget", "joules"), "battery": ("energy", "battery"), "deadline": ("deadline",)}.items():
        here, there = found[f"more_{budget}"].model_dump(), found["all"].model_dump()
        one, other = here, there
        for part in path[:-1]:
            one, other = one[part], other[part]
        assert one.pop(path[-1]) != other.pop(path[-1])
        assert here == there
    assert found["more_deadline"].deadline == 125.0
    assert found["more_rounds"].budget == found["all"].budget.model_copy(update={"rounds": 4.0})  # type: ignore[union-attr]
    base, joules, battery = (world_of(found[name]) for name in ("all", "more_joules", "more_battery"))
    np.testing.assert_allclose(joules.budgets["joules"], 1.25 * base.budgets["joules"])
    np.testing.assert_allclose(battery.battery, 1.25 * base.battery)


def test_clients_have_the_same_draws_in_every_run() -> None:
    content = scenario(scarcity=SCARCE | {"compute": {}})
    runs, whole = scarcity_runs(parse(content)), prepare(parse(content), Path())
    drawn = ("flops", "downlink", "uplink", "battery")
    kept = {"only_network": drawn[1:3], "only_compute": drawn[:1], "only_energy": drawn[3:], "all_but_samples": drawn}
    for name, values in kept.items():
        plan = prepare(runs.scenarios[name], Path())
        assert np.array_equal(plan.federation.test.x, whole.federation.test.x)
        for one in drawn:
            mine, wanted = getattr(plan.world, one), getattr(whole.world, one)
            assert np.array_equal(mine, wanted if one in values else np.full(12, np.inf))


def test_a_column_of_clients_is_no_input_where_nothing_is_scarce(tmp_path: Path) -> None:
    rows = "".join(f"{shop},{size},{mbit},{size + 0.5}\n" for shop, mbit in (("a", 3), ("b", 5)) for size in range(6))
    (tmp_path / "shops.csv").write_text(f"shop,size,mbit,price\n{rows}")
    source = {"kind": "table", "path": "shops.csv", "client": "shop", "label": "price", "task": "regression"}
    content = scenario(
        data={"source": source},
        model={"kind": "linear"},
        scarcity={"network": {"downlink": {"column": "mbit"}}, "deadline": 9.0},
    )
    plan = prepare(parse(content), tmp_path)
    for one in plan.scarcity_runs.further.values():
        assert prepare(one, tmp_path).federation.shape == plan.federation.shape == (1,)
    names = [plan.scarcity_runs.scenarios[row].scarcity for row in ("only_network", "more_deadline")]
    assert all(one is not None and one.columns == ("mbit",) for one in names)


def test_a_report_of_nothing_is_refused() -> None:
    for scarcity in (None, {}, {"energy": {}}):
        with pytest.raises(SpecError, match=r"evaluation\.scarcity_report is True: nothing is scarce: .* scarcity: \{network: \{\}\}"):
            prepare(parse(scenario(scarcity=scarcity, evaluation={"scarcity_report": True})), Path())


def test_where_no_turn_takes_time_the_fastest_are_drawn_uniformly(tmp_path: Path) -> None:
    strategies = [{"kind": "fed_avg", "clients_per_round": 3, "selection": "fast"}]
    content = scenario(scarcity={"network": {}, "deadline": 9.0}, strategies=strategies, evaluation={"scarcity_report": True})
    runs = scarcity_runs(parse(content))
    for one in runs.scenarios.values():
        prepare(one, tmp_path)  # refuses a selection that has nothing to choose by
    selections = {row: runs.scenarios[name].strategies[0].model_dump()["selection"] for row, name in runs.played_as.items()}
    timeless = {row for row, selection in selections.items() if selection == "uniform"}
    assert timeless == {"free", "only_deadline", "all_but_network"}
