"""What tests share: one Ray session, and small scenarios."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.scenarios import scenario
from hypothesis import settings
from threadpoolctl import threadpool_limits

import scarcity_ray  # noqa: F401 - first, because it sets MKL_CBWR before any product
from scarcity_ray import simulate
from scarcity_ray.runtime.observers.plots import Plots
from scarcity_ray.runtime.ray_fleet import RayLauncher

DRAWING = Plots.on_run_end

# Torch computes on one thread in every run and actor. Threads of torch's or of BLAS that wait for each other on a busy machine make
# tests of the parts take up to four times as long.
torch.set_num_threads(1)
threadpool_limits(1, "blas")

# The same examples in every run, and no deadline: tests do not depend on how busy the machine is.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with one of these marks run where the mark is asked for: together they take an hour. `.ci/run` asks for all.

    Those on Ray come last: beside its processes, and on two cores, every other test takes twice as long.
    """
    asked = config.option.markexpr
    marks = [mark for mark in ("slow", "browser", "chaos", "cluster") if mark not in asked]
    left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: "ray_session" in getattr(item, "fixturenames", ()))
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def without_plots() -> Iterator[None]:
    """Runs in this process draw nothing: it would take four fifths of a small run's time. Programs that tests start still draw."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Plots, "on_run_end", lambda plots, error: None)
        yield


@pytest.fixture
def with_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw, as they do outside of tests."""
    monkeypatch.setattr(Plots, "on_run_end", DRAWING)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RayLauncher]:
    """Ray on two cores, started once; runs of the tests find it and leave it running."""
    launcher = RayLauncher(cpus=2)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an ensemble and a plain model."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fourier = {"kind": "random_fourier", "features": 16, "bandwidth": 4.0}
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "experts": 2, "representation": fourier}]
    simulate(scenario(model={"kind": "linear"}, strategies=strategies), out=out)
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
