"""`simulate`: plays a scenario to its end. `resume`: continues a run that was cut short."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.arrays import Held
from scarcity_ray.report.final_table import show_final
from scarcity_ray.report.progress import Progress
from scarcity_ray.report.scarcity_in_words import show_scarcity
from scarcity_ray.results.checkpoints import Checkpoint, Checkpoints
from scarcity_ray.results.environment import differences
from scarcity_ray.results.files import Unwritable
from scarcity_ray.results.kept import kept
from scarcity_ray.results.reading import refuse_links
from scarcity_ray.results.results import Results
from scarcity_ray.runtime.claim import FILE, OutputExists, claimed
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.observers import Callbacks
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.runtime.scarcity_report import is_reported, play_report
from scarcity_ray.runtime.session import Session, facts_of, is_finished
from scarcity_ray.runtime.supervisor import ProcessLost, supervise
from scarcity_ray.scenario import Diagnostic, Loaded, Scenario, ScenarioError, SpecErrors, load, parse, with_arrays
from scarcity_ray.scenario.checking import at_its_place

__all__ = ["Changed", "Interrupted", "OutputExists", "RunFailed", "RunPlan", "prepare", "resume", "simulate"]


class Interrupted(RuntimeError):
    """The run was interrupted (Ctrl-C); `directory` keeps what was done."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(directory)
        self.directory = directory

    def __str__(self) -> str:
        return "\n".join(["interrupted", *kept(self.directory)])


class Changed(RuntimeError):
    """What a run's results depend on has changed; `differences` says what, a line each."""

    def __init__(self, directory: Path, differences: list[str]) -> None:
        super().__init__(directory, differences)
        self.directory, self.differences = directory, differences

    def __str__(self) -> str:
        head = f"{self.directory}: what its results depend on has changed"
        remedy = "undo the change, run the scenario again, or continue by force (--force, force=True)"
        return "\n".join([head, *self.differences, remedy])


def simulate(
    scenario: Scenario | Loaded | Mapping[str, Any] | str | Path,
    *,
    base_dir: Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    show: bool = False,
    attended: bool = False,
    session: Session | None = None,
    observers: Sequence[Any] = (),
) -> Results:
    """Runs a scenario (checked, as plain data, or a file's path) and returns what it left.

    base_dir: where relative paths in it start; the file's folder, or the working directory. out: where results go, in
    place of the scenario's directory; force replaces a run there. show: progress and final table on the terminal. attended: a
    run with Ray is played in a child process, and in another one if that is killed; for programs that do nothing else, as this
    process ends with it. session: whose actors play the run, and stay for the next one; new actors if left out. observers: objects with
    `on_round(row)`, which gets a copy of each row of `rounds`, or `on_end(results)`, or both; they change nothing. The further runs of a
    scarcity report follow in DIRECTORY/scarcity; `resume` continues these too.
    Raises ScenarioError before anything starts, OutputExists, RunFailed, Interrupted; each says what to do.
    """
    callbacks = Callbacks(observers)
    given = load(scenario) if isinstance(scenario, str | Path) else scenario
    checked = given.scenario if isinstance(given, Loaded) else parse(given) if isinstance(given, Mapping) else given
    base_dir = base_dir or (given.base_dir if isinstance(given, Loaded) else Path())
    with in_words(given), claimed(_place(checked, out), only=out is not None, force=force) as directory:
        before = _identity(directory)
        if attended and _supervise(checked, directory) and _identity(directory) != before:
            return resume(directory, imports=True, show=show)
        return _played(checked, base_dir, directory, prepare(checked, base_dir), show, callbacks, session=session)


