"""`tune`: searches settings for each strategy by validation rows, with equal budgets, and tests the best on fresh seeds."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scarcity_ray.core.metrics import headline
from scarcity_ray.report.progress import Progress
from scarcity_ray.report.tuned import show_tuned
from scarcity_ray.results.environment import differences
from scarcity_ray.results.files import Unwritable, held, to_json, write_whole
from scarcity_ray.results.log import FILE as LOG
from scarcity_ray.results.log import log_to
from scarcity_ray.results.results import Results
from scarcity_ray.results.trials import FILE, Trial, read_trials, trials_hash, write_trials
from scarcity_ray.runtime.claim import FILE as SCENARIO
from scarcity_ray.runtime.claim import claimed
from scarcity_ray.runtime.fleet import WorkerError, describe_error
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.session import Session, anchored, facts_of, keep_arrays
from scarcity_ray.runtime.simulation import Changed, Interrupted, ended, in_words
from scarcity_ray.runtime.trying import Outcome, Trials
from scarcity_ray.scenario import Diagnostic, Loaded, ScenarioError, load, parse, resolved
from scarcity_ray.scenario.tuning import Budget
from scarcity_ray.tuning.halving import promoted, rungs
from scarcity_ray.tuning.proposers import proposer
from scarcity_ray.tuning.space import Setting, edges

BEST, ANSWER, FINAL = "best.yaml", "tune.json", "final"
TOGETHER = "all strategies"
"""What trials.parquet calls the one search of all strategies."""


@dataclass(frozen=True)
class Tuned:
    """What a search left. directory: its folder. answer: the content of tune.json. results: of the final test on fresh seeds."""

    directory: Path
    answer: Mapping[str, Any]
    results: Results


def is_search(directory: Path) -> bool:
    """Whether a folder is that of a search."""
    return (directory / FILE).is_file()


def tune(
    scenario: Loaded | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    force: bool = False,
    imports: bool = False,
    show: bool = False,
    session: Session | None = None,
) -> Tuned:
    """Searches as the `tune` section of a scenario says, and leaves trials.parquet, best.yaml, tune.json and the final test in `final`.

    scenario: as for `simulate`; or the folder of a search that was cut short, which then comes to the end it would have had: finished
    trials are not played again. out: its folder, runs/NAME-tune if left out. force: replaces what is there; continues a search although
    something has changed that results depend on. imports: a folder may name models to import.
    Raises ScenarioError, OutputExists, Changed, RunFailed, Interrupted.
    """
    if isinstance(scenario, str | Path) and is_search(Path(scenario)):
        return _resumed(Path(scenario), force, imports, show, session)
    given = load(scenario) if isinstance(scenario, str | Path) else scenario
    checked, base_dir = (given.scenario, given.base_dir) if isinstance(given, Loaded) else (parse(given), Path())
    if checked.tune is None:
        raise ScenarioError(
            [Diagnostic(("tune",), "is missing: say which parameters are searched, as tune: {parameters: {local.lr: ...}}")]
        )
    folder = Path(out) if out is not None else checked.directory.with_name(f"{checked.directory.name}-tune")
    with in_words(given), claimed(folder.expanduser(), only=out is not None, force=force) as directory:
        trials = Trials(checked, base_dir)
        trials.refuse_what_cannot_be_tried()
        facts = facts_of(checked, trials.plan)
        with held(directory):
            _emptied(directory)
            write_whole(directory / SCENARIO, resolved(anchored(checked, base_dir)).encode())
            write_whole(directory / "environment.json", to_json(facts).encode())
            keep_arrays(checked, base_dir, directory)
            write_trials(directory, [])
            return _Search(trials, base_dir, directory, show).run(session)


def _resumed(directory: Path, force: bool, imports: bool, show: bool, session: Session | None) -> Tuned:
    before = Results.load(directory, imports=imports)
    loaded = load(before.runnable())
    with in_words(loaded):
        trials = Trials(loaded.scenario, loaded.base_dir)
        if not force and (found := differences(before.environment, facts_of(loaded.scenario, trials.plan))):
            raise Changed(directory, found)
        with held(directory):
            return _Search(trials, loaded.base_dir, directory, show, read_trials(directory)).run(session)


def _emptied(directory: Path) -> None:
    """Removes what an earlier search left, so that nothing of it is taken for this one's."""
    for name in (FILE, BEST, ANSWER):
        (directory / name).unlink(missing_ok=True)
    if (directory / FINAL).is_dir():
        shutil.rmtree(directory / FINAL)


