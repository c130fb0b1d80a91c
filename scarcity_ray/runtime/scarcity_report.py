"""Plays the runs of a scarcity report in the actors of the run that it is of, and writes the report."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scarcity_ray.actors.server import Server
from scarcity_ray.core.spec import SpecError
from scarcity_ray.report.progress import Progress
from scarcity_ray.results.checkpoints import Checkpoints
from scarcity_ray.results.log import get_logger
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.results.scarcity_costs import scarcity_costs, write_costs
from scarcity_ray.runtime.fleet import describe_error
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.runtime.session import Session, is_finished
from scarcity_ray.scenario import Scenario, SpecErrors
from scarcity_ray.scenario.what_if import ALL, FOLDER


def is_reported(scenario: Scenario, directory: Path) -> bool:
    """Whether the report of a run is written, or none was asked for."""
    return not scenario.evaluation.scarcity_report or (directory / "scarcity.json").exists()


def play_report(plan: RunPlan, base_dir: Path, directory: Path, session: Session, progress: Progress) -> dict[str, Any]:
    """Plays what is left of the further runs of a finished run, and returns what its scarcity.json says.

    plan: of the run in the directory. A run that is finished is not played again, and one that was cut short continues, so a report can
    be interrupted at any moment. Raises RunFailed, which names the directory of the whole.
    """
    runs = plan.scarcity_runs
    further = runs.further
    for place, (name, scenario) in enumerate(further.items()):
        folder = directory / FOLDER / name
        if (folder / "scenario.yaml").exists() and is_finished(Results.load(folder), scenario):
            continue
        progress.message(f"scarcity report: run {place + 1} of {len(further)}, {name}")
        try:
            _play(scenario, plan, base_dir, folder, session, progress)
        except (RunFailed, SpecError, SpecErrors) as error:
            raise RunFailed(f"{FOLDER}/{name}: {error}", directory) from error
    where = {name: directory if name == ALL else directory / FOLDER / name for name in runs.scenarios}
    try:
        found = scarcity_costs(runs, {name: Results.load(path) for name, path in where.items()})
        _draw(found, directory, progress)
        write_costs(found, directory)
        _draw_page(directory, progress)
    except (RunError, OSError) as error:
        raise RunFailed(str(error), directory) from error
    return found


def _play(scenario: Scenario, first: RunPlan, base_dir: Path, directory: Path, session: Session, progress: Progress) -> None:
    """Plays a run to its end, from where it is. first: of the run that it is compared with."""
    last, _ = Checkpoints(directory).last() if directory.is_dir() else (None, [])
    plan = prepare(scenario, base_dir)
    _refuse_other_rows(plan, first)
    session.play(scenario, base_dir, directory, plan, progress, last)  # who diverges in it is told by the report


def _refuse_other_rows(plan: RunPlan, first: RunPlan) -> None:
    """Raises SpecError where clients are not tested on the same rows: then nothing can be compared client by client."""
    one, other = plan.federation.test, first.federation.test
    if not (np.array_equal(one.starts, other.starts) and np.array_equal(one.y, other.y)):
        message = (
            "without the columns that only scarcity names, other rows of the table are complete: leave incomplete rows out of the table"
        )
        raise SpecError(("data", "source", "missing"), "drop", message)


def _draw(found: dict[str, Any], directory: Path, progress: Progress) -> None:
    from scarcity_ray.report.scarcity_map import draw_scarcity  # here, because matplotlib takes a second to import

    _unless_it_fails(lambda path: draw_scarcity(found, path), directory / "scarcity.png", progress)


def _draw_page(directory: Path, progress: Progress) -> None:
    """The page of the run once more, with the report in it."""
    from scarcity_ray.report.page import NAME, draw_page

    _unless_it_fails(lambda path: draw_page(Results.load(directory), path), directory / NAME, progress)


def _unless_it_fails(draw: Callable[[Path], object], path: Path, progress: Progress) -> None:
    """Draws, or says why not: all that a picture shows is in the tables."""
    try:
        draw(path)
    except Exception as failure:
        get_logger(Server).warning("%s: %s\n%s", path.name, failure, traceback.format_exc())
        progress.message(f"{path} could not be drawn: {describe_error(failure)}")
