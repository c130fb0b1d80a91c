"""Does the stacked trainer pay? Each workload through the real command line and Ray, compared with plain PyTorch loops.

Ours: `python -m scarcity_ray.run workloads/wN.yaml` on all cores: Client actors, Server, tables written. Updates per second are
the clients of rounds 2 to the last, divided by the sum of their `seconds` in rounds.parquet; round 1 warms up and does not count.
The loops: sequential FedAvg in PyTorch (_loop.py), in one process, and in one process of one thread per core, without Ray, tables
or a server process; their first round does not count either.
One repeat runs the loop, ours, and the loop again; its ratio is ours over the mean of the two loops. Reported is the median of
the repeats. On a busy machine, the ratio of processor times (of Client and Server actors, and of the loop's processes) varies
less. W5 is measured from start to end.

    python benchmarks/vs_loop.py                               # all, three repeats: about ten minutes on 2 quiet cores
    python benchmarks/vs_loop.py --workload w1 --repeats 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

from _common import HERE, cores, run_scenario, show, write_json
from _loop import Loop, Timed

BARS = {"w1": 1.8, "w2": 1.15, "w3": 12.0, "w4": 2.0}
"""The least ratio to the loop with one process per core, on 2 cores."""

GOALS = {"w1": 2.7, "w2": 1.5, "w3": 25.0, "w4": 3.0}
START_TO_END_SECONDS = 15.0
"""The most seconds that W5 may take, from start to end."""

ROUNDS = {"w1": 60, "w2": 8, "w3": 300, "w4": 8, "w5": 100}


def ours(workload: str, rounds: int) -> tuple[Timed, float]:
    """Runs the workload by the command line: measurements from the second round on, and seconds from start to end."""
    path = HERE / "workloads" / f"{workload}.yaml"
    table, watched = run_scenario(path, [f"rounds={rounds}", f"evaluation.every={rounds}"])
    later = table[table["round"] > 1]
    cpu = watched.train_cpu * len(later) / len(table)  # processor time is measured for all rounds together
    return Timed(int(later["clients"].sum()), float(later["seconds"].sum()), cpu), watched.seconds


def compare(workload: str, repeats: int, rounds: int) -> dict[str, Any]:
    """Compares one workload with both loops."""
    path, count = HERE / "workloads" / f"{workload}.yaml", cores()
    found: list[dict[str, float]] = []
    with Loop(path, count) as several, Loop(path, 1) as one:
        flops, gemm = several.flops(), several.gemm()
        before = several.rounds(1, seconds=2.0)
        for _ in range(repeats):
            mine, whole = ours(workload, rounds)
            after = several.rounds(1, seconds=2.0)
            single = one.rounds(1, seconds=2.0)
            gemm = max(gemm, several.gemm())
            rate, rates = mine.updates / mine.seconds, [loop.updates / loop.seconds for loop in (before, after)]
            cpu = sum(loop.cpu / loop.updates for loop in (before, after)) / 2
            found.append({
                "updates_per_second": rate,
                "loop_updates_per_second": sum(rates) / 2,
                "sequential_updates_per_second": single.updates / single.seconds,
                "ratio": rate / (sum(rates) / 2),
                "ratio_sequential": rate * single.seconds / single.updates,
                "ratio_cpu": cpu / (mine.cpu / mine.updates),
                "cpu_ms_per_update": 1e3 * mine.cpu / mine.updates,
                "loop_cpu_ms_per_update": 1e3 * cpu,
                "gflops": rate * flops * 1e-9,
                "start_to_end_seconds": whole,
            })  # fmt: skip
            before = after
    result: dict[str, Any] = {name: median(one_[name] for one_ in found) for name in found[0]}
    return {
        "workload": workload, "rounds": rounds, **result, "machine_gflops": gemm, "mflop_per_update": flops * 1e-6,
        "bar": BARS.get(workload), "goal": GOALS.get(workload), "repeats": found,
    }  # fmt: skip


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    bar = f"{result['bar']:g}" if result["bar"] else f"under {START_TO_END_SECONDS:g} s in all"
    spread = [one["ratio"] for one in result["repeats"]]
    return [
        result["workload"],
        f"{result['updates_per_second']:,.0f}",
        f"{result['loop_updates_per_second']:,.0f}",
        f"{result['sequential_updates_per_second']:,.0f}",
        f"{result['ratio']:.2f} ({min(spread):.2f}-{max(spread):.2f})",
        f"{result['ratio_cpu']:.2f}",
        bar,
        f"{result['gflops']:.1f} of {result['machine_gflops']:.0f}",
        f"{result['start_to_end_seconds']:.1f}",
    ]


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(ROUNDS), action="append", help="which one; repeatable (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="number of repeats of loop, ours, loop (default 3)")
    parser.add_argument("--rounds", type=int, help="rounds of ours, at least 2 (default: 8 to 300, by workload)")
    parser.add_argument("--json", type=Path, default=Path("vs_loop.json"), help="where the figures go (default vs_loop.json)")
    options = parser.parse_args()
    if options.repeats < 1 or (options.rounds is not None and options.rounds < 2):
        parser.error("at least 1 repeat and 2 rounds")
    columns = ["workload", "updates/s", f"loop x{cores()}", "loop x1", "ratio (range)", "by CPU", "bar", "GFLOP/s", "start to end, s"]
    results = []
    for workload in options.workload or list(ROUNDS):
        print(f"{workload} ...", flush=True)
        results.append(compare(workload, options.repeats, options.rounds or ROUNDS[workload]))
    show(
        "client updates per second, compared with plain PyTorch loops (median of the repeats)", columns, [row(result) for result in results]
    )
    write_json(options.json, {"benchmark": "vs_loop", "cores": cores(), "results": results})


if __name__ == "__main__":
    main()
