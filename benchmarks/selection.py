"""Selection of clients: uniform, by speed, by energy, Oort, Power-of-Choice and insights, at equal hours, joules and bytes.

Each world and seed is played once with every selection. Accuracy (mean over clients) and that of the worst tenth are read at the hours,
joules and bytes that uniform selection has spent at a third of its rounds, so that others may play up to three times as many. An entry is
the difference to uniform, paired by seed, with half the width of its 95 % interval.

python benchmarks/selection.py            # a quarter of an hour on a quiet core
python benchmarks/selection.py --quick    # two minutes: two seeds, fewer rounds
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _common import show, write_json
from _selection_worlds import SELECTIONS, WORLDS, scenario
from scipy.stats import t

from scarcity_ray import simulate

AXES = ("hours", "joules", "bytes")
MEASURES = {"accuracy": "test_accuracy", "worst tenth": "test_accuracy_worst_decile"}


@dataclass(frozen=True)
class Entry:
    """A selection in a world, at equal spending on an axis. uniform: the mean of uniform selection; difference: to it, and half the width
    of the 95 % interval over seeds."""

    world: str
    axis: str
    measure: str
    selection: str
    uniform: float
    difference: float
    half_width: float


def curves(world: str, seed: int, rounds: int, every: int) -> dict[str, pd.DataFrame]:
    """What each selection has spent, and how well its clients do, at each evaluation."""
    with tempfile.TemporaryDirectory(prefix="scarcity-selection-") as folder:
        rows = simulate(scenario(world, seed, rounds, every), out=Path(folder) / "run").rounds.to_pandas()
    found = {}
    for name, part in rows.groupby("strategy"):
        part = part.sort_values("round")
        found[str(name)] = pd.DataFrame(
            {
                "hours": part["clock_seconds"] / 3600,
                "joules": part["joules"].cumsum(),
                "bytes": (part["uplink_bytes"] + part["downlink_bytes"]).cumsum(),
                **{measure: part[column] for measure, column in MEASURES.items()},
            }
        ).dropna()
    return found


def at(curve: pd.DataFrame, axis: str, spent: float) -> pd.Series:
    """The mean of the last three evaluations for which no more was spent; the first ones where all cost more. Accuracy swings from round to
    round, as few clients take part in each."""
    end = int(np.searchsorted(curve[axis].to_numpy(), spent, side="right"))
    return curve.iloc[max(end - 3, 0) : max(end, 1)].mean()


def compare(world: str, seeds: Sequence[int], rounds: int, every: int) -> list[Entry]:
    """All entries of a world."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for seed in seeds:
        made = curves(world, seed, rounds, every)
        uniform = made["uniform"]
        for axis in AXES:
            spent = float(uniform[axis].iloc[len(uniform) // 3])
            for name, curve in made.items():
                here = at(curve, axis, spent)
                for measure in MEASURES:
                    found.setdefault((axis, measure, name), []).append(float(here[measure]))
    entries = []
    for (axis, measure, name), values in found.items():
        base = np.array(found[axis, measure, "uniform"])
        difference = np.array(values) - base
        half = float(t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / np.sqrt(len(seeds)))
        entries.append(Entry(world, axis, measure, name, float(base.mean()), float(difference.mean()), half))
    return entries


def main() -> None:
    """Prints a table a world, and writes all entries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, 60 rounds")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="writes the figures there")
    options = parser.parse_args()
    seeds, rounds, every = (2, 60, 3) if options.quick else (10, 150, 3)
    entries: list[Entry] = []
    for world in options.worlds:
        part = compare(world, range(options.first_seed, options.first_seed + seeds), rounds, every)
        entries += part
        by = {(one.axis, one.measure, one.selection): one for one in part}
        rows = []
        for name in SELECTIONS:
            cells = [by[axis, measure, name] for axis in AXES for measure in MEASURES]
            rows.append(
                [name, *(f"{one.uniform:.3f}" if name == "uniform" else f"{one.difference:+.3f} ± {one.half_width:.3f}" for one in cells)]
            )
        show(
            f"{world}: at equal spending, uniform and differences to it",
            ["selection", *(f"{m}, {a}" for a in AXES for m in MEASURES)],
            rows,
        )
    write_json(options.json, {"entries": [asdict(one) for one in entries]})


if __name__ == "__main__":
    main()
