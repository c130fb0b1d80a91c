"""What watches a run and writes it down: one file for each observer, and the order in which they are called."""

from __future__ import annotations

from scarcity_ray.report.progress import Progress
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.summary import Tally
from scarcity_ray.results.target import Target
from scarcity_ray.runtime.observers.base import Observer, Round, StrategyRun
from scarcity_ray.runtime.observers.baselines import Baselines
from scarcity_ray.runtime.observers.callbacks import Callbacks
from scarcity_ray.runtime.observers.checkpoints import Checkpointer
from scarcity_ray.runtime.observers.coefficients import Coefficients
from scarcity_ray.runtime.observers.log import RunLog
from scarcity_ray.runtime.observers.models import ModelSaver
from scarcity_ray.runtime.observers.plots import Plots
from scarcity_ray.runtime.observers.progress import ProgressDisplay
from scarcity_ray.runtime.observers.summary import SummaryWriter
from scarcity_ray.runtime.observers.tables import TableWriter
from scarcity_ray.runtime.observers.unseen_clients import UnseenClients
from scarcity_ray.runtime.plan import RunPlan

__all__ = ["Callbacks", "Checkpointer", "Observer", "Round", "StrategyRun", "observers_of"]


def observers_of(
    plan: RunPlan, recorder: Recorder, progress: Progress, last: Checkpoint | None, callbacks: Callbacks
) -> tuple[list[Observer], Checkpointer]:
    """The observers of a run, in the order in which each hook calls them; and the one that knows where a strategy starts.

    The order matters where one needs what another did:
    - on_strategy_start: the baselines of a seed are counted before its first strategy.
    - on_round: a row is recorded and counted before the checkpoint that follows it, which is written after its rows are on disk and
      holds the tally; progress shows the rate of the tally with this round in it.
    - on_trained comes before on_strategy_end, so models are hashed before the result hash is taken.
    - on_strategy_end: the result hash enters the tally before the checkpoint of the strategy's end is made from it.
    - on_run_end: the log has the error first; all rows are on disk before summary.json is written, and both before plots read them.
    The callbacks are those of the user, and last: they see only what is recorded.
    """
    scenario = plan.scenario
    evaluation, facts = scenario.evaluation, plan.federation
    tally = Tally(
        scenario.name,
        facts.task,
        facts.clients,
        question=scenario.question,
        metrics=plan.metrics,
        metric=evaluation.metric,
        margin=evaluation.margin,
        repeats=scenario.data.repeats,
        target=next((Target(facts.task, *one) for one in (evaluation.target or {}).items()), None),
    )
    checkpointer = Checkpointer(recorder, tally, scenario.execution.checkpoint_every, last)
    observers: list[Observer] = [
        RunLog(recorder, plan.notes),
        TableWriter(recorder),
        Baselines(recorder, tally),
        SummaryWriter(recorder, tally, last),
        ModelSaver(recorder),
        UnseenClients(tally),
        ProgressDisplay(progress, tally),
        checkpointer,
        Coefficients(recorder.directory, scenario.seed),
        Plots(recorder.directory, progress.message),
        callbacks,
    ]
    return observers, checkpointer
