"""What frontier.py does with a suite: searches settings at each level of bytes, plays them on fresh seeds, and compares."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _common import HERE
from _ensemble_runs import PROBES, moments, most_features, play
from _frontier_suites import SUITES, Suite
from numpy.typing import NDArray

from scarcity_ray import tune
from scarcity_ray.core.metrics import headline
from scarcity_ray.core.spec import SpecError
from scarcity_ray.inference.mean_gain import MeanGain, mean_gain
from scarcity_ray.runtime.claim import OutputExists
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.simulation import Changed
from scarcity_ray.runtime.tuning import is_search
from scarcity_ray.scenario import ScenarioError, SpecErrors, load, parse
from scarcity_ray.tuning.applied import place, put

FOLDER = HERE / "frontier"
TRIALS, BATCH = 16, 8
SEARCH_SEED, FIRST_SEED = 1, 101
"""Settings are searched on the federation of the one, and played on those of the other and its successors. Of real rows these are other
deals of the same rows: a row that is tested may have been trained on, or have judged, in the search."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A strategy at a level of bytes. bytes: of a client, up and down, the mean over seeds. value, worst: the deciding metric, over
    clients and over their worst tenth, means over seeds; spread: of value, over seeds. by_client: `[seeds, clients]`, squared errors where
    the metric is the root of their mean."""

    strategy: str
    level: str
    bytes: float
    value: float
    spread: float
    worst: float | None
    by_client: Values

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name, value in asdict(self).items() if name != "by_client"}


def scenario(suite: Suite, strategies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A suite with some strategies."""
    scarcity = {} if suite.most_rows is None else {"scarcity": {"samples": {"maximum": suite.most_rows}}}
    return {
        **scarcity,
        "name": "frontier",
        "rounds": suite.rounds,
        "data": suite.data,
        "model": suite.models[0],
        "local": {"steps": 5, "lr": 0.1, **suite.local},
        "strategies": [dict(one) for one in strategies],
        "evaluation": {"every": suite.rounds},
        "execution": {"ray": False},
    }


def fits(suite: Suite, kind: str, model: Mapping[str, Any]) -> str:
    """Why a strategy cannot be played on a suite; empty where it can."""
    try:
        prepare(parse(scenario(suite, [{"kind": kind, "model": dict(model)}])), Path())
    except (ScenarioError, SpecError, SpecErrors) as error:
        return str(error).rsplit("\n", 1)[-1].strip()
    return ""


def most_waves(suite: Suite, limits: Sequence[int]) -> list[int]:
    """For each number of bytes the most random features whose sums fit, by three small runs; 0 where none do."""
    with tempfile.TemporaryDirectory() as out:
        found = play(scenario(suite, [moments(n, experts=1) for n in PROBES]), SEARCH_SEED, out).summary["strategies"]
    return most_features([found[f"sf_hfe_{n}"]["bytes_per_client"] for n in PROBES], [limit - 16 for limit in limits])


def search(name: str, level: str, waves: int, out: Path) -> dict[str, Any]:
    """Searches the settings of every strategy at a level, the same number of trials for each: an entry of the suite's file.

    out: the folder of the search. One that was cut short there is continued.
    """
    suite = SUITES[name]
    spaces, refused = {}, {}
    for kind, own in suite.searched(waves).items():
        if why := fits(suite, kind, own.get("model", suite.models)[0]):
            refused[kind] = why
        elif all(own.values()):
            spaces[kind] = own
        else:
            refused[kind] = "no message fits into the bytes"
    section = {
        "method": {"kind": "tpe", "trials": TRIALS, "batch": BATCH},
        "parameters": {f"strategies.{kind}.{path}": choice for kind, own in spaces.items() for path, choice in own.items()},
        "halving": {"eta": 3, "first_rounds": 14},
        "bytes": suite.limit(level),
        "repeats": 1,
    }
    data = suite.data if suite.participants is None else {**suite.data, "participants": suite.participants}
    content = {
        **scenario(suite, [{"kind": kind, **({"model": own["model"][0]} if "model" in own else {})} for kind, own in spaces.items()]),
        "data": data,
        "seed": SEARCH_SEED,
        "tune": section,
    }
    begun = is_search(out)
    if begun and load(out / "scenario.yaml").scenario != parse(content):
        raise SystemExit(f"{out} is a search in another space: remove it, or name another folder with --out")
    try:
        found = tune(out) if begun else tune(content, out=out)
    except (Changed, OutputExists) as error:
        raise SystemExit(f"{error}\nHere: remove {out}, or name another folder with --out") from None
    rounds = {one["kind"]: one["rounds"] for one in found.results.scenario["strategies"]}
    entries = {
        kind: {
            "strategy": {"kind": kind, "name": f"{kind}-{level}", "rounds": rounds[kind], **placed(kind, one["parameters"])},
            **{field: one[field] for field in ("validation", "trials", "updates", "diverged", "too_large", "impossible", "edges")},
        }
        for kind, one in found.answer["strategies"].items()
        if one["parameters"] is not None
    }
    if suite.participants is not None:
        for kind, fit in rounds_of_all(suite, [one["strategy"] for one in entries.values()], suite.limit(level)).items():
            entries[kind]["strategy"]["rounds"] = fit
    refused |= {
        kind: f"no trial ended: {one['too_large']} too large, {one['diverged']} diverged, {one['impossible']} impossible"
        for kind, one in found.answer["strategies"].items()
        if one["parameters"] is None
    }
    return {"bytes": suite.limit(level), "trials_hash": found.answer["trials_hash"], "strategies": entries, "left_out": refused}


