"""The simulated clock: is it right, are its phones like FLASH's, and what does it cost?

Four parts: closed values of theory beside ours; worlds of phones beside the figures of FLASH; rounds of 1,000 of 100,000 clients with a
world and without; FedBuff's updates a second. Ratios are of processor time of rounds that are played in turn, so that other work on the
machine moves them little.

python benchmarks/scarcity.py                      # a quarter of an hour beside other work
python benchmarks/scarcity.py --quick              # two: fewer rounds, seeds and clients
python benchmarks/scarcity.py --only cost buffer
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _scarcity_cost as cost
import _scarcity_flash as flash
from _common import show, write_json
from _scarcity_oracles import oracles

_RATIO, _MEMORY, _UPDATES = 2.0, 3.0, 2000


def show_oracles(quick: bool) -> dict[str, Any]:
    """Prints the closed values beside ours."""
    found = oracles(quick)
    rows = [
        [one.name, f"{one.closed:.4f}", f"{one.ours:.4f}", f"{one.half_width:.2g}" if one.half_width else "", "yes" if one.agrees else "NO"]
        for one in found
    ]
    show("oracles", ["what", "closed", "ours", "±", "agrees"], rows)
    return {"oracles": [asdict(one) | {"agrees": one.agrees} for one in found]}


def show_flash(quick: bool) -> dict[str, Any]:
    """Prints the worlds beside FLASH."""
    found = flash.table(range(1, 3 if quick else 5), 80 if quick else 300)
    theirs = flash.THEIRS
    rows = [["FLASH", f"{theirs['top 30 %']}", f"up to {theirs['times as long']}", f"> {theirs['failed']}"]]
    rows[0] += [f"up to {theirs['accuracy lost']}", ""]
    columns = ["world", "work of the top 30 %", f"times as long to {flash.TARGET}", "failed", "accuracy lost", "never joined"]
    show("phones beside FLASH", columns, [*rows, *flash.lines(found)])
    print(f"log-normal presence with sigma {flash.SIGMA} gives the top 30 % {flash.top_share(flash.SIGMA):.3f} of the work by theory")
    return {"flash": {name: [asdict(run) for run in runs] for name, runs in found.items()}}


def show_cost(quick: bool) -> dict[str, Any]:
    """Prints what a round costs with a world and without, and the memory of runs."""
    clients, rounds, found, rows = 20_000 if quick else 100_000, 10 if quick else 25, list[dict[str, Any]](), list[list[str]]()
    for epochs in (5,) if quick else (5, 1):
        for presence in cost.PRESENCE:
            rate = cost.side_by_side(cost.of_many(clients, presence, epochs, rounds))
            found.append({"presence": presence, "epochs": epochs, **asdict(rate)})
            times = [f"{a:.0f}, {b:.0f}" for a, b in (rate.processor, rate.wall)]
            met = "yes" if rate.ratio <= _RATIO else "NO"
            rows.append([f"{presence}, {epochs} epochs", *times, f"{rate.planning:.0%}", f"{rate.heard:.0f}", f"{rate.ratio:.2f}", met])
    title = f"1,000 of {clients:,} clients a round, ms without and with a world (bar: {_RATIO:g} times)"
    show(title, ["world", "processor", "wall", "planning", "heard", "ratio a client", "met"], rows)
    runs = {}
    for ray in (False,) if quick else (False, True):
        for name in ("without", "with"):
            scenario = cost.of_many(clients, "diurnal", 5, 10) | {"execution": {"ray": ray}}
            runs[f"{name} a world, {'with' if ray else 'without'} Ray"] = cost.peak(
                {**scenario, "scarcity": scenario["scarcity"] if name == "with" else None}
            )
    rows = [[name, f"{gib:.2f}", f"{1e3 * seconds:.0f}", "yes" if gib <= _MEMORY else "NO"] for name, (gib, seconds) in runs.items()]
    show(f"whole runs (bar: {_MEMORY:g} GiB)", ["run", "GiB at most", "ms a round, wall", "met"], rows)
    return {"cost": found, "memory": runs}


def show_buffer(quick: bool) -> dict[str, Any]:
    """Prints FedBuff's updates a second."""
    rows, found = [], []
    for buffer in (10, 100):
        versions = (1000 if quick else 4000) // buffer
        each, planning = cost.versions_here(buffer, versions)
        here = cost.updates_a_second(buffer, versions, ray=False)
        ray = float("nan") if quick else cost.updates_a_second(buffer, versions, ray=True)
        found.append({"buffer": buffer, "microseconds": each, "planning": planning, "wall": here, "wall_ray": ray})
        rows.append([str(buffer), f"{each:.0f}", f"{planning:.0f}", *(f"{one:,.0f}" for one in (1e6 / each, here, ray))])
        rows[-1].append("yes" if max(1e6 / each, here, 0 if quick else ray) >= _UPDATES else "NO")
    columns = [
        "buffer",
        "us an update, processor",
        "planning",
        "updates/s, processor",
        "wall",
        "wall, Ray",
        "met",
    ]
    show(f"fed_buff on W3's clients, concurrency 100 (bar: {_UPDATES:,} updates a second)", columns, rows)
    return {"fed_buff": found}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "oracles": show_oracles,
    "flash": show_flash,
    "cost": show_cost,
    "buffer": show_buffer,
}


def main() -> None:
    """Measures, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, seeds and clients; no Ray")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the figures go")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for part in options.only:
        figures |= PARTS[part](options.quick)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