def resume(
    run_dir: str | Path,
    *,
    force: bool = False,
    imports: bool = False,
    show: bool = False,
    attended: bool = False,
    observers: Sequence[Any] = (),
    arrays: Mapping[str, Any] | None = None,
) -> Results:
    """Continues a run that was killed, interrupted or failed, from its last checkpoint, to the end it would have had.

    force: also where something has changed that results depend on; the results are then those of neither version. imports: also
    where its scenario names models to import, which runs code that the directory names. attended, observers: see `simulate`.
    arrays: x, y and perhaps client, where the run was given arrays and has kept their digest alone.
    Raises RunError for what is no run or cannot be read, ScenarioError, Changed; RunFailed and Interrupted as `simulate`.
    """
    callbacks = Callbacks(observers)
    before = Results.load(run_dir, imports=imports)
    directory = before.directory
    refuse_links(directory)
    loaded = load(before.runnable(), before.added_settings())
    with in_words(loaded):
        scenario = loaded.scenario if arrays is None else with_arrays(loaded.scenario, Held.of(**arrays))
    base_dir = loaded.base_dir
    if attended:
        _supervise(scenario, directory)
    with in_words(loaded):
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
    with in_words(loaded):
        return _played(scenario, base_dir, directory, plan, show, callbacks, last)


def ended(
    scenario: Scenario, out: Path, *, base_dir: Path, force: bool = False, show: bool = False, session: Session | None = None
) -> Results:
    """The results of a run in a folder that is the caller's own: what is there, or continued, or played now.

    force: continued although something has changed. A strategy that diverged is part of the results. Raises as `simulate` else.
    """
    try:
        if _begun(out):
            before = Results.load(out, imports=True)
            return before if is_finished(before, scenario) else resume(out, force=force, imports=True, show=show)
        return simulate(scenario, base_dir=base_dir, out=out, force=True, show=show, session=session)
    except RunFailed:
        if _begun(out) and is_finished(left := Results.load(out, imports=True), scenario):
            return left
        raise


def _supervise(scenario: Scenario, directory: Path) -> int:
    """Returns in a child process, see `supervise`: the number of those that were killed before it."""
    try:
        return supervise(_to_stderr) if scenario.execution.ray else 0
    except ProcessLost as error:
        raise RunFailed(str(error), directory) from None


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _played(
    scenario: Scenario,
    base_dir: Path,
    directory: Path,
    plan: RunPlan,
    show: bool,
    callbacks: Callbacks,
    last: Checkpoint | None = None,
    session: Session | None = None,
) -> Results:
    report = scenario.evaluation.scarcity_report
    own = Session(once=not report) if session is None else nullcontext(session)
    with own as session:
        with _one_thread(), _interruptible(directory), Progress(show) as progress:
            diverged = session.play(scenario, base_dir, directory, plan, progress, last, callbacks)
        results = Results.load(directory, imports=True)  # the user has just run what it names
        if show:
            show_final(Console(), results.summary, directory)
        if report:
            _reported(results, base_dir, plan, show, session)
    callbacks.on_end(results)
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
        raise Interrupted(directory if _begun(directory) else None) from None


@contextmanager
def in_words(given: Scenario | Loaded | Mapping[str, Any]) -> Iterator[None]:
    """Turns what cannot work with the data or the machine into a ScenarioError, with the lines of the file where there is one; and a
    folder that cannot be made into RunFailed."""
    try:
        yield
    except (SpecError, SpecErrors) as error:
        if isinstance(given, Loaded):
            raise given.explain(error) from error
        data = given.model_dump(mode="json") if isinstance(given, Scenario) else given
        errors = error.errors if isinstance(error, SpecErrors) else (error,)
        raise ScenarioError([at_its_place(each, data, {}) for each in errors]) from error
    except Unwritable as error:
        raise RunFailed(str(error), None) from error


def _place(scenario: Scenario, out: str | Path | None) -> Path:
    """Where results go. No shell has expanded the arguments of a cluster's job."""
    if out is not None and not str(out):
        raise ScenarioError([Diagnostic((), "the folder for results is an empty text: name one (--out, out=), or leave it out")])
    return (scenario.directory if out is None else Path(out)).expanduser()


def _begun(directory: Path) -> bool:
    """Whether the run has written its scenario, and so can be read."""
    found = directory / FILE
    return found.is_file() and found.stat().st_size > 0


def _identity(directory: Path) -> tuple[int, int] | None:
    """What identifies the run that a directory holds; None where it holds none."""
    try:
        found = (directory / FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread, as in every actor, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
