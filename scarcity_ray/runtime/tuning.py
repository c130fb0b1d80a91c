"""`tune`: searches settings for each strategy by validation rows, with equal budgets, and tests the best on fresh seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scarcity_ray.core.metrics import headline
from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.inner import judged
from scarcity_ray.report.progress import Progress
from scarcity_ray.report.tuned import show_tuned
from scarcity_ray.results.checkpoints import Checkpoint
from scarcity_ray.results.environment import differences
from scarcity_ray.results.files import Unwritable, held, to_json, write_whole
from scarcity_ray.results.results import Results
from scarcity_ray.results.trials import FILE, Trial, read_trials, trials_hash, write_trials
from scarcity_ray.runtime.claim import FILE as SCENARIO
from scarcity_ray.runtime.claim import claimed
from scarcity_ray.runtime.fleet import ActorLost, WorkerError, describe_error
from scarcity_ray.runtime.loop import RunFailed
from scarcity_ray.runtime.loop import rounds as play_rounds
from scarcity_ray.runtime.plan import RunPlan, planned, prepare
from scarcity_ray.runtime.session import Session, anchored, facts_of
from scarcity_ray.runtime.simulation import Changed, Interrupted, in_words, resume, simulate
from scarcity_ray.scenario import Diagnostic, Loaded, Scenario, ScenarioError, load, parse, resolved
from scarcity_ray.scenario.tuning import Range, Tune
from scarcity_ray.tuning.halving import promoted, rungs
from scarcity_ray.tuning.proposers import proposer
from scarcity_ray.tuning.space import Setting, Space, edges

BEST, ANSWER, FINAL = "best.yaml", "tune.json", "final"
TOGETHER = "all strategies"
"""What trials.parquet calls the one search of all strategies."""

_ATTEMPTS = 3


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
    show: bool = False,
    session: Session | None = None,
) -> Tuned:
    """Searches as the `tune` section of a scenario says, and leaves trials.parquet, best.yaml, tune.json and the final test in `final`.

    scenario: as for `simulate`; or the folder of a search that was cut short, which then comes to the end it would have had: finished
    trials are not played again. out: its folder, runs/NAME-tune if left out. Raises ScenarioError, OutputExists, RunFailed, Interrupted.
    """
    if isinstance(scenario, str | Path) and is_search(Path(scenario)):
        return _resumed(Path(scenario), show, session)
    given = load(scenario) if isinstance(scenario, str | Path) else scenario
    checked, base_dir = (given.scenario, given.base_dir) if isinstance(given, Loaded) else (parse(given), Path())
    if checked.tune is None:
        raise ScenarioError(
            [Diagnostic(("tune",), "is missing: say which parameters are searched, as tune: {parameters: {local.lr: ...}}")]
        )
    folder = Path(out) if out is not None else checked.directory.with_name(f"{checked.directory.name}-tune")
    with in_words(given), claimed(folder.expanduser(), only=out is not None, force=force) as directory:
        search = _Search(checked, base_dir, directory, show)
        search.refuse_what_cannot_be_tried()
        facts = facts_of(checked, search.plan)
        with held(directory):
            write_whole(directory / SCENARIO, resolved(anchored(checked, base_dir)).encode())
            write_whole(directory / "environment.json", to_json(facts).encode())
            write_trials(directory, [])
            return search.run(session)


def _resumed(directory: Path, show: bool, session: Session | None) -> Tuned:
    before = Results.load(directory)
    loaded = load(before.runnable())
    with in_words(loaded):
        search = _Search(loaded.scenario, loaded.base_dir, directory, show)
        if found := differences(before.environment, facts_of(loaded.scenario, search.plan)):
            raise Changed(directory, found)
        with held(directory):
            return search.run(session)


class _Search:
    """One search in one folder. Trials that the folder has are not played again."""

    def __init__(self, scenario: Scenario, base_dir: Path, directory: Path, show: bool) -> None:
        assert scenario.tune is not None
        self.scenario, self.base_dir, self.directory, self.show = scenario, base_dir, directory, show
        self.tune: Tune = scenario.tune
        self.plan = prepare(scenario, base_dir)
        self.shown = headline(self.plan.federation.task, self.tune.metric or scenario.evaluation.metric)
        self.folds = judged(self.plan.federation, scenario.seed, inner=scenario.data.split is None)
        self.trials: list[Trial] = []
        self.known = {one.key: one for one in read_trials(directory)}

    @property
    def searches(self) -> dict[str, tuple[str, ...]]:
        """The titles of the strategies of each search, by its name."""
        titles = tuple(strategy.title for strategy in self.scenario.strategies)
        return {title: (title,) for title in titles} if self.tune.per_strategy else {TOGETHER: titles}

    def space(self, search: str) -> Space:
        """The parameters that concern a search."""
        return {
            path: choice
            for path, choice in self.tune.parameters.items()
            if any(self._concerns(path, title) for title in self.searches[search])
        }

    def _concerns(self, path: str, title: str) -> bool:
        first, *rest = path.split(".")
        if first != "strategies":
            return first != "local" or self._trains(title)
        return rest[0] == title

    def _trains(self, title: str) -> bool:
        """Whether a strategy's clients train locally: where no step is planned, its settings of local training change nothing."""
        strategy = next(one for one in self.scenario.strategies if one.title == title)
        problem = self.plan.problems[title]
        return bool(strategy.planned_steps(problem, strategy.init_server(problem)).any())

    def refuse_what_cannot_be_tried(self) -> None:
        """Raises ScenarioError for a parameter that is no field, a value that is not allowed, or data without rows to choose by."""
        found, titles = [], [strategy.title for strategy in self.scenario.strategies]
        for path, choice in self.tune.parameters.items():
            first, *rest = path.split(".")
            where = ("tune", "parameters", path)
            if first == "strategies" and (len(rest) < 2 or rest[0] not in titles):
                found.append(Diagnostic(where, f"names no strategy; allowed: strategies.NAME.field, with NAME one of {', '.join(titles)}"))
            elif first not in ("strategies", "local") and (self.tune.per_strategy or first in _NOT_SEARCHED):
                found.append(Diagnostic(where, _REFUSED if first in _NOT_SEARCHED else f"is one for all strategies: {_SHARED}"))
            else:
                for value in (choice.low, choice.high) if isinstance(choice, Range) else choice:
                    whole = int(value) if isinstance(choice, Range) and choice.integer else value  # type: ignore[arg-type]
                    for title in [one for one in titles if self._concerns(path, one)]:
                        try:
                            self._of((title,), {path: whole}, 1)
                        except ScenarioError as error:
                            found.append(Diagnostic(where, f"cannot be {whole!r} for {title}: {error.problems[0].message}"))
        if found:
            raise ScenarioError(found)
        if not any(len(fold.test.x) for fold in self.folds):
            raise SpecError(("data", "validation_fraction"), self.scenario.data.validation_fraction, "no row is left to choose by")

    def run(self, session: Session | None) -> Tuned:
        """Plays what is left of the search, then the final test."""
        own = Session() if session is None else nullcontext(session)
        with self._ending(), own as session:
            with Progress(self.show) as progress:
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
        except KeyboardInterrupt:
            raise Interrupted(self.directory) from None
        except (WorkerError, Unwritable) as error:
            words = describe_error(error) if isinstance(error, WorkerError) else str(error)
            raise RunFailed(words, self.directory) from error

    def _searched(self, name: str, session: Session, progress: Progress) -> Trial | None:
        """The best trial of a search, None if all diverged."""
        space = self.space(name)
        source = proposer(self.tune.method, space, self.scenario.seed, name)
        most = max(self.plan.rounds(one) for one in self.scenario.strategies if one.title in self.searches[name])
        ladder = rungs(self.tune.halving, most)
        spent, count = 0.0, 0
        best: Trial | None = None
        budget = self.tune.budget
        limit = None if budget is None else budget.updates or budget.seconds
        while limit is None or spent < limit:
            settings = source.ask()
            if not settings:
                break
            alive = list(range(len(settings)))
            last: list[float | None] = [None] * len(settings)
            for rung, rounds in enumerate(ladder):
                for place in alive:
                    trial = self._tried(name, count + place, rung, rounds, settings[place], session)
                    spent += trial.updates if budget is None or budget.seconds is None else trial.seconds
                    last[place] = self._score(trial.validation)
                    if rounds == ladder[-1] and last[place] is not None and (best is None or last[place] > self._score(best.validation)):  # type: ignore[operator]
                        best = trial
                    progress.message(self._line(trial, best))
                if rung + 1 < len(ladder):
                    assert self.tune.halving is not None
                    alive = [alive[one] for one in promoted([last[place] for place in alive], self.tune.halving.eta)]
            source.tell(last)
            count += len(settings)
        return best

    def _tried(self, name: str, number: int, rung: int, rounds: int, setting: Setting, session: Session) -> Trial:
        """A trial: the recorded one, or played now and recorded."""
        if (known := self.known.get((name, number, rung))) is not None:
            if dict(known.parameters) != json.loads(json.dumps(setting)) or known.rounds != rounds:
                raise RunFailed(
                    f"{self.directory / FILE}: trial {number} of {name} is another one than this search proposes", self.directory
                )
            trial = known
        else:
            began = time.perf_counter()
            value, updates = self._played(self.searches[name], setting, rounds, session)
            status = "diverged" if value is None else "finished"
            trial = Trial(name, number, rung, rounds, setting, value, updates, time.perf_counter() - began, status)
        self.trials.append(trial)
        if known is None:
            write_trials(self.directory, self.trials)
        return trial

    def _played(self, titles: Sequence[str], setting: Setting, rounds: int, session: Session) -> tuple[float | None, int]:
        """The metric on the rows that judge, a mean over folds and strategies, None where it diverged; and the updates trained."""
        scenario = self._of(titles, setting, rounds)
        values, updates = [], 0
        for fold in self.folds:
            plan = planned(scenario, fold, scenario.seed)
            for strategy in scenario.strategies:
                value, trained = self._of_fold(plan, strategy.title, session)
                updates += trained
                values.append(value)
                if value is None:
                    return None, updates
        return sum(value for value in values if value is not None) / len(values), updates

    def _of_fold(self, plan: RunPlan, title: str, session: Session) -> tuple[float | None, int]:
        for attempt in range(1, _ATTEMPTS + 1):
            updates, value = 0, None
            try:
                group = session.group(plan, lambda _: None)
                group.load_federation(plan)
                for result in play_rounds(plan, group, Checkpoint(title, plan.seed), dict):
                    updates += int(result.row["clients"])
                    if result.diverged:
                        return None, updates
                    measured = result.row.get(self.shown.metric.column)
                    value = value if measured is None else measured
            except ActorLost:
                if attempt == _ATTEMPTS:
                    raise
                group.recover(plan)
                continue
            shown = float("nan") if value is None else float(self.shown.shape(value))
            return (shown if shown == shown else None), updates
        raise AssertionError

    def _of(self, titles: Sequence[str], setting: Setting, rounds: int) -> Scenario:
        """The scenario of a trial: these strategies with a setting, for at most so many rounds. Raises ScenarioError."""
        data = self._with(dict.fromkeys(titles, setting))
        data["strategies"] = [one for one in data["strategies"] if one["name"] in titles]
        for one in data["strategies"]:
            one["rounds"] = min(rounds, one["rounds"] or self.scenario.rounds)
        data["evaluation"] |= {"every": self.scenario.rounds, "metric": self.tune.metric or data["evaluation"]["metric"], "target": None}
        data["evaluation"] |= {"scarcity_report": False, "predictions": False}
        return parse(data).model_copy(update={"data": self.scenario.data})

    def _with(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """The scenario's plain data, with its own setting in each strategy that has one."""
        data: dict[str, Any] = deepcopy(self.scenario.model_dump(mode="json", exclude={"tune": True, "sweep": True}))
        data["repeats"] = 1
        for strategy, one in zip(self.scenario.strategies, data["strategies"], strict=True):
            one["name"] = strategy.title
            for path, value in settings.get(strategy.title, {}).items():
                if self._concerns(path, strategy.title):
                    _put(data, one, path.split("."), value)
        return data

    def _final(self, best: Mapping[str, Trial | None], session: Session) -> Results:
        """The best settings on fresh seeds: best.yaml, and its run."""
        settings = {title: dict(trial.parameters) for name, trial in best.items() if trial is not None for title in self.searches[name]}
        data = self._with(settings) | {
            "seed": self.scenario.seed + 1,
            "repeats": self.tune.repeats,
            "name": f"{self.scenario.name[:95]}-best",
        }
        found = parse(data).model_copy(update={"data": anchored(self.scenario, self.base_dir).data})
        write_whole(self.directory / BEST, resolved(found).encode())
        out = self.directory / FINAL
        if (out / SCENARIO).is_file() and (out / SCENARIO).stat().st_size:
            return resume(out, imports=True, show=self.show)
        return simulate(found, base_dir=self.directory, out=out, show=self.show, session=session)

    def _answer(self, best: Mapping[str, Trial | None], final: Results) -> dict[str, Any]:
        summary = final.summary
        found = {}
        for name, trial in best.items():
            own = [one for one in self.trials if one.strategy == name]
            for title in self.searches[name]:
                entry = summary["strategies"][title]
                key = headline(self.plan.federation.task, self.scenario.evaluation.metric).key
                same = self.tune.metric in (None, self.scenario.evaluation.metric)
                test = entry.get(key if same else self.shown.key)
                value = None if trial is None else trial.validation
                worse = None if value is None or test is None else (value - test) * (1 if self.shown.metric.higher_is_better else -1)
                found[title] = {
                    "parameters": None if trial is None else dict(trial.parameters),
                    "validation": value,
                    "test": test,
                    "std": entry.get("std", {}).get(key if same else self.shown.key),
                    "optimism": worse,
                    "edges": [] if trial is None else edges(self.space(name), dict(trial.parameters)),
                    "trials": len({one.trial for one in own}),
                    "updates": sum(one.updates for one in own),
                    "seconds": sum(one.seconds for one in own),
                    "diverged": sum(one.status == "diverged" for one in own),
                }
        return {
            "scenario": self.scenario.name,
            "metric": self.shown.short,
            "folds": len(self.folds),
            "repeats": self.tune.repeats,
            "best": (summary.get("best") or {}).get("strategies", []),
            "comparisons": summary.get("comparisons", []),
            "trials_hash": trials_hash(self.trials),
            "strategies": found,
        }

    def _score(self, value: float | None) -> float | None:
        return None if value is None else value if self.shown.metric.higher_is_better else -value

    def _line(self, trial: Trial, best: Trial | None) -> str:
        value = "diverged" if trial.validation is None else f"{self.shown.short} {trial.validation:.4g}"
        chosen = "" if best is None or best.validation is None else f" (best {best.validation:.4g})"
        what = ", ".join(f"{name}={one:.3g}" if isinstance(one, float) else f"{name}={one}" for name, one in trial.parameters.items())
        return f"{trial.strategy}  trial {trial.trial + 1}, {trial.rounds} rounds  {value}{chosen}  {what}"


_NOT_SEARCHED = ("data", "seed", "repeats", "evaluation", "execution", "output", "name", "question", "scarcity")
_REFUSED = "is no setting of a strategy: `sweep` is for what the federation is like"
_SHARED = "set per_strategy to false, or name the field of one strategy (strategies.NAME.field)"


def _put(data: dict[str, Any], strategy: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Sets a field: of the strategy's own local training, of the strategy, or of the scenario."""
    at: dict[str, Any] = data
    if path[0] == "local":
        strategy["local"] = at = {**(strategy["local"] or {})}
        path = path[1:]
        if path[0] in ("epochs", "steps"):
            at.pop("steps" if path[0] == "epochs" else "epochs", None)
    elif path[0] == "strategies":
        at, path = strategy, path[2:]
    for part in path[:-1]:
        if not isinstance(at.get(part), dict):
            at[part] = {}
        at = at[part]
    at[path[-1]] = value