class _Search:
    """One search in one folder. known: trials that were played before; they are not played again."""

    def __init__(self, trials: Trials, base_dir: Path, directory: Path, show: bool, known: Sequence[Trial] = ()) -> None:
        self.of, self.base_dir, self.directory, self.show = trials, base_dir, directory, show
        self.scenario, self.tune, self.shown = trials.scenario, trials.tune, trials.shown
        self.trials: list[Trial] = []
        self.known = {one.key: one for one in known}
        titles = trials.titles
        self.searches = {title: (title,) for title in titles} if self.tune.per_strategy else {TOGETHER: titles}

    def run(self, session: Session | None) -> Tuned:
        """Plays what is left of the search, then the final test."""
        own = Session() if session is None else nullcontext(session)
        with self._ending(), own as session:
            with Progress(self.show) as progress, log_to(self.directory / LOG, append=bool(self.known)):
                best = {name: self._searched(name, session, progress) for name in self.searches}
            final = self._final(best, session)
        answer = self._answer(best, final)
        write_whole(self.directory / ANSWER, to_json(answer).encode())
        if self.show:
            show_tuned(Console(), answer, self.directory)
        return Tuned(self.directory, answer, final)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(self.directory) from None
        except (WorkerError, Unwritable) as error:
            words = describe_error(error) if isinstance(error, WorkerError) else str(error)
            raise RunFailed(words, self.directory) from error

    def _searched(self, name: str, session: Session, progress: Progress) -> Trial | None:
        """The best trial of a search: of those that were promoted most often the one with the best score. None if none finished."""
        titles = self.searches[name]
        source = proposer(self.tune.method, self.of.space(titles), self.scenario.seed, name)
        ladder = rungs(self.tune.halving, self.of.most_rounds(titles))
        purse, count = _Purse(self.tune.budget), 0
        standing: dict[int, Trial] = {}  # of each setting, the trial that was promoted most often
        while not purse.empty and (settings := source.ask()):
            alive = list(range(len(settings)))
            last: dict[int, Trial] = {}
            for rung, rounds in enumerate(ladder):
                for place in alive:
                    if purse.empty:
                        break
                    last[place] = self._tried(name, count + place, rung, rounds, settings[place], last.get(place), session)
                    purse.pay(last[place])
                    standing[count + place] = last[place]
                    progress.message(self._line(last[place], self._best(standing)))
                if rung + 1 < len(ladder):
                    assert self.tune.halving is not None
                    scores = [self._score(last.get(place)) for place in alive]
                    alive = [alive[one] for one in promoted(scores, self.tune.halving.eta)]
            source.tell([self._score(last.get(place)) for place in range(len(settings))])
            count += len(settings)
        return self._best(standing)

    def _best(self, standing: Mapping[int, Trial]) -> Trial | None:
        finished = [trial for trial in standing.values() if trial.status == "finished"]
        return max(finished, key=lambda trial: (trial.rung, self._score(trial), -trial.trial), default=None)

    def _tried(self, name: str, number: int, rung: int, rounds: int, setting: Setting, before: Trial | None, session: Session) -> Trial:
        """A trial: the recorded one, or played now and recorded. before: that of the rung below. Where it ended before its rounds did, and
        where the same setting was tried before, nothing is left to play."""
        if (known := self.known.get((name, number, rung))) is not None:
            if dict(known.parameters) != json.loads(json.dumps(setting)) or known.rounds != rounds:
                raise RunFailed(
                    f"{self.directory / FILE}: trial {number} of {name} is not what this search proposes: another version of optuna or of "
                    "this program began it. Begin another search (--force)",
                    self.directory,
                )
            self.trials.append(known)
            return known
        began = time.perf_counter()
        if before is not None and before.played is not None and before.played < before.rounds:
            found = Outcome("finished", 0, before.validation, before.played, before.bytes)
        elif (same := self._same(name, rounds, setting)) is not None:
            found = Outcome(same.status, 0, same.validation, same.played, same.bytes)
        else:
            found = self.of.played(self.searches[name], setting, rounds, session)
        seconds = time.perf_counter() - began
        trial = Trial(name, number, rung, rounds, setting, found.value, found.updates, found.played, found.bytes, seconds, found.status)
        self.trials.append(trial)
        write_trials(self.directory, self.trials)
        return trial

    def _same(self, name: str, rounds: int, setting: Setting) -> Trial | None:
        """An earlier trial of the same setting over as many rounds, which came to what this one would."""
        of = [one for one in self.trials if one.strategy == name and one.rounds == rounds]
        return next((one for one in of if dict(one.parameters) == setting), None)

    def _final(self, best: Mapping[str, Trial | None], session: Session) -> Results:
        """The best settings on fresh seeds: best.yaml, and its run. Strategies of which no trial finished are left out."""
        settings = {title: dict(trial.parameters) for name, trial in best.items() if trial is not None for title in self.searches[name]}
        if not settings:
            raise RunFailed("no trial finished: they diverged, or do not fit into the bytes that are allowed", self.directory)
        data = self.of.changed(settings) | {
            "seed": self.scenario.seed + 1,
            "repeats": self.tune.repeats,
            "name": f"{self.scenario.name[:95]}-best",
        }
        data["strategies"] = [one for one in data["strategies"] if one["name"] in settings]
        for one in data["strategies"] if self.tune.bytes is not None else ():
            if (trial := best[one["name"]]) is not None:
                one["rounds"] = trial.played
        found = parse(data).model_copy(update={"data": anchored(self.scenario, self.base_dir).data})
        write_whole(self.directory / BEST, resolved(found).encode())
        return ended(found, self.directory / FINAL, base_dir=self.directory, show=self.show, session=session)

    def _answer(self, best: Mapping[str, Trial | None], final: Results) -> dict[str, Any]:
        summary, federation = final.summary, self.of.plan.federation
        same = self.tune.metric in (None, self.scenario.evaluation.metric)
        key = headline(federation.task, self.scenario.evaluation.metric).key if same else self.shown.key
        found = {}
        for name, trial in best.items():
            own = [one for one in self.trials if one.strategy == name]
            for title in self.searches[name]:
                entry = summary["strategies"].get(title, {})
                test, value = entry.get(key), None if trial is None else trial.validation
                worse = None if value is None or test is None else (value - test) * (1 if self.shown.metric.higher_is_better else -1)
                found[title] = {
                    "parameters": None if trial is None else dict(trial.parameters),
                    "validation": value,
                    "test": test,
                    "std": entry.get("std", {}).get(key),
                    "optimism": worse,
                    "bytes": entry.get("bytes_per_client"),
                    "edges": [] if trial is None else edges(self.of.space((title,)), dict(trial.parameters)),
                    "trials": len({one.trial for one in own}),
                    "updates": sum(one.updates for one in own),
                    "seconds": sum(one.seconds for one in own),
                    "diverged": sum(one.status == "diverged" for one in own),
                    "too_large": sum(one.status == "too large" for one in own),
                    "impossible": sum(one.status == "impossible" for one in own),
                }
        return {
            "scenario": self.scenario.name,
            "metric": self.shown.short,
            "folds": len(self.of.folds),
            "bytes": self.tune.bytes,
            "repeats": self.tune.repeats,
            "fresh": self.scenario.data.repeats,
            "best": (summary.get("best") or {}).get("strategies", []),
            "comparisons": summary.get("comparisons", []),
            "trials_hash": trials_hash(self.trials),
            "strategies": found,
        }

    def _score(self, trial: Trial | None) -> float | None:
        """More is better; None for a trial that did not finish, or was not played."""
        if trial is None or trial.validation is None:
            return None
        return trial.validation if self.shown.metric.higher_is_better else -trial.validation

    def _line(self, trial: Trial, best: Trial | None) -> str:
        value = trial.status if trial.validation is None else f"{self.shown.short} {trial.validation:.4g}"
        chosen = "" if best is None or best.validation is None else f" (best {best.validation:.4g})"
        what = ", ".join(f"{name}={one:.3g}" if isinstance(one, float) else f"{name}={one}" for name, one in trial.parameters.items())
        return f"{trial.strategy}  trial {trial.trial + 1}, {trial.rounds} rounds  {value}{chosen}  {what}"


class _Purse:
    """What a search may still spend. Without a budget it is never empty."""

    def __init__(self, budget: Budget | None) -> None:
        self._budget, self._spent = budget, 0.0

    @property
    def empty(self) -> bool:
        """Whether all is spent."""
        return self._budget is not None and self._spent >= (self._budget.updates or self._budget.seconds or 0)

    def pay(self, trial: Trial) -> None:
        """Takes what a trial cost."""
        self._spent += trial.seconds if self._budget is not None and self._budget.seconds is not None else trial.updates
