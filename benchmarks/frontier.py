"""Where does sf_hfe lead, and where does it not: accuracy against the bytes of a client, every strategy tuned with the same budget.

Six suites. At each of three levels of bytes (a tenth of what sf_hfe takes with its usual message, as many, ten times as many) `tune` has
searched the settings of every strategy that fits the suite: step size, local steps, model, share of clients of a round, own fields, and as
many rounds as the bytes allow; 16 trials each (sf_hfe has no more than four settings to choose from), by inner folds of training rows.
What it found is in benchmarks/frontier/SUITE.json. These settings are played on other seeds here: other draws of made data, other deals of
real rows, so that a tested row may have served in the search.

    python benchmarks/frontier.py                          # all suites that were searched, 5 seeds
    python benchmarks/frontier.py --quick                  # two suites, 2 seeds, few strategies: five minutes
    python benchmarks/frontier.py --tune --only digits     # searches the settings of a suite again, and writes its file
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from _common import cores, machine, show, write_json
from _frontier_bars import OURS, Verdict, verdict
from _frontier_plot import draw
from _frontier_runs import FOLDER, Point, front, higher, most_waves, points, search, settings
from _frontier_suites import LEVELS, SUITES

QUICK = ("digits", "rotated")
QUICK_STRATEGIES = (OURS, "afl", "fed_avg", "fed_opt", "ifca", "local_only", "ditto", "fed_rep")


def main() -> None:
    """Searches settings, or plays those that were found, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*SUITES], action="append", help="which suite; repeatable (default: all)")
    parser.add_argument("--tune", action="store_true", help="search the settings again, and write them to benchmarks/frontier/SUITE.json")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), help="with --tune: where searches are kept, to continue them")
    parser.add_argument("--quick", action="store_true", help="two suites, two seeds, eight strategies")
    parser.add_argument("--seeds", type=int, help="fresh seeds (default 5; 2 with --quick)")
    parser.add_argument("--plot", type=Path, help="where the plot goes, a PNG (default: none)")
    parser.add_argument("--json", type=Path, default=Path("frontier.json"), help="where the figures go (default frontier.json)")
    options = parser.parse_args()
    seeds = options.seeds if options.seeds is not None else 2 if options.quick else 5
    if seeds < 1:
        parser.error(f"--seeds is {seeds}; at least 1")
    searched = [name for name in SUITES if (FOLDER / f"{name}.json").exists()]
    names = options.only or ([*SUITES] if options.tune else [name for name in QUICK if name in searched] if options.quick else searched)
    if missing := [name for name in names if not options.tune and name not in searched]:
        parser.error(f"nothing was searched for {', '.join(missing)} yet: add --tune")

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # one process a core, one thread a process
    began = time.monotonic()
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        if options.tune:
            tuned(pool, names, options.out)
            print(f"{time.monotonic() - began:,.0f} s")
            return
        only = QUICK_STRATEGIES if options.quick else None
        tasks = {name: [pool.submit(points, name, level, seeds, only) for level in reversed(LEVELS)] for name in names}
        done = {name: [task.result() for task in reversed(some)] for name, some in tasks.items()}
    every = {name: [point for some, _ in levels for point in some] for name, levels in done.items()}
    for name, levels in done.items():
        for level, (_, lost) in zip(LEVELS, levels, strict=True):
            if lost:
                print(f"{name}, {level}: diverged under a seed, and left out: {', '.join(lost)}")
    verdicts = {name: found for name in names if (found := verdict(name, every[name])) is not None}
    show_verdicts(verdicts)
    for name in names:
        show_suite(name, every[name])
    seconds = time.monotonic() - began
    print(f"{seconds:,.0f} s")
    if options.plot is not None:
        draw(every, options.plot)
    suites = {
        name: {
            "points": [one.plain() for one in every[name]],
            "front": [(one.strategy, one.level) for one in front(name, every[name])],
            "verdict": verdicts[name].plain() if name in verdicts else None,
        }
        for name in names
    }
    write_json(options.json, {"benchmark": "frontier", "seeds": seeds, "cores": cores(), "seconds": seconds, "suites": suites})


def tuned(pool: ProcessPoolExecutor, names: list[str], out: Path) -> None:
    """Searches every level of some suites, one process a core, and writes a suite's file when all of it was searched."""
    waves = dict(zip(names, pool.map(most_waves, [SUITES[name] for name in names], [_limits(name) for name in names]), strict=True))
    tasks: dict[str, dict[str, Future[dict[str, object]]]] = {
        name: {
            level: pool.submit(search, name, level, most, out / f"{name}-{level}") for level, most in zip(LEVELS, waves[name], strict=True)
        }
        for name in names
    }
    FOLDER.mkdir(exist_ok=True)
    for name, some in tasks.items():
        levels = {level: task.result() for level, task in some.items()}
        found = {"command": f"python benchmarks/frontier.py --tune --only {name}", "date": machine()["date"], "levels": levels}
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {FOLDER / name}.json", flush=True)


def show_verdicts(verdicts: dict[str, Verdict]) -> None:
    """Prints what a reader should know first: where sf_hfe does not lead."""
    rows = []
    for name, found in sorted(verdicts.items(), key=lambda one: (one[1].leads and one[1].near, not SUITES[one[0]].bar)):
        better = ", ".join(f"{one.strategy} {by.mean:+.3g} ({by.low:+.3g} to {by.high:+.3g})" for one, by in found.better) or "nobody"
        behind = f"{found.behind.mean:.3g} ({found.behind.low:.3g} to {found.behind.high:.3g})"
        met = "" if not SUITES[name].bar else "yes" if found.leads and found.near else "NO"
        rows.append([name, f"{found.ours.value:.4g}", better, f"{found.best.strategy}, {found.best.bytes:,.0f} B", behind, met])
    columns = ["suite", OURS, "better in as many bytes (95 %)", "best in ten times as many", "how much better than sf_hfe", "bar"]
    show("sf_hfe on the frontier", columns, rows)


def show_suite(name: str, every: list[Point]) -> None:
    """Prints a line a strategy, with a column a level; those on the front are marked."""
    on = {(one.strategy, one.level) for one in front(name, every)}
    kinds = sorted({one.strategy for one in every}, key=lambda kind: _last(name, kind, every))
    rows = []
    for kind in kinds:
        cells = []
        for level in LEVELS:
            one = next((one for one in every if (one.strategy, one.level) == (kind, level)), None)
            star = "*" if (kind, level) in on else ""
            worst = "" if one is None or one.worst is None else f" ({one.worst:.3g})"
            spread = f" ±{one.spread:.2g}" if one is not None and one.spread else ""
            cells.append("" if one is None else f"{star}{one.value:.4g}{spread}{worst}, {one.bytes:,.0f} B")
        rows.append([kind, *cells])
    titles = [f"{level}: {limit:,} B" for level, limit in zip(LEVELS, _limits(name), strict=True)]
    show(f"{name}: mean over clients ± over seeds (worst tenth of clients), bytes of a client; * on the front", ["strategy", *titles], rows)
    for level, one in settings(name)["levels"].items():
        if one["left_out"]:
            print(f"{level}: not played: " + "; ".join(f"{kind} ({why})" for kind, why in one["left_out"].items()))
    print()


def _last(name: str, kind: str, every: list[Point]) -> float:
    best = [one.value for one in every if one.strategy == kind and one.level != "tenth"]
    return -max(best, default=0.0) if higher(name) else min(best, default=float("inf"))


def _limits(name: str) -> list[int]:
    return [SUITES[name].limit(level) for level in LEVELS]


if __name__ == "__main__":
    main()
