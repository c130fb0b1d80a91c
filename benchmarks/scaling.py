"""How many clients can one machine run, and where do the seconds of a round go?

sweep: logistic regression, 20 rows per client, at most 1,000 clients per round, for 100 to 100,000 registered clients and 1
actor to one per core. Actors that measure their own methods (_timed.py) split the seconds of a round (medians, without the
first round) into train (the slowest actor), transfer (broadcast and reports), aggregate, and overhead (the rest). Memory is the
largest total of all processes of the run, with shared memory counted once.
nodes: 1,000 clients of 100 rows of 784 numbers, all in every round, on clusters with this many nodes of one CPU each, all on this
machine. With more nodes than cores, the nodes share the cores, and the figures show only what more nodes add to a round.
cases: 10,000 clients of 20 rows, all in every round; 100,000 registered, 1,000 per round; an empty round; the fixed cost of a
run; memory over 5,000 short rounds.

    python benchmarks/scaling.py                     # everything and the plot: about fifteen minutes on 2 quiet cores
    python benchmarks/scaling.py --quick             # fewer rounds
    python benchmarks/scaling.py --only empty_round
    python benchmarks/scaling.py --nodes 1,2,4       # the nodes alone
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _cases import BARS, CASES, GIB, scenario, timed, timed_rounds
from _common import cores, show, write_json
from _nodes import Nodes
from _timed import middle, middle_by_node

CLIENTS = (100, 1_000, 10_000, 100_000)
PARTS = ("train", "transfer", "aggregate", "overhead")
ROW_BYTES = 20 * (60 * 4 + 8)
"""The bytes of a client's rows alone."""


def sweep(quick: bool) -> list[dict[str, Any]]:
    """A line for each number of clients and of actors."""
    found = []
    for clients in CLIENTS:
        for actors in range(1, cores() + 1):
            split, watched = timed(scenario(clients, min(clients, 1000), 6 if quick else 20, actors))
            found.append({"clients": clients, "actors": actors, **split, "peak_bytes": watched.peak_bytes})
    return found


def over_nodes(counts: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """A line for each number of nodes. nodes: seconds of training on each, the longest first."""
    found = []
    for count in counts:
        with Nodes([1] * count) as nodes:
            settings = scenario(1000, 1000, 6 if quick else 20, count, rows=100, features=784)
            settings["execution"] |= {"address": nodes.address, "cpus": count}
            splits, _ = timed_rounds(settings, environment=nodes.environment)
        found.append({"count": count, **middle(splits), "nodes": middle_by_node(splits)})
    return found


def show_nodes(lines: list[dict[str, Any]]) -> None:
    """Prints the table of nodes."""
    rows = [
        [str(one["count"]), *(f"{1e3 * one[part]:,.1f}" for part in ("round", *PARTS)), " ".join(f"{1e3 * s:,.1f}" for s in one["nodes"])]
        for one in lines
    ]
    title = f"milliseconds of a round of 1,000 clients, by nodes of one CPU each, which share this machine's {cores()} cores"
    show(title, ["nodes", "round", *PARTS, "training on each node"], rows)


def bytes_a_client(lines: list[dict[str, Any]]) -> float:
    """The memory that a registered client adds: from the smallest to the largest population, with the most actors."""
    most = [line for line in lines if line["actors"] == max(other["actors"] for other in lines)]
    first, last = most[0], most[-1]
    return float((last["peak_bytes"] - first["peak_bytes"]) / (last["clients"] - first["clients"]))


def show_sweep(lines: list[dict[str, Any]]) -> None:
    """Prints the table of the sweep."""
    rows = [
        [
            f"{one['clients']:,}",
            str(one["actors"]),
            *(f"{1e3 * one[part]:,.1f}" for part in ("round", *PARTS)),
            f"{one['peak_bytes'] / GIB:.2f}",
        ]
        for one in lines
    ]
    show("milliseconds of a round (at most 1,000 clients), by registered clients", ["clients", "actors", "round", *PARTS, "peak GiB"], rows)
    print(f"memory a registered client adds: {bytes_a_client(lines):,.0f} bytes, of which its rows take {ROW_BYTES:,}")


def show_cases(found: dict[str, dict[str, float]]) -> None:
    """Prints the cases, one line per figure with its bar."""
    rows = []
    for case, figures in found.items():
        for name, value in figures.items():
            bar = next((f"< {most:g}" for key, (figure, most) in BARS.items() if figure == name and key.startswith(case)), "")
            rows.append([case, name, f"{value:,.4f}" if abs(value) < 10 else f"{value:,.0f}", bar])
    show("cases (seconds, GiB, bytes as named)", ["case", "figure", "value", "bar"], rows)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Plots the split of a round by clients and actors, and the memory."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True, width_ratios=(2, 1))
    labels = [f"{one['clients']:,}\nx {one['actors']}" for one in lines]
    bottom = [0.0] * len(lines)
    for part, colour in zip(PARTS, ("#4477aa", "#ccbb44", "#228833", "#bbbbbb"), strict=True):
        values = [1e3 * one[part] for one in lines]
        left.bar(labels, values, bottom=bottom, label=part, color=colour)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    left.set_xlabel("registered clients x Client actors")
    left.set_ylabel("milliseconds of a round")
    left.set_title("where a round's time goes (at most 1,000 clients a round)", loc="left")
    left.legend(frameon=False)
    for actors in range(1, cores() + 1):
        some = [one for one in lines if one["actors"] == actors]
        right.plot([one["clients"] for one in some], [one["peak_bytes"] / GIB for one in some], "o-", label=f"{actors} actors")
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    right.set_xlabel("registered clients")
    right.set_ylabel("GiB, all processes")
    right.set_title("peak memory", loc="left")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def main() -> None:
    """Measures, prints the tables, writes JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["sweep", *CASES], action="append", help="which measurement; repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and repeats")
    parser.add_argument("--json", type=Path, default=Path("scaling.json"), help="where the figures go (default scaling.json)")
    parser.add_argument("--plot", type=Path, default=Path("scaling.png"), help="where the sweep's plot goes (default scaling.png)")
    parser.add_argument(
        "--nodes", type=_counts, default=(), metavar="1,2,4", help="clusters with these numbers of nodes, and nothing else without --only"
    )
    options = parser.parse_args()
    wanted = options.only or ([] if options.nodes else ["sweep", *CASES])
    figures: dict[str, Any] = {"benchmark": "scaling", "cores": cores(), "quick": options.quick}
    if "sweep" in wanted:
        lines = sweep(options.quick)
        show_sweep(lines)
        draw(lines, options.plot)
        figures |= {"sweep": lines, "bytes_a_client": bytes_a_client(lines), "row_bytes_a_client": ROW_BYTES}
    if options.nodes:
        figures["nodes"] = over_nodes(options.nodes, options.quick)
        show_nodes(figures["nodes"])
    cases = {name: case(cores(), options.quick) for name, case in CASES.items() if name in wanted}
    if cases:
        show_cases(cases)
        figures["cases"] = cases
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
