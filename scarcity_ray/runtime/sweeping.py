"""`sweep`: plays a scenario for every combination of some values, on one group of actors, and says who wins where."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core.metrics import headline
from scarcity_ray.data.arrays import Arrays
from scarcity_ray.report.swept import draw_sweep, show_sweep
from scarcity_ray.report.verdict import SURE
from scarcity_ray.results.files import held, new_file, to_json, write_whole
from scarcity_ray.results.results import Results
from scarcity_ray.runtime.claim import FILE as SCENARIO
from scarcity_ray.runtime.claim import claimed
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.session import Session, anchored, keep_arrays
from scarcity_ray.runtime.simulation import Interrupted, ended, in_words
from scarcity_ray.scenario import Diagnostic, Loaded, Scenario, ScenarioError, load, parse, resolved, with_arrays
from scarcity_ray.tuning.applied import put
from scarcity_ray.tuning.space import Setting, grid

ANSWER, CELLS = "sweep.json", "cells"


@dataclass(frozen=True)
class Swept:
    """What a sweep left. directory: its folder; answer: the content of sweep.json."""

    directory: Path
    answer: Mapping[str, Any]


def is_sweep(directory: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (directory / CELLS).is_dir()


def sweep(
    scenario: Loaded | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    force: bool = False,
    imports: bool = False,
    show: bool = False,
    session: Session | None = None,
) -> Swept:
    """Plays the cells of the `sweep` section of a scenario, and leaves cells/NNN (a run each), sweep.json, sweep.csv and sweep.png.

    scenario: as for `simulate`; or the folder of a sweep that was cut short, whose finished cells are not played again. out: its folder,
    runs/NAME-sweep if left out. force: replaces what is there; continues a cell although something has changed that results depend on.
    imports: a folder may name models to import.
    Raises as `simulate`: a cell that cannot run is refused before the first one is played.
    """
    again = isinstance(scenario, str | Path) and is_sweep(Path(scenario))
    path = Results.load(scenario, imports=imports).runnable() if again else scenario  # type: ignore[arg-type]
    given = load(path) if isinstance(path, str | Path) else path
    checked, base_dir = (given.scenario, given.base_dir) if isinstance(given, Loaded) else (parse(given), Path())
    if checked.sweep is None:
        raise ScenarioError(
            [Diagnostic(("sweep",), "is missing: say which values are crossed, as sweep: {parameters: {data.clients: [10, 100]}}")]
        )
    cells = [
        (setting, _cell(checked, base_dir, setting, number))
        for number, setting in enumerate(grid(checked.sweep.parameters, checked.sweep.points))
    ]
    if again:
        with in_words(given):
            return _played(cells, base_dir, Path(scenario), checked, force, show, session)  # type: ignore[arg-type]
    folder = Path(out) if out is not None else checked.directory.with_name(f"{checked.directory.name}-sweep")
    with in_words(given), claimed(folder.expanduser(), only=out is not None, force=force) as directory:
        for _, cell in cells:
            prepare(cell, base_dir)
        with held(directory):
            for name in (ANSWER, "sweep.csv", "sweep.png"):  # of an earlier sweep, that this one replaces
                (directory / name).unlink(missing_ok=True)
            shutil.rmtree(directory / CELLS, ignore_errors=True)
            (directory / CELLS).mkdir()
            write_whole(directory / SCENARIO, resolved(anchored(checked, base_dir)).encode())
            keep_arrays(checked, base_dir, directory)
        return _played(cells, base_dir, directory, checked, False, show, session)


def _cell(scenario: Scenario, base_dir: Path, setting: Setting, number: int) -> Scenario:
    """The scenario of a cell. Raises ScenarioError, which names the values."""
    data = deepcopy(scenario.model_dump(mode="json", exclude={"tune": True, "sweep": True}))
    data["name"] = f"{scenario.name[:90]}-{number:03d}"
    titles = [strategy.title for strategy in scenario.strategies]
    try:
        for path, value in setting.items():
            first, *rest = path.split(".")
            named = first == "strategies" and len(rest) > 1 and rest[0] in titles
            at, field = (data["strategies"][titles.index(rest[0])], rest[1:]) if named else (data, [first, *rest])
            try:
                put(at, field, value)
            except KeyError as error:
                raise ScenarioError([Diagnostic(("sweep", "parameters"), f"{path} is no field: {error.args[0]} has no fields")]) from None
        found = parse(data)
    except ScenarioError as error:
        where = ", ".join(f"{path}={value}" for path, value in setting.items())
        raise ScenarioError([Diagnostic(one.path, f"{one.message} (where {where})") for one in error.problems]) from error
    source = scenario.data.source
    return with_arrays(found, source.held(base_dir)) if isinstance(source, Arrays) else found


def _played(
    cells: list[tuple[Setting, Scenario]],
    base_dir: Path,
    directory: Path,
    scenario: Scenario,
    force: bool,
    show: bool,
    session: Session | None,
) -> Swept:
    own = Session() if session is None else nullcontext(session)
    found = []
    with own as session:
        for number, (setting, cell) in enumerate(cells):
            try:
                results = ended(cell, directory / CELLS / f"{number:03d}", base_dir=base_dir, force=force, session=session)
            except (KeyboardInterrupt, Interrupted):
                raise Interrupted(directory) from None
            found.append(_of_cell(setting, results.summary))
            if show:
                Console().print(f"cell {number + 1} of {len(cells)}: {_words(setting)}: {_won(found[-1])}", highlight=False, markup=False)
    answer = {"scenario": scenario.name, "metric": found[0]["metric"], "parameters": list(cells[0][0]), "cells": found}
    write_whole(directory / ANSWER, to_json(answer).encode())
    write_whole(directory / "sweep.csv", _csv(answer).encode())
    with new_file(directory / "sweep.png", directory / ".sweep.new.png") as draft:
        draw_sweep(answer, draft)
    if show:
        show_sweep(Console(), answer, directory)
    return Swept(directory, answer)


def _of_cell(setting: Setting, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell says: each strategy's metric, and who wins: the best one, and those that it is not surely better than."""
    shown = headline(summary["task"], summary.get("metric"))
    best = (summary.get("best") or {}).get("strategies", [])[:1]
    beaten = {
        one["worse"]
        for one in summary.get("comparisons", [])
        if one["better"] in best and one["p_holm"] is not None and one["p_holm"] <= SURE
    }
    rivals = {
        name for one in summary.get("comparisons", []) for name in (one["better"], one["worse"]) if {one["better"], one["worse"]} & {*best}
    }
    strategies = {}
    for name, entry in summary["strategies"].items():
        gain = entry.get("gain") or {}
        ends = {f"gain{end}": gain.get(which) for end, which in (("", "mean"), ("_low", "low"), ("_high", "high"))}
        strategies[name] = {"value": entry.get(shown.key), "status": entry["status"], **ends}
    wins = [*best, *sorted(rivals - beaten - {*best})] if best else []
    return {"setting": setting, "metric": shown.short, "wins": wins, "strategies": strategies}


def _won(cell: Mapping[str, Any]) -> str:
    wins = cell["wins"]
    return "nothing was learned" if not wins else wins[0] if len(wins) == 1 else f"{wins[0]}, not surely better than {', '.join(wins[1:])}"


def _words(setting: Setting) -> str:
    return ", ".join(f"{path} {value}" for path, value in setting.items())


def _csv(answer: Mapping[str, Any]) -> str:
    """A row a cell and strategy."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*answer["parameters"], "strategy", answer["metric"], "gain", "gain_low", "gain_high", "wins"])
    for cell in answer["cells"]:
        for name, one in cell["strategies"].items():
            if name not in (ALONE, GUESS):
                row = [cell["setting"][path] for path in answer["parameters"]]
                writer.writerow([*row, name, one["value"], one["gain"], one["gain_low"], one["gain_high"], int(name in cell["wins"])])
    return text.getvalue()
