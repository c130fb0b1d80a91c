"""Fleets grow and shrink: those that stay keep what they have."""

from __future__ import annotations

import pytest
import ray

from scarcity_ray import Router
from scarcity_ray.runtime.fleet import LocalLauncher, WorkerError
from scarcity_ray.runtime.ray_fleet import RayLauncher


def grows_and_shrinks(launcher: LocalLauncher | RayLauncher) -> None:
    fleet = launcher.launch(Router, [(1,)])
    fleet.map(Router.assign, {0: ({7: 0},)})
    fleet.resize([(1,), (2,), (3,)])
    assert fleet.size == 3
    fleet.map(Router.assign, {1: ({7: 1},), 2: ({7: 2},)})
    found = fleet.map(Router.lookup, dict.fromkeys(range(3), ([7],)))
    assert {i: ids.tolist() for i, ids in found.items()} == {0: [0], 1: [1], 2: [2]}
    fleet.resize([(1,), (2,)])
    assert fleet.size == 2
    assert fleet.map(Router.lookup, {1: ([7],)})[1].tolist() == [1]
    fleet.resize([(1,), (2,), (3,)])
    with pytest.raises(WorkerError, match="no expert is assigned"):  # a new one, not the one that was retired
        fleet.map(Router.lookup, {2: ([7],)})
    fleet.close()


def test_in_this_process() -> None:
    grows_and_shrinks(LocalLauncher())


def test_as_ray_actors(ray_session: RayLauncher) -> None:
    grows_and_shrinks(ray_session)


@pytest.mark.parametrize("failures", range(4))
def test_ray_gets_more_than_one_chance_to_start(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is too busy for the first."""
    left = [RuntimeError("The current node timed out during startup.")] * failures
    happened: list[str] = []

    def init(**settings: object) -> None:
        happened.append("init")
        if left:
            raise left.pop()

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("shutdown"))
    if failures == 3:
        with pytest.raises(WorkerError, match=r"Ray did not start on this machine: RuntimeError: The current node timed out"):
            RayLauncher(1, "local")
    else:
        RayLauncher(1, "local")
    assert happened == ["init", "shutdown"] * failures + ["init"] * (failures < 3)


def test_where_somebody_elses_ray_has_died_it_is_not_started_again(ray_session: RayLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = RayLauncher(1)
    assert not launcher.is_dead()
    (here,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [here | {"Alive": False}])
    assert launcher.is_dead()
    with pytest.raises(WorkerError, match="the node of the cluster that this program is on has died"):
        launcher.restart()
