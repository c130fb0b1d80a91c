"""The result hashes are the same for any packing of the clients, with Ray and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import simulate
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.runtime.ray_fleet import RayLauncher

EVERY_STRATEGY = [
    {"kind": "local_only"},
    {"kind": "pooled"},
    {"kind": "fed_avg", "fraction": 0.5},
    {"kind": "fed_avg", "name": "unweighted", "weighted": False},
    {"kind": "fed_avg", "name": "adam", "local": {"epochs": 2, "batch_size": 5, "lr": 0.01, "optimizer": "adam", "clip_norm": 1.0}},
    {"kind": "fed_avg", "name": "imported", "model": {"kind": "import", "path": "helpers.models:sigmoid_mlp", "args": {"hidden": 7}}},
    {"kind": "hier_fed_avg", "period": 2},
    {"kind": "ifca", "experts": 2, "fraction": 0.5},
    {"kind": "reptile"},
    {"kind": "per_fed_avg", "alpha": 0.1, "fraction": 0.5},
    {"kind": "fed_glm", "strength": 0.01, "rounds": 3},
    {"kind": "insight_exchange"},
    {"kind": "gradient_exchange", "dimensions": 20},
    {"kind": "prototypes"},
    {"kind": "prototypes", "name": "shared_means", "personal": False, "representation": {"kind": "trunk"}},
    {"kind": "afl", "column_norms": True, "representation": {"kind": "random_fourier", "features": 20}},
    {"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 20}},
    {"kind": "sf_hfe", "name": "beside", "representation": {"kind": "random_fourier", "features": 72, "inputs": True}},
    {"kind": "sf_hfe", "name": "chosen", "representation": {"kind": "auto", "features": 72}},
    {"kind": "sf_hfe", "name": "shared_head", "personal": False, "representation": {"kind": "identity"}},
    {"kind": "scaffold", "fraction": 0.5},
    {"kind": "fed_dyn", "fraction": 0.5},
    {"kind": "ditto", "fraction": 0.5},
    {"kind": "fed_rep", "fraction": 0.5},
    {"kind": "import", "name": "own", "path": "helpers.user_strategies:FedProx", "mu": 0.5, "fraction": 0.5},
]
EVERY_STRATEGY += [
    {"kind": kind}
    for kind, cls in STRATEGIES.classes.items()
    if kind not in {one["kind"] for one in EVERY_STRATEGY} and cls().answer.concurrency is None  # tests/scarcity has those with a clock
]
FEW = [one for one in EVERY_STRATEGY if one["kind"] in ("fed_avg", "ifca", "gradient_exchange", "prototypes")]
"""Of each way to use the seed one at least: participation, order of rows, first weights, bases, features."""


def also_slow(*cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def hashes(directory: Path, **execution: Any) -> dict[str, str]:
    results = simulate(scenario(strategies=EVERY_STRATEGY, execution=execution), out=directory)
    found = {name: entry["result_hash"] for name, entry in results.summary["strategies"].items()}
    assert all(found.values())
    assert len(found) == len(EVERY_STRATEGY) + 2  # the baselines
    return found


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One process, one actor. For the session: tests on Ray come after those of other files."""
    return hashes(tmp_path_factory.mktemp("reference") / "run", ray=False)


def test_strategies_have_results_of_their_own(reference: dict[str, str]) -> None:
    assert len(set(reference.values())) == len(reference)


@pytest.mark.parametrize("execution", [{"actors": 5}, *also_slow({"clients_per_actor": 1}, {"actors": 2}, {"clients_per_actor": 7})])
def test_packings_in_one_process(execution: dict[str, Any], reference: dict[str, str], tmp_path: Path) -> None:
    assert hashes(tmp_path / "run", ray=False, **execution) == reference


@pytest.mark.parametrize("execution", [{}, *also_slow({"actors": 5}, {"clients_per_actor": 7})])
def test_ray_actors(execution: dict[str, Any], reference: dict[str, str], tmp_path: Path, ray_session: RayLauncher) -> None:
    assert hashes(tmp_path / "run", ray=True, cpus=2, **execution) == reference


def test_another_seed_is_another_result(reference: dict[str, str], tmp_path: Path) -> None:
    results = simulate(scenario(strategies=FEW, seed=4), out=tmp_path / "run")
    assert results.summary["strategies"].keys() < reference.keys()
    others = {entry["result_hash"] for entry in results.summary["strategies"].values()}
    assert not others & set(reference.values())
