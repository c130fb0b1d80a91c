"""What a finished run says of each client: its rows, how good its models are alone and federated, its gain, its expert, its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from scarcity_ray.baselines import ALONE
from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.core.tables import column
from scarcity_ray.results.files import new_file
from scarcity_ray.results.gains import Gains, SeedGains, largest
from scarcity_ray.results.reading import believing
from scarcity_ray.results.repeats import repeats_of
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.results.summary import keeps_clients
from scarcity_ray.scenario.words import closest

SURE = {1: "surely better", 0: "cannot tell", -1: "surely worse"}

SCHEMA = pa.schema(
    [
        column("strategy", pa.string(), "", "the federated strategy"),
        column("client", pa.string(), "", "its name in the user's table, or else its id"),
        column("client_id", pa.int64(), "", "the client, from 0"),
        column("seed", pa.int64(), "", "the seed; null where the numbers are means over all seeds", nullable=True),
        column("num_train", pa.int64(), "rows", "training rows of the client"),
        column("num_test", pa.int64(), "rows", "test rows of the client"),
        column("alone", pa.float64(), "", "the metric that decides, of the client at its best alone", nullable=True),
        column("federated", pa.float64(), "", "the same of its model by the strategy", nullable=True),
        column("measured_gain", pa.float64(), "", "the gain on the client's own test rows; above 0: better", nullable=True),
        column("gain", pa.float64(), "", "its posterior mean, in the light of all clients' gains", nullable=True),
        column("gain_low", pa.float64(), "", "lower end of its 90 % interval", nullable=True),
        column("gain_high", pa.float64(), "", "upper end of its 90 % interval", nullable=True),
        column("sure", pa.string(), "", "surely better, surely worse or cannot tell; null without a gain", nullable=True),
        column("expert", pa.string(), "", "the client's expert, from 0; of several seeds each, as 0/2/1", nullable=True),
        column("uplink_bytes", pa.float64(), "bytes", "sent up by the client in the whole run"),
        column("downlink_bytes", pa.float64(), "bytes", "sent down to the client in the whole run"),
    ]
)
"""One row a client; or one a client and seed, where seeds deal clients other rows. The worst gain comes first, no gain last."""


@dataclass(frozen=True)
class ClientReport:
    """table: see SCHEMA. shown: the metric that decides. as_good: a strategy that may be as good, where the summary names two as best.
    seeds: how many the numbers are means over; 1 where each seed has rows of its own."""

    table: pa.Table
    strategy: str
    shown: Shown
    as_good: str | None
    seeds: int

    @property
    def per_seed(self) -> bool:
        """Whether there is a row for each client and each of several seeds."""
        return len(self.table["seed"].unique()) > 1

    def count(self, sure: int) -> int:
        """The number of rows that are surely better (1), surely worse (-1) or cannot tell (0), as in summary.json."""
        return int(self.table["sure"].to_pylist().count(SURE[sure]))

    def write_csv(self, path: Path) -> None:
        """Writes the table as CSV with full precision, complete or not at all. Raises Unwritable."""
        with new_file(path) as draft:
            csv.write_csv(self.table, draft)


def client_report(results: Results, strategy: str | None = None) -> ClientReport:
    """Each client of a run after the last round. strategy: its name in the run; the best federated one if left out.

    Gains are shrunk together, as for summary.json, and averaged over seeds before where clients keep their rows. Raises RunError where
    the run has not ended, has no such strategy, or names no best one, or its files are not what a run leaves.
    """
    summary, directory = results.summary, results.directory
    with believing(directory / "summary.json"):
        name, as_good = _chosen(summary, strategy, directory)
        shown, margin = headline(summary["task"], summary.get("metric")), float(summary.get("margin") or 0.0)
    with believing(directory / "clients.parquet"):
        rows = _rows(results, name, shown)
        several = rows["seed"].nunique() > 1
        averaged = several and keeps_clients(repeats_of(results))
        parts = [SeedGains.of(part, shown) for _, part in rows.groupby("seed")]
        found = Gains.of(parts, averaged, largest(shown)).shrunk(margin)
        report = _over_seeds(rows) if averaged else rows.copy()
        known = report["gain"].notna().to_numpy()
        report["measured_gain"] = report["gain"]
        for column_name, values in (("gain", found.mean), ("gain_low", found.low), ("gain_high", found.high)):
            report.loc[known, column_name] = values
        sure = np.full(len(report), None, dtype=object)
        sure[known] = [SURE[one] for one in found.sure.tolist()]
        report["sure"] = sure
        report = report.sort_values(["gain", "measured_gain"], kind="stable", na_position="last").assign(strategy=name)
        table = pa.Table.from_pandas(report[SCHEMA.names], SCHEMA, preserve_index=False).replace_schema_metadata()
    return ClientReport(table, name, shown, as_good, rows["seed"].nunique() if averaged else 1)


def _chosen(summary: dict[str, Any], strategy: str | None, directory: Path) -> tuple[str, str | None]:
    """The strategy to report, and the other one where the best is one of two."""
    names = [name for name in summary["strategies"] if name != ALONE]
    best = (summary.get("best") or {}).get("strategies", [])
    if strategy is not None and strategy in names:
        return strategy, None
    if strategy is None and best:
        return str(best[0]), str(best[1]) if len(best) > 1 else None
    there = f"--strategy may be {', '.join(names)}"
    if strategy is None:
        raise RunError(f"{directory / 'summary.json'} names no best federated strategy; {there}")
    near = closest(strategy, names)
    guess = f"did you mean {near}? " if near else ""
    raise RunError(f"--strategy is {strategy!r}: {directory} has no such strategy to compare with {ALONE}; {guess}{there}")


def _rows(results: Results, name: str, shown: Shown) -> Any:
    """The strategy's rows of `clients` after the last round of each seed, by seed and client id, with the columns alone, federated and
    expert (text, None for none)."""
    gains = [f"gain{half}{part}" for half in ("", "_0", "_1") for part in ("", "_error")]
    facts = ["client_id", "client", "num_train", "num_test", "uplink_bytes", "downlink_bytes", "expert_id"]
    metric = shown.metric.column
    wanted = ["strategy", "seed", "round", *facts, metric, *gains]
    table = results.table("clients", wanted, [("strategy", "in", [ALONE, name])])
    frame = table.to_pandas()
    frame = frame[frame["round"] == frame.groupby(["strategy", "seed"])["round"].transform("max")].sort_values(["seed", "client_id"])
    own, alone = (frame[frame["strategy"] == which].set_index(["seed", "client_id"]) for which in (name, ALONE))
    own["alone"], own["federated"] = shown.shape(alone[metric].reindex(own.index)), shown.shape(own[metric])
    own["expert"] = [None if np.isnan(one) else str(int(one)) for one in own["expert_id"].astype(float)]
    own = own.reset_index()
    return own.assign(client=own["client"].where(own["client"].notna(), own["client_id"].astype(str)))


def _over_seeds(rows: Any) -> Any:
    """Each client once: means over the seeds, the experts of all."""
    clients = rows.groupby("client_id")
    means = clients[["alone", "federated", "gain", "uplink_bytes", "downlink_bytes"]].mean()
    same = clients[["client"]].first().join(clients[["num_train", "num_test"]].mean().round().astype(int))
    experts = clients["expert"].agg(lambda each: "/".join(each) if each.notna().all() else None)
    return means.join(same).assign(expert=experts, seed=None).reset_index()
