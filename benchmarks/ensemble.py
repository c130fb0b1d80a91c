"""What is the ensemble worth? Accuracy, groups found, routing, real schools and speed, each compared with its bar (target).

digits: 100 clients x 8 images, three budgets of bytes, compared with FedAvg tuned for each budget.
rotated: hidden groups of clients (rotations, permuted labels, none): are they found and counted, are new clients routed?
chem97: 2,410 schools, compared with a statistician's mixed model on all rows.
fedem: FedEM's mixture of linear models. meta: Reptile and Per-FedAvg. scale: 5,000 clients.
All cases run without Ray, in this process and one more per core: the figures do not depend on Ray.

    python benchmarks/ensemble.py                    # everything: under half an hour on 2 quiet cores
    python benchmarks/ensemble.py --quick            # fewer seeds, smaller grids: under two minutes
    python benchmarks/ensemble.py --only digits --only chem97
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import cores, processes, show, write_json
from _ensemble_digits import digits, meta
from _ensemble_groups import fedem, rotated
from _ensemble_runs import Bench, Found
from _ensemble_scale import scale
from _ensemble_schools import chem97

CASES: dict[str, Callable[[Bench], Found]] = {case.__name__: case for case in (digits, rotated, chem97, fedem, meta, scale)}


def show_found(case: str, found: Found, seconds: float) -> None:
    """Prints a case's figures, one line each with its bar, and its notes."""
    rows = [
        [
            row.name,
            _number(row.value) if row.count is None else f"{row.value:g} of {row.count}",
            "" if row.spread is None else f"+- {_number(row.spread)}",
            "" if row.bytes is None else f"{row.bytes:,.0f}",
            row.bar,
            "" if row.met is None else "yes" if row.met else "NO",
        ]
        for row in found.rows
    ]
    show(f"{case} ({seconds:,.0f} s)", ["figure", "mean", "over seeds", "bytes a client", "bar", "met"], rows)
    for note in found.notes:
        print(note)
    print()


def show_verdict(found: dict[str, Found]) -> None:
    """Prints how many bars are met, and which are not."""
    barred = [(case, row) for case, one in found.items() for row in one.rows if row.met is not None]
    missed = [[f"{case}: {row.name}", _number(row.value), row.bar] for case, row in barred if not row.met]
    print(f"{len(barred) - len(missed)} of {len(barred)} bars are met")
    if missed:
        show("not met", ["figure", "mean", "bar"], missed)


def _number(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"


def main() -> None:
    """Runs the cases, prints their tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*CASES], action="append", help="which case; repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer seeds, smaller grids, fewer cases of groups")
    parser.add_argument(
        "--seeds", type=int, help="number of seeds; rotated uses twice as many, fedem at most 3 (default 5; 1 with --quick)"
    )
    parser.add_argument("--first-seed", type=int, default=1, help="the first seed (default 1; chem97 always uses 0, 1, ...)")
    parser.add_argument("--json", type=Path, default=Path("ensemble.json"), help="where the figures go (default ensemble.json)")
    options = parser.parse_args()
    seeds = options.seeds if options.seeds is not None else 1 if options.quick else 5
    if seeds < 1:
        parser.error(f"--seeds is {seeds}; at least 1")

    found, took = {}, {}
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder, processes() as pool:
        bench = Bench(options.quick, seeds, options.first_seed, pool, Path(folder))
        for name in options.only or CASES:
            began = time.monotonic()
            found[name] = CASES[name](bench)
            took[name] = time.monotonic() - began
            show_found(name, found[name], took[name])
    show_verdict(found)
    cases = {name: {"seconds": took[name], **one.plain()} for name, one in found.items()}
    write_json(options.json, {"benchmark": "ensemble", "quick": options.quick, "seeds": seeds, "cores": cores(), "cases": cases})


if __name__ == "__main__":
    main()