def rounds_of_all(suite: Suite, strategies: Sequence[Mapping[str, Any]], limit: int) -> dict[str, int]:
    """As many rounds as the bytes of a client allow in the whole federation. A search on some of the clients counted other bytes: what
    moves between groups and the server is divided by more clients here. By kind; only strategies whose bytes are known beforehand."""
    plan = prepare(parse(scenario(suite, strategies)), Path())
    found = {}
    for one in plan.scenario.strategies:
        if (known := plan.bytes_a_client(one)) is not None and known[1] > 0:
            found[one.kind] = max(min(suite.rounds, int((limit - known[0]) // known[1])), 1)
    return found


def placed(kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's fields, from the paths of a search."""
    found: dict[str, Any] = {}
    for path, value in parameters.items():
        put(found, place(path, kind), value)
    return found


def points(name: str, level: str, seeds: int, only: Sequence[str] | None = None) -> tuple[list[Point], list[str]]:
    """Plays the settings of a level on other seeds, if no lower level has the same: what came of them, and the strategies that diverged
    under a seed. only: some strategies, all if None."""
    suite, found = SUITES[name], settings(name)["levels"][level]["strategies"]
    entries = {kind: one for kind, one in found.items() if (only is None or kind in only) and played_at(name, kind, level) == level}
    content = scenario(suite, [one["strategy"] for one in entries.values()]) | {"repeats": seeds}
    with tempfile.TemporaryDirectory() as out:
        results = play(content, FIRST_SEED, out)
        summary, table = results.summary, results.table("clients").to_pandas()
    shown = headline(summary["task"], summary.get("metric"))
    every, lost = [], []
    for kind, one in entries.items():
        title = one["strategy"]["name"]
        entry = summary["strategies"][title]
        mine = table[table["strategy"] == title]
        mine = mine[mine["round"] == mine.groupby("seed")["round"].transform("max")]
        if entry["status"] != "finished" or entry.get(shown.key) is None:
            lost.append(kind)
            continue
        values = mine.pivot(index="seed", columns="client_id", values=shown.metric.column).to_numpy(np.float64)
        every.append(
            Point(
                kind,
                level,
                float(entry["bytes_per_client"]),
                float(entry[shown.key]),
                float(entry.get("std", {}).get(shown.key) or 0.0),
                entry.get(f"{shown.key}_worst_decile"),
                values,
            )
        )
    return every, lost


def played_at(name: str, kind: str, level: str) -> str:
    """The first level with the setting of a strategy at this one: a strategy that bytes do not bind is played once."""
    found = {other: one["strategies"].get(kind) for other, one in settings(name)["levels"].items()}
    wanted = {**found[level]["strategy"], "name": ""}
    return next(other for other, one in found.items() if one is not None and {**one["strategy"], "name": ""} == wanted)


def at_all_levels(name: str, played: Mapping[str, tuple[Sequence[Point], Sequence[str]]]) -> dict[str, tuple[list[Point], list[str]]]:
    """What came of every setting of every level, from what was played (points)."""
    found = {}
    for level in played:
        kinds = {kind: played_at(name, kind, level) for kind in settings(name)["levels"][level]["strategies"]}
        every = [replace(one, level=level) for kind, at in kinds.items() for one in played[at][0] if one.strategy == kind]
        found[level] = every, [kind for kind, at in kinds.items() if kind in played[at][1]]
    return found


@cache
def settings(name: str) -> dict[str, Any]:
    """What was found for a suite, as committed."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def less(name: str, one: Point, other: Point) -> MeanGain:
    """How much better one is than another on a suite, in the metric's unit, with its 95 % interval over clients and seeds.

    Of it only mean, low and high are in that unit.
    """
    natural = SUITES[name].data.get("partition", {}).get("kind") == "natural"  # the same clients under each seed
    gain = mean_gain((one.by_client - other.by_client) * (1 if higher(name) else -1), keep_rows=natural)
    scale = 1.0 if higher(name) else one.value + other.value  # a - b = (a^2 - b^2) / (a + b)
    return gain._replace(mean=gain.mean / scale, low=gain.low / scale, high=gain.high / scale)


def higher(name: str) -> bool:
    """Whether more of the metric is better: of accuracy it is, of an error not."""
    return SUITES[name].data["source"].get("task") != "regression"


def front(name: str, every: Sequence[Point]) -> list[Point]:
    """The points of a suite that no other beats in both bytes and the metric, by ascending bytes."""
    sign = 1 if higher(name) else -1
    best, found = -np.inf, []
    for point in sorted(every, key=lambda one: (one.bytes, -sign * one.value)):
        value = sign * point.value
        if value > best:
            best = value
            found.append(point)
    return found
