"""summary.json: the last metrics of every strategy and what they cost, from the rows of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core import statistics
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import POOLED, WORST, Metric, columns_of, default_headline, headline
from scarcity_ray.metrics import METRICS
from scarcity_ray.results.gains import Gains, SeedGains, compared, describe_best, interval, largest
from scarcity_ray.results.learning import not_learned, still_falling
from scarcity_ray.results.never_joined import NEVER_JOINED, describe_metric, describe_seed
from scarcity_ray.results.never_joined import over_seeds as never_joined_over_seeds
from scarcity_ray.results.target import Target
from scarcity_ray.scarcity.taking_part import TakingPart

Task = Literal["classification", "regression"]
Repeats = Literal["splits", "trainings", "deals", "draws"]
Status = Literal["finished", "diverged", "interrupted"]

NOT_FEDERATED = ("local_only", "pooled", ALONE, GUESS)
"""The kinds that are only compared with: every client alone, all rows in one place, and a guess."""

_SHARES = ("better", "equal", "worse")
_ENOUGH = 5  # evaluations
_GRAVITY: dict[Status, int] = {"finished": 0, "interrupted": 1, "diverged": 2}


@dataclass
class _Run:
    """What one strategy did under one seed. metrics: of the last evaluated round, by column. clients: then, each one's id and value
    of the metric that decides. never: the ids of those that joined no round, None where nothing is scarce. losses, tested: the mean
    loss in training, and on test rows, of each round that has one. settles: it ends by itself, when nothing more is learned."""

    settles: bool = False
    status: Status = "interrupted"
    result_hash: str | None = None
    rounds: int = 0
    seconds: float = 0.0
    updates: int = 0
    rejected: int = 0
    uplink: int = 0
    downlink: int = 0
    steps: int = 0
    train_loss: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    clients: dict[str, NDArray[Any]] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    gains: SeedGains | None = None
    losses: list[float] = field(default_factory=list)
    tested: list[float] = field(default_factory=list)
    joules: float | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    never: list[int] | None = None


class Tally:
    """Adds up a run row by row; `summary` may be asked for at any moment."""

    def __init__(
        self,
        scenario: str,
        task: Task,
        clients: int,
        *,
        question: str | None = None,
        metrics: Sequence[Metric] | None = None,
        metric: str | None = None,
        margin: float = 0.0,
        repeats: Repeats = "draws",
        target: Target | None = None,
    ) -> None:
        """clients: the population, which bytes and steps a client are divided by. metrics: those of the run, all that are registered if
        None. metric: the name of the one that decides, the task's own if None. margin: a gain below it counts as none.
        repeats: what another seed brings, see Data.repeats. target: what each strategy is to reach, None for nothing."""
        self._scenario, self._task, self._clients, self._question = scenario, task, clients, question
        self._shown, self._metric, self._margin = headline(task, metric), metric or default_headline(task), margin
        self._columns = [column for one in (METRICS if metrics is None else metrics) for column in columns_of(one)]
        self._repeats, self._target = repeats, target
        self.recovered = 0  # how often work was done again because an actor had died
        self._kinds: dict[str, str] = {}
        self._runs: dict[str, dict[int, _Run]] = {}

    def begin(self, strategy: str, kind: str, seed: int, settles: bool = False) -> None:
        """A strategy starts; until `end` it counts as interrupted. settles: it ends when there is nothing more to learn."""
        self._kinds[strategy] = kind
        self._runs.setdefault(strategy, {})[seed] = _Run(settles)

    def round(self, row: Mapping[str, Any], steps: int = 0) -> None:
        """Takes a row of `rounds`; steps: local steps of all clients in it together."""
        run = self._runs[row["strategy"]][row["seed"]]
        run.rounds += 1
        run.steps += steps
        run.seconds += row["seconds"]
        run.updates += row["clients"]
        run.rejected += row["rejected"]
        run.uplink += row["uplink_bytes"]
        run.downlink += row["downlink_bytes"]
        if row.get("train_loss") is not None:
            run.train_loss = row["train_loss"]
            run.losses.append(row["train_loss"])
        if (tested := _number(row.get("test_loss"))) is not None:
            run.tested.append(tested)
        if (joules := _number(row.get("joules"))) is not None:
            run.joules = (run.joules or 0.0) + joules
        if self._target is not None and (value := _number(row.get(self._target.column))) is not None:
            spent = {"bytes": run.uplink + run.downlink, "joules": run.joules, "clock_seconds": _number(row.get("clock_seconds"))}
            run.points.append({"round": row["round"], "value": value, **spent})

    def evaluated(self, row: Mapping[str, Any] | None, columns: Mapping[str, Any]) -> None:
        """Takes the row of `rounds` of an evaluated round, and its columns of `clients`, arrays `[clients]` or scalars.

        row: None where its metrics are known already, by `load_state_dict`; then columns hold strategy and seed, scalars.
        """
        strategy, seed = ((columns if row is None else row)[name] for name in ("strategy", "seed"))
        run, size = self._runs[strategy][seed], len(columns["client_id"])
        if row is not None:
            run.metrics = {name: row.get(name) for name in self._columns}
        value = np.broadcast_to(np.asarray(columns[self._shown.metric.column], dtype=np.float64), size)
        run.clients = {"client_id": np.array(columns["client_id"]), "value": value.copy()}
        if "gain" in columns:
            run.gains = SeedGains.of(columns, self._shown)

    def learned(self, strategy: str, seed: int, entries: Mapping[str, Any]) -> None:
        """Takes what is known beyond metrics, of a strategy's experts or of unseen clients, by its key in the summary."""
        self._runs[strategy][seed].learned |= entries

    def took_part(self, strategy: str, seed: int, part: TakingPart, federation: Federation, group: NDArray[np.int64] | None) -> None:
        """Takes what clients have done so far where something is scarce. federation, group: see results.never_joined."""
        self.learned(strategy, seed, describe_seed(part, federation, group))
        self._runs[strategy][seed].never = np.flatnonzero(~part.joined).tolist()

    def traffic(self, strategy: str, seed: int, uplink: int, downlink: int) -> None:
        """Takes the bytes of all clients together, where there are no rounds that tell them."""
        run = self._runs[strategy][seed]
        run.uplink, run.downlink = uplink, downlink

    def end(self, strategy: str, seed: int, status: Status, result_hash: str) -> None:
        """A strategy has ended."""
        run = self._runs[strategy][seed]
        run.status, run.result_hash = status, result_hash

    def ended(self, seed: int) -> set[str]:
        """The strategies that have come to their end under a seed."""
        return {name for name, runs in self._runs.items() if seed in runs and runs[seed].result_hash is not None}

    def seconds(self, strategy: str, seed: int) -> tuple[int, float]:
        """Client updates of a strategy so far, and the seconds they took."""
        run = self._runs[strategy][seed]
        return run.updates, run.seconds

    def state_dict(self) -> dict[str, Any]:
        """The part that cannot be recovered from the tables, in plain values, for `load_state_dict`."""
        return {
            "recovered": self.recovered,
            "kinds": dict(self._kinds),
            "runs": {
                name: {
                    str(seed): {
                        "settles": run.settles,
                        "status": run.status,
                        "result_hash": run.result_hash,
                        "steps": run.steps,
                        "learned": dict(run.learned),
                        "never": run.never,
                        **({} if run.rounds else {"metrics": dict(run.metrics), "uplink": run.uplink, "downlink": run.downlink}),
                    }
                    for seed, run in runs.items()
                }
                for name, runs in self._runs.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned; the rows of the tables until then follow, by `round` and `evaluated`."""
        self.recovered, self._kinds = state["recovered"], dict(state["kinds"])
        self._runs = {name: {int(seed): _Run(**run) for seed, run in runs.items()} for name, runs in state["runs"].items()}

    def summary(self) -> dict[str, Any]:
        """The content of summary.json; values that do not exist (accuracy of a regression) are None.

        With repeats a strategy's entry holds the mean over seeds, `std` (n - 1) and `half_width` (of the 95 % t-interval
        of the mean) by key, and each seed's own entry under `seeds`. Where something is scarce, `never_joined` and `top_30_work_share` say
        who took no part and how the work is spread, see results.never_joined; `never_joined.metric` compares clients of all seeds.
        """
        candidates = self._candidates()
        return {
            "scenario": self._scenario,
            "question": self._question,
            "task": self._task,
            "clients": self._clients,
            "metric": self._metric,
            "margin": self._margin,
            "repeats": self._repeats,
            **({} if self._target is None else {"target": {self._target.metric: self._target.value}}),
            "alone": ALONE,
            "best": describe_best(candidates, self._gains(GUESS), self._margin),
            "comparisons": compared(candidates),
            "recovered": self.recovered,
            "strategies": {name: self._strategy(name, runs) for name, runs in self._runs.items()},
        }

    def _strategy(self, name: str, runs: Mapping[int, _Run]) -> dict[str, Any]:
        entries = {seed: self._entry(name, seed, run) for seed, run in runs.items()}
        first = {"kind": self._kinds[name], **next(iter(entries.values()))}
        learning = {"not_learned": self._not_learned(name), "still_falling": any(_still_falling(run) for run in runs.values())}
        never = {} if len(entries) == 1 else self._never_joined(entries, runs.values())
        return {**(first if len(entries) == 1 else {**first, **over_seeds(entries)}), **never, **learning, **self._gain(name)}

    def _never_joined(self, entries: Mapping[int, Mapping[str, Any]], runs: Iterable[_Run]) -> dict[str, Any]:
        """Who joined no round, over all seeds; nothing where nothing is scarce."""
        known = [entry[NEVER_JOINED] for entry in entries.values() if NEVER_JOINED in entry]
        return {NEVER_JOINED: {**never_joined_over_seeds(known), "metric": self._metric_of_never(runs)}} if known else {}

    def _metric_of_never(self, runs: Iterable[_Run]) -> dict[str, float | None] | None:
        tested = [run for run in runs if run.clients and run.never is not None]
        seeds = [run.clients | {"never": np.isin(run.clients["client_id"], run.never or [])} for run in tested]
        return describe_metric(seeds, self._shown, keeps_clients(self._repeats), largest(self._shown)) if seeds else None

    def _not_learned(self, name: str) -> bool:
        own, guess = self._gains(name), self._gains(GUESS)
        if name in (ALONE, GUESS):
            return False
        losses, known = ([_number(run.metrics.get("test_loss")) for run in self._runs.get(one, {}).values()] for one in (name, GUESS))
        return not_learned(self._task, self._metric, losses, known, None if own is None or guess is None else own.over(guess))

    def _gain(self, name: str) -> dict[str, Any]:
        """What the clients' gains over themselves alone say, over all seeds; nothing where there are none."""
        own, guess = self._gains(name), self._gains(GUESS)
        if own is None or name == ALONE:
            return {}
        found = own.describe(self._margin)
        shares = {f"share_{word}_than_alone" if word != "equal" else "share_equal_to_alone": found.pop(word) for word in _SHARES}
        if name != GUESS and guess is not None:
            found["over_guess"] = interval(own.over(guess), own.bound)
        return {**shares, "gain": found}

    def _gains(self, name: str) -> Gains | None:
        seeds = [run.gains for run in self._runs.get(name, {}).values() if run.gains is not None]
        return Gains.of(seeds, keeps_clients(self._repeats), largest(self._shown)) if seeds else None

    def _candidates(self) -> dict[str, Gains]:
        """The gains of the federated strategies that have learned and did not diverge."""
        ran = [name for name, runs in self._runs.items() if all(run.status != "diverged" for run in runs.values())]
        gains = {name: self._gains(name) for name in ran if self._kinds[name] not in NOT_FEDERATED and not self._not_learned(name)}
        return {name: one for name, one in gains.items() if one is not None}

    def _entry(self, name: str, seed: int, run: _Run) -> dict[str, Any]:
        population = max(self._clients, 1)
        return {
            "status": run.status,
            "rounds": run.rounds,
            "train_loss": run.train_loss,
            **self._metrics(run.metrics),
            **self._shares(name, seed),
            "bytes_per_client": (run.uplink + run.downlink) / population,
            "uplink_bytes_per_client": run.uplink / population,
            "downlink_bytes_per_client": run.downlink / population,
            "steps_per_client": run.steps / population,
            "client_updates": run.updates,
            "rejected": run.rejected,
            "seconds": run.seconds,
            "client_updates_per_second": run.updates / run.seconds if run.seconds > 0 else None,
            "result_hash": run.result_hash,
            **({} if self._target is None or not run.points else {"target": self._target.needed(run.points, self._clients, run.settles)}),
            **run.learned,
            **({NEVER_JOINED: {**never, "metric": self._metric_of_never([run])}} if (never := run.learned.get(NEVER_JOINED)) else {}),
        }

    def _metrics(self, row: Mapping[str, float | None]) -> dict[str, float | None]:
        """The metrics of an evaluated round's row; of a regression the roots of the squared error too."""
        found = {name: _number(row.get(name)) for name in self._columns}
        shown = headline(self._task)
        for suffix in ("", WORST, POOLED) if shown.root else ():
            value = found[f"{shown.metric.column}{suffix}"]
            found[f"{shown.key}{suffix}"] = None if value is None else statistics.root(value)
        return found

    def _shares(self, name: str, seed: int) -> dict[str, float | None]:
        shares = None
        reference = None if name == ALONE else self._runs.get(ALONE, {}).get(seed)
        run = self._runs[name][seed]
        if reference and reference.clients and run.clients:
            _, here, there = np.intersect1d(run.clients["client_id"], reference.clients["client_id"], return_indices=True)
            higher = self._shown.metric.higher_is_better
            shares = statistics.shares(run.clients["value"][here], reference.clients["value"][there], higher)
        better, equal, worse = shares or (None, None, None)
        return {"raw_share_better_than_alone": better, "raw_share_equal_to_alone": equal, "raw_share_worse_than_alone": worse}


def keeps_clients(repeats: str) -> bool:
    """Whether a client has the same rows under all seeds. repeats: what another seed brings, see Data.repeats."""
    return repeats in ("splits", "trainings")


def _still_falling(run: _Run) -> bool:
    """By the loss on test rows where there are enough evaluations to tell, else by the loss in training."""
    return still_falling(run.tested if len(run.tested) >= _ENOUGH else run.losses)


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def over_seeds(entries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean and spread of every number over seeds; the gravest status; a hash of the seeds' hashes."""
    flat = [_flat(entry) for entry in entries.values()]
    spreads = {}
    for key in flat[0]:
        values = [value for entry in flat if isinstance(value := entry.get(key), int | float)]
        if len(values) == len(flat):
            spreads[key] = statistics.spread(values)
    hashes = [entry["result_hash"] for entry in entries.values()]
    return {
        **{key: spread.mean for key, spread in spreads.items() if "." not in key},
        **_nested({key: spread.mean for key, spread in spreads.items() if "." in key}),
        "status": max((entry["status"] for entry in entries.values()), key=lambda status: _GRAVITY[status]),
        "result_hash": hashlib.sha256("".join(hashes).encode()).hexdigest() if all(hashes) else None,
        "std": {key: spread.std for key, spread in spreads.items()},
        "half_width": {key: spread.half_width for key, spread in spreads.items()},
        "seeds": {str(seed): entry for seed, entry in entries.items()},
    }


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with the numbers of its groups (`strangers`: unseen clients) by dotted keys beside its own. Who never joined is told of all
    seeds together."""
    groups = {key: group for key, group in entry.items() if isinstance(group, Mapping) and key != NEVER_JOINED}
    inner = {f"{key}.{name}": value for key, group in groups.items() for name, value in group.items()}
    return {**entry, **inner}


def _nested(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Dotted keys as groups again."""
    groups: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups
