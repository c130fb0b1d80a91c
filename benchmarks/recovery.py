"""How long does a run stop after a fault, and what do the checkpoints cost that recovery needs?

faults: an MLP on digits, two Client actors. In the middle of the run, a process is killed (SIGKILL; hung: SIGSTOP, with
`give_up_after` 20 s). Measured are the seconds from the fault to the end of the next finished round, and for comparison those of
an undisturbed round. Rounds count when their row is in rounds.parquet on disk, up to half a second after their end.
checkpoints: rounds of w1.yaml and w4.yaml with a checkpoint after each round, and with `auto`, compared with the same run without
checkpoints. The three runs alternate and repeat; reported are medians over rounds and repeats. A noise-free figure is added: the
time to write one checkpoint to this disk and sync it. In a run, this happens during the next round.

    python benchmarks/recovery.py                      # 15 to 35 minutes on 2 quiet cores, by the processor
    python benchmarks/recovery.py --quick              # one of each
    python benchmarks/recovery.py --only checkpoints
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import HERE, cores, show, write_json
from _disturb import FAULTS, recovery

from scarcity_ray import simulate
from scarcity_ray.results.checkpoints import FOLDER, Checkpoint
from scarcity_ray.runtime.ray_fleet import RayLauncher
from scarcity_ray.scenario import load

BAR = 0.05
"""The largest share of a round that checkpoints of fed_avg may take."""

NEVER = 1_000_000
SETTINGS = {"none": NEVER, "every round": 1, "auto": "auto"}


def faults(kinds: list[str], repeats: int) -> list[dict[str, Any]]:
    """A line for each kind of fault."""
    found = []
    for kind in kinds:
        seen = [recovery(kind) for _ in range(repeats)]
        seconds = [one["seconds"] for one in seen]
        middle = {"seconds": float(np.median(seconds)), "least": min(seconds), "most": max(seconds)}
        found.append({"fault": kind, **middle, "round_seconds": float(np.median([one["round_seconds"] for one in seen]))})
        print(f"{kind}: {middle['seconds']:.1f} s", flush=True)
    return found


def show_faults(lines: list[dict[str, Any]]) -> None:
    """Prints what each fault costs, and the seconds of a round."""
    rows = [
        [one["fault"], f"{one['seconds']:.1f}", f"{one['least']:.1f}-{one['most']:.1f}", f"{one['round_seconds']:.3f}"] for one in lines
    ]
    show("seconds from a fault to the next finished round", ["fault", "seconds", "range", "a round"], rows)


def checkpoints(workload: str, repeats: int, rounds: int) -> dict[str, Any]:
    """Seconds of a round without checkpoints, with one after each round, and with `auto`; and the median relative increase."""
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    alone: list[float] = []
    launcher = RayLauncher(cores(), "local")  # one for all runs, so that they differ less
    try:
        for repeat in range(repeats):
            for name in list(SETTINGS)[:: 1 if repeat % 2 == 0 else -1]:  # alternate, because other work on the machine varies
                with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
                    seconds[name].append(round_seconds(workload, SETTINGS[name], rounds, Path(folder)))
                    alone += written_seconds(Path(folder)) if SETTINGS[name] == 1 else []
    finally:
        launcher.close()
    none = np.array(seconds["none"])
    shares = {name: float(np.median(np.array(values) / none)) - 1 for name, values in seconds.items() if name != "none"}
    return {
        "workload": workload,
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "shares": shares,
        "one_alone": float(np.median(alone)),
        "all": seconds,
    }


def round_seconds(workload: str, every: int | str, rounds: int, folder: Path) -> float:
    """The median seconds of a run's rounds, without the first, which warms up."""
    settings = [f"execution.checkpoint_every={every}", f"rounds={rounds}", f"evaluation.every={rounds}", "execution.address=local"]
    loaded = load(HERE / "workloads" / f"{workload}.yaml", settings)
    table = simulate(loaded.scenario, base_dir=loaded.base_dir, out=folder).rounds
    return float(np.median(table["seconds"].to_numpy()[1:]))


def written_seconds(folder: Path) -> list[float]:
    """The seconds to write each checkpoint that a run has kept again."""
    taken = []
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        checkpoint = Checkpoint.of(path)
        if not checkpoint.status:
            began = time.perf_counter()
            checkpoint.to(path)
            taken.append(time.perf_counter() - began)
    return taken


def show_checkpoints(lines: list[dict[str, Any]]) -> None:
    """Prints what checkpoints cost, and whether that is below the bar."""
    rows = []
    for line in lines:
        for name, share in line["shares"].items():
            values = line["seconds"]["none"], line["seconds"][name]
            met = "yes" if share < BAR else "NO"
            alone = line["one_alone"]
            cells = [*(f"{1e3 * value:,.1f}" for value in values), f"{100 * share:+.1f} %"]
            rows.append([f"{line['workload']}, {name}", *cells, f"{1e3 * alone:.1f} ({100 * alone / values[0]:.1f} %)", met])
    show(f"milliseconds of a round, below {100 * BAR:g} %?", ["checkpoints", "none", "with", "more", "one by itself", "holds"], rows)


def main() -> None:
    """Measures, prints the tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FAULTS, "checkpoints"], action="append", help="which measurement; repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="one of each, and fewer rounds")
    parser.add_argument("--json", type=Path, default=Path("recovery.json"), help="where the figures go (default recovery.json)")
    options = parser.parse_args()
    wanted = options.only or [*FAULTS, "checkpoints"]
    figures: dict[str, Any] = {"benchmark": "recovery", "cores": cores(), "quick": options.quick}
    lines = faults([kind for kind in FAULTS if kind in wanted], 1 if options.quick else 3)
    if lines:
        show_faults(lines)
        figures["faults"] = lines
    if "checkpoints" in wanted:
        repeats, rounds = (3, {"w1": 30, "w4": 6}) if options.quick else (5, {"w1": 60, "w4": 10})
        figures["checkpoints"] = []
        for workload, count in rounds.items():
            figures["checkpoints"].append(checkpoints(workload, repeats, count))
            show_checkpoints(figures["checkpoints"][-1:])
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
