"""Do published recipes give their published figures here? Each is run as its source says, and printed beside the source's value.

fed_prox: FedProx on Synthetic(1, 1) with stragglers, against FedAvg that drops them.
pfed_me: pFedMe, Per-FedAvg and FedAvg on Synthetic(0.5, 0.5) of 100 users.
ifca: a mixture of two linear regressions. ditto: point estimates, and which strength is best.
glm: Dobson's counts, the example of R's glm.
All cases run without Ray, one process a core: the figures do not depend on it.

    python benchmarks/published.py              # everything: under 40 minutes on 2 quiet cores
    python benchmarks/published.py --quick      # fewer seeds and rounds: under three minutes
    python benchmarks/published.py --only ifca --only ditto

published: as the source prints it. re-computed: by an independent NumPy implementation of the same recipe. ours: the mean over seeds
with its 95 % interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from _common import cores, processes, show, write_json
from _published_ditto import ditto
from _published_fed_prox import fed_prox
from _published_glm import glm
from _published_ifca import ifca
from _published_pfed_me import pfed_me
from _published_runs import Bench, Found

CASES: dict[str, Callable[[Bench], Found]] = {case.__name__: case for case in (fed_prox, pfed_me, ifca, ditto, glm)}


def show_found(case: str, found: Found, seconds: float) -> None:
    """Prints a case's figures beside the published ones, and what explains the differences."""
    rows = [[one.name, one.published, one.recomputed, one.ours, str(len(one.values))] for one in found.figures]
    show(f"{case} ({seconds:,.0f} s)", ["figure", "published", "re-computed", "ours", "seeds"], rows)
    for note in found.notes:
        print(note)
    print()


def main() -> None:
    """Runs the cases, prints their tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*CASES], action="append", help="which case; repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer seeds and rounds: what is published needs all of them")
    parser.add_argument("--json", type=Path, default=Path("published.json"), help="where the figures go (default published.json)")
    options = parser.parse_args()

    cases = {}
    with processes() as pool:
        bench = Bench(options.quick, pool)
        for name in options.only or CASES:
            began = time.monotonic()
            found = CASES[name](bench)
            seconds = time.monotonic() - began
            show_found(name, found, seconds)
            cases[name] = {"seconds": seconds, **found.plain()}
    write_json(options.json, {"benchmark": "published", "quick": options.quick, "cores": cores(), "cases": cases})


if __name__ == "__main__":
    main()
