"""Runs in one process, one after the other, on one group of actors and, where it is the same, one copy of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from scarcity_ray.core import insights, tables
from scarcity_ray.core.spec import Spec
from scarcity_ray.data.arrays import FILE, Arrays
from scarcity_ray.report.progress import Progress
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.environment import environment
from scarcity_ray.results.files import Unwritable, held, new_file
from scarcity_ray.results.hashing import fingerprint
from scarcity_ray.results.imported import sources
from scarcity_ray.results.log import FILE as LOG
from scarcity_ray.results.log import log_to
from scarcity_ray.results.rebuild import imports
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.runtime.actor_group import ActorGroup, start_actor_group
from scarcity_ray.runtime.fleet import WorkerError, describe_error
from scarcity_ray.runtime.loop import Driver, RunFailed
from scarcity_ray.runtime.observers import Callbacks, observers_of
from scarcity_ray.runtime.plan import RunPlan
from scarcity_ray.scenario import OBSERVED, Scenario, resolved

_Spec = TypeVar("_Spec", bound=Spec)


class Session:
    """Plays runs one after the other, and starts Ray and the actors once for all that can share them.

    Results do not depend on what was played before. Each start of Ray costs seconds and leaves a socket open in this process, so many runs
    belong into one session. Use it in a `with` block: the actors end with it. once: it plays one run, and its
    actors end while the plots are drawn. After a run that failed the next one gets new actors.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._group: ActorGroup | None = None
        self._on: tuple[Any, ...] = ()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the actors, and Ray where this session has started it."""
        group, self._group = self._group, None
        if group is not None:
            group.join()

    def group(self, plan: RunPlan, notify: Callable[[str], None]) -> ActorGroup:
        """The actors of a plan: those of the runs before, where they are on the same machine or cluster with as many CPUs.

        notify: takes a line for the user. Raises SpecError where no cluster answers, or has no room; WorkerError where Ray does not start.
        """
        execution = plan.scenario.execution
        wanted = (execution.ray, execution.address, plan.cpus)
        if self._group is not None and self._on == wanted:
            self._group.prepare_for(plan, notify)
        else:
            self.close()
            self._group, self._on = start_actor_group(plan, notify), wanted
        return self._group

    def play(
        self,
        scenario: Scenario,
        base_dir: Path,
        directory: Path,
        plan: RunPlan,
        progress: Progress,
        last: Checkpoint | None = None,
        callbacks: Callbacks | None = None,
    ) -> list[str]:
        """Plays a scenario into a directory and returns a sentence for each strategy that diverged.

        plan: of its first seed. last: the checkpoint that the run in the directory continues from. callbacks: the user's observers.
        Raises SpecError before anything is written, RunFailed.
        """
        facts, schema = facts_of(scenario, plan), tables.insights(insights.SCHEMA, insights.PAYLOADS)
        done = False
        try:
            group = self._started(plan, progress, directory)  # first: where there is no room for it, nothing is written
            with held(directory), log_to(directory / LOG, append=last is not None):
                recorder = Recorder(
                    directory, resolved(anchored(scenario, base_dir)), facts, schema, last, plan.metrics, plan.prediction_schema()
                )
                keep_arrays(scenario, base_dir, directory)
                observers, checkpoints = observers_of(plan, recorder, progress, last, callbacks or Callbacks(()))
                driver = Driver(scenario, base_dir, group, observers, checkpoints)
                diverged = driver.run(plan, directory, group.leave if self._once else lambda: None)
            done = True
            return diverged
        except OSError as error:
            unwritable = error if isinstance(error, Unwritable) else Unwritable(directory, error)
            raise RunFailed(str(unwritable), directory) from error
        finally:
            if self._once or not done:
                self.close()

    def _started(self, plan: RunPlan, progress: Progress, directory: Path) -> ActorGroup:
        try:
            return self.group(plan, progress.message)
        except WorkerError as error:
            raise RunFailed(describe_error(error), directory) from error


def is_finished(results: Results, scenario: Scenario) -> bool:
    """Whether nothing is left to play: every strategy has ended under every seed."""
    try:
        entries = results.summary["strategies"]
    except RunError:  # there is none before the end
        return False
    ended = {
        (name, seed)
        for name, entry in entries.items()
        for seed, one in (entry.get("seeds") or {str(scenario.seed): entry}).items()
        if one["status"] != "interrupted"
    }
    wanted = [(strategy.title, str(scenario.seed + i)) for strategy in scenario.strategies for i in range(scenario.repeats)]
    return ended >= set(wanted)


def keep_arrays(scenario: Scenario, base_dir: Path, directory: Path) -> None:
    """Writes the arrays of a scenario that is to keep them into its folder."""
    source = scenario.data.source
    if isinstance(source, Arrays) and source.save:
        arrays = source.held(base_dir)  # before the file is replaced: they may come from it
        with new_file(directory / FILE) as draft:
            arrays.save(draft)


def facts_of(scenario: Scenario, plan: RunPlan) -> dict[str, Any]:
    """The content of environment.json: what results depend on, here and now."""
    # Where a table or a trace lies is written differently in a run's own folder; what is in it is in `data`. Metrics only observe.
    left_out: Any = {
        "execution": True,
        "output": True,
        "question": True,
        "tune": True,
        "sweep": True,
        "data": {"source": {"path"}},
        "evaluation": OBSERVED,
    }
    if scenario.scarcity is not None:
        left_out["scarcity"] = {"availability": {"path"}}
    settings = scenario.model_dump(mode="json", exclude=left_out)
    kept = {"scenario": settings, "imports": sources(imports(settings)), "data": fingerprint(plan.federation), "notes": list(plan.notes)}
    return {**environment(scenario.seed), **kept}


def anchored(scenario: Scenario, base_dir: Path) -> Scenario:
    """The same scenario with the paths of its table and of its trace, if it has any, made absolute: it is written into another folder.

    Arrays that the run keeps lie in that folder, which may be moved."""

    def absolute(part: _Spec) -> _Spec:
        if isinstance(part, Arrays) and part.save:
            return part.model_copy(update={"path": FILE})
        path = getattr(part, "path", None)
        return part if path is None else part.model_copy(update={"path": str((base_dir / path).resolve())})

    data, scarcity = scenario.data, scenario.scarcity
    changes: dict[str, Any] = {"data": data.model_copy(update={"source": absolute(data.source)})}
    if scarcity is not None:
        changes["scarcity"] = scarcity.model_copy(update={"availability": absolute(scarcity.availability)})
    return scenario.model_copy(update=changes)
