"""Where does sf_hfe lead, and where does it not: accuracy against the bytes of a client, every strategy tuned with the same budget.

Six suites. At each of three levels of bytes (a tenth of what sf_hfe takes with its usual message, as many, ten times as many) `tune` has
searched the settings of every strategy that fits the suite: step size, local steps, model, share of clients of a round, own fields, and as
many rounds as the bytes allow, but 120 at most (40 on Chem97); 16 trials each, by inner folds of training rows (sf_hfe has no more than
four or five settings to choose from; a setting that does not fit into the bytes is a trial too). What it found is in
benchmarks/frontier/SUITE.json. These settings are played on other seeds here: other draws of made data, other deals of real rows, so that
a tested row may have served in the search.

    python benchmarks/frontier.py                          # all suites that were searched, 5 seeds
    python benchmarks/frontier.py --quick                  # two suites, 2 seeds, few strategies: five minutes
    python benchmarks/frontier.py --tune --only digits     # searches the settings of a suite again, and writes its file
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from _common import cores, machine, processes, show, write_json
from _frontier_bars import OURS, Verdict, verdict
from _frontier_plot import draw
from _frontier_runs import FOLDER, Point, at_all_levels, front, higher, most_waves, points, search, settings
from _frontier_suites import LEVELS, SUITES

from scarcity_ray.inference.mean_gain import MeanGain

QUICK = ("digits", "rotated")
QUICK_STRATEGIES = (OURS, "afl", "fed_avg", "fed_opt", "ifca", "local_only", "ditto", "fed_rep")


def main() -> None:
    """Searches settings, or plays those that were found, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*SUITES], action="append", help="which suite; repeatable (default: all)")
    parser.add_argument("--tune", action="store_true", help="search the settings again, and write them to benchmarks/frontier/SUITE.json")
    parser.add_argument("--level", choices=[*LEVELS], action="append", help="with --tune: which level; others stay as they were found")
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
    if missing := [name for name in names if name not in searched and (options.level or not options.tune)]:
        parser.error(f"nothing was searched for {', '.join(missing)} yet: {'leave --level out' if options.tune else 'add --tune'}")
    if options.tune and (options.quick or options.plot or options.seeds is not None):
        parser.error("--quick, --seeds and --plot are for playing what was found, --tune searches: leave the ones or the other out")
    if options.level and not options.tune:
        parser.error("--level goes with --tune: all levels are played")

    began = time.monotonic()
    with processes() as pool:
        if options.tune:
            tuned(pool, names, options.level or LEVELS, options.out)
            print(f"{time.monotonic() - began:,.0f} s")
            return
        only = QUICK_STRATEGIES if options.quick else None
        # The level with the most rounds first, in every suite: no process is left with a long one at the end.
        tasks = {(name, level): pool.submit(points, name, level, seeds, only) for level in reversed(LEVELS) for name in names}
        played = {name: {level: tasks[name, level].result() for level in LEVELS} for name in names}
    done = {name: at_all_levels(name, some) for name, some in played.items()}
    every = {name: [point for some, _ in levels.values() for point in some] for name, levels in done.items()}
    for name, levels in done.items():
        for level, (_, lost) in levels.items():
            if lost:
                print(f"{name}, {level}: diverged under a seed, and left out: {', '.join(lost)}")
    verdicts = {name: found for name in names if (found := verdict(name, every[name])) is not None}
    show_verdicts(names, verdicts, judged=not options.quick and seeds >= 5)
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
            "diverged": {level: lost for level, (_, lost) in done[name].items()},
            "left_out": {level: one["left_out"] for level, one in settings(name)["levels"].items()},
            "verdict": verdicts[name].plain() if name in verdicts else None,
        }
        for name in names
    }
    write_json(options.json, {"benchmark": "frontier", "seeds": seeds, "cores": cores(), "seconds": seconds, "suites": suites})


def tuned(pool: ProcessPoolExecutor, names: list[str], levels: Collection[str], out: Path) -> None:
    """Searches levels of suites, one process a core, and puts a suite's into its file when all of them were searched."""
    waves = dict(zip(names, pool.map(most_waves, [SUITES[name] for name in names], [_limits(name) for name in names]), strict=True))
    tasks: dict[str, dict[str, Future[dict[str, object]]]] = {
        name: {
            level: pool.submit(search, name, level, most, out / f"{name}-{level}")
            for level, most in zip(LEVELS, waves[name], strict=True)
            if level in levels
        }
        for name in names
    }
    FOLDER.mkdir(exist_ok=True)
    for name, some in tasks.items():
        command = f"python benchmarks/frontier.py --tune --only {name}"
        found = {
            level: {"command": f"{command} --level {level}", **task.result(), "date": machine()["date"]} for level, task in some.items()
        }
        path = FOLDER / f"{name}.json"
        every = found if len(found) == len(LEVELS) else {**settings(name)["levels"], **found}
        path.write_text(json.dumps({"levels": every}, indent=1) + "\n")
        print(f"{name}: {path}", flush=True)


def show_verdicts(names: list[str], verdicts: dict[str, Verdict], judged: bool) -> None:
    """Prints what a reader should know first: where sf_hfe does not lead. judged: whether seeds and strategies are enough for bars."""
    rows = []
    for name in sorted(names, key=lambda one: (one in verdicts and verdicts[one].leads and verdicts[one].near, not SUITES[one].bar)):
        bar = SUITES[name].bar and judged
        if name not in verdicts:
            rows.append([name, "no point at the level equal", "", "", "", "NO" if bar else ""])
            continue
        found = verdicts[name]
        better = ", ".join(f"{one.strategy} {_by(by)}" for one, by in found.better) or "nobody"
        ours = f"{found.ours.value:.4g}, {found.ours.bytes:,.0f} B" + (" (too many)" if found.ours.bytes > found.limit else "")
        met = "yes" if found.leads and found.near else "NO"
        rows.append([name, ours, better, *(f"{one.strategy} {_by(by)}" for one, by in (found.rival, found.best)), met if bar else ""])
    columns = ["suite", OURS, "surely better in as many bytes", "best other in as many bytes, by", "best in ten times as many, by", "bar"]
    show("sf_hfe on the frontier (differences with 95 % intervals over clients and seeds)", columns, rows)


def _by(gain: MeanGain) -> str:
    return f"{gain.mean:+.3g} ({gain.low:+.3g} to {gain.high:+.3g})"


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
        for why in dict.fromkeys(one["left_out"].values()):
            print(f"{level}: not played: {', '.join(kind for kind, its in one['left_out'].items() if its == why)}: {why}")
    print()


def _last(name: str, kind: str, every: list[Point]) -> float:
    best = [one.value for one in every if one.strategy == kind and one.level != "tenth"]
    return -max(best, default=0.0) if higher(name) else min(best, default=float("inf"))


def _limits(name: str) -> list[int]:
    return [SUITES[name].limit(level) for level in LEVELS]


if __name__ == "__main__":
    main()
