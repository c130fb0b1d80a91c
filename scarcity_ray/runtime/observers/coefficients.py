"""The coefficients of linear models as a file for spreadsheets and statistics programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from scarcity_ray.results.files import write_whole
from scarcity_ray.results.results import Results
from scarcity_ray.runtime.observers.base import Observer

_COLUMNS = ("strategy", "seed", "name", "class", "estimate", "std_error", "statistic", "p_value", "lower", "upper")


class Coefficients(Observer):
    """Writes coefficients.csv where a strategy has coefficients: what summary.json says of them, under each seed. seed: the first."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.seed = directory, seed

    def on_run_end(self, error: BaseException | None) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        rows = [
            {"strategy": name, "seed": seed, **row}
            for name, entry in Results.load(self.directory).summary["strategies"].items()
            for seed, one in entry.get("seeds", {self.seed: entry}).items()
            for row in one.get("coefficients", ())
        ]
        if rows:
            table.writerows(rows)
            write_whole(self.directory / "coefficients.csv", text.getvalue().encode())
