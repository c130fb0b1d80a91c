"""`simulate`: plays a scenario to its end. `resume`: continues a run that was cut short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from scarcity_ray.report.final_table import show_final
from scarcity_ray.report.progress import Progress
from scarcity_ray.report.scarcity_in_words import show_scarcity
from scarcity_ray.results.checkpoints import Checkpoint, Checkpoints
from scarcity_ray.results.environment import differences
from scarcity_ray.results.reading import refuse_links
from scarcity_ray.results.results import Results
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.runtime.scarcity_report import is_reported, play_report
from scarcity_ray.runtime.session import Session, facts_of, is_finished
from scarcity_ray.runtime.supervisor import ProcessLost, supervise
from scarcity_ray.scenario import Scenario, load, parse

__all__ = ["Changed", "Interrupted", "OutputExists", "RunFailed", "RunPlan", "prepare", "resume", "simulate"]


class OutputExists(RuntimeError):
    """The directory that was named for the results holds a run already."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


class Interrupted(RuntimeError):
    """The run was interrupted (Ctrl-C); `directory` keeps what was done."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(directory)
        self.directory = directory


class Changed(RuntimeError):
    """What a run's results depend on has changed; `differences` says what, a line each."""

    def __init__(self, directory: Path, differences: list[str]) -> None:
        super().__init__(directory, differences)
        self.directory, self.differences = directory, differences

    def __str__(self) -> str:
        return f"{self.directory}: what its results depend on has changed"


def simulate(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    *,
    base_dir: Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    show: bool = False,
    attended: bool = False,
    session: Session | None = None,
) -> Results:
    """Runs a scenario (checked, as plain data, or a file's path) and returns what it left.

    base_dir: where relative paths in it start; the file's folder, or the working directory. out: where results go, in
    place of the scenario's directory; force replaces a run there. show: progress and final table on the terminal. attended: a
    run with Ray is played in a child process, and in another one if that is killed; for programs that do nothing else, as this
    process ends with it. session: whose actors play the run, and stay for the next one; new actors if left out. The further runs of a
    scarcity report follow in DIRECTORY/scarcity; `resume` continues these too.
    Raises ScenarioError or SpecError before anything starts, OutputExists, RunFailed, Interrupted.
    """
    if isinstance(scenario, str | Path):
        loaded = load(scenario)
        scenario, base_dir = loaded.scenario, base_dir or loaded.base_dir
    elif isinstance(scenario, Mapping):
        scenario = parse(scenario)
    base_dir = base_dir or Path()
    directory = _directory(scenario, out, force)
    before = _identity(directory)
    if attended and _supervise(scenario, directory) and _identity(directory) != before:
        return resume(directory, imports=True, show=show)
    return _played(scenario, base_dir, directory, prepare(scenario, base_dir), show, session=session)


def resume(run_dir: str | Path, *, force: bool = False, imports: bool = False, show: bool = False, attended: bool = False) -> Results:
    """Continues a run that was killed, interrupted or failed, from its last checkpoint, to the end it would have had.

    force: also where something has changed that results depend on; the results are then those of neither version. imports: also
    where its scenario names models to import, which runs code that the directory names. attended: see `simulate`.
    Raises RunError for what is no run or cannot be read, ScenarioError, Changed; RunFailed and Interrupted as `simulate`.
    """
    before = Results.load(run_dir, imports=imports)
    directory = before.directory
    refuse_links(directory)
    loaded = load(before.runnable(), before.added_settings())
    scenario, base_dir = loaded.scenario, loaded.base_dir
    if attended:
        _supervise(scenario, directory)
    plan = prepare(scenario, base_dir)
    if not force and (found := differences(before.environment, facts_of(scenario, plan))):
        raise Changed(directory, found)
    if is_finished(before, scenario):
        if not is_reported(scenario, directory):
            return _reported(before, base_dir, plan, show)
        if show:
            _show(before)
        return before
    last, broken = Checkpoints(directory).last()
    if show:
        for problem in broken:
            Console().print(f"left alone: {problem}", soft_wrap=True, markup=False, highlight=False)
    return _played(scenario, base_dir, directory, plan, show, last)


def _supervise(scenario: Scenario, directory: Path) -> int:
    """Returns in a child process, see `supervise`: the number of those that were killed before it."""
    try:
        return supervise(print) if scenario.execution.ray else 0
    except ProcessLost as error:
        raise RunFailed(str(error), directory) from None


def _played(
    scenario: Scenario,
    base_dir: Path,
    directory: Path,
    plan: RunPlan,
    show: bool,
    last: Checkpoint | None = None,
    session: Session | None = None,
) -> Results:
    report = scenario.evaluation.scarcity_report
    own = Session(once=not report) if session is None else nullcontext(session)
    with own as session:
        with _one_thread(), _interruptible(directory), Progress(show) as progress:
            diverged = session.play(scenario, base_dir, directory, plan, progress, last)
        results = Results.load(directory, imports=True)  # the user has just run what it names
        if show:
            show_final(Console(), results.summary, directory)
        if report:
            _reported(results, base_dir, plan, show, session)
    if diverged:
        raise RunFailed("\n".join(diverged), directory)
    return results


def _reported(results: Results, base_dir: Path, plan: RunPlan, show: bool, session: Session | None = None) -> Results:
    """Plays what is left of the runs of the report, and returns the results of the run that it is of."""
    own = Session() if session is None else nullcontext(session)
    with _one_thread(), _interruptible(results.directory), Progress(show) as progress, own as session:
        found = play_report(plan, base_dir, results.directory, session, progress)
    if show:
        show_scarcity(Console(), found, results.directory)
    return results


def _show(results: Results) -> None:
    console = Console()
    show_final(console, results.summary, results.directory)
    if results.scarcity is not None:
        show_scarcity(console, results.scarcity, results.directory)


@contextmanager
def _interruptible(directory: Path) -> Iterator[None]:
    """Turns Ctrl-C into Interrupted, which names what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(directory if directory.is_dir() else None) from None


def _directory(scenario: Scenario, out: str | Path | None, force: bool) -> Path:
    """Where the run goes: `out`, or the scenario's directory, or that with -2, -3, ... where it holds a run."""
    if out is not None:
        path = Path(out).expanduser()  # no shell has expanded a cluster job's arguments
        if not force and _holds_a_run(path):
            raise OutputExists(path)
        return path
    first = scenario.directory.expanduser()
    path, number = first, 1
    while _holds_a_run(path):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _identity(directory: Path) -> tuple[int, int] | None:
    """What identifies the run that a directory holds; None where it holds none."""
    try:
        found = (directory / "scenario.yaml").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _holds_a_run(path: Path) -> bool:
    return (path / "scenario.yaml").exists()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread, as in every actor, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
