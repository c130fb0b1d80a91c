"""What a page is made from: the files of a run, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.verdict import nothing_learned
from scarcity_ray.results.client_report import ClientReport, client_report
from scarcity_ray.results.results import Results
from scarcity_ray.results.stored_table import PREDICTIONS
from scarcity_ray.results.summary import NOT_FEDERATED


@dataclass(frozen=True)
class Facts:
    """A run, read from its directory. Every property is of the files; none is made twice."""

    results: Results

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return self.results.summary

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario."""
        return self.results.scenario

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json."""
        return self.results.environment

    @cached_property
    def scarcity(self) -> dict[str, Any] | None:
        """The content of scarcity.json, where there is one."""
        return self.results.scarcity

    @cached_property
    def decides(self) -> Shown:
        """The metric that decides."""
        return headline(self.summary["task"], self.summary.get("metric"))

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """What the summary says of each strategy, and of the two baselines."""
        return self.summary["strategies"]  # type: ignore[no-any-return]

    @cached_property
    def federated(self) -> list[str]:
        """The strategies that federate, in the scenario's order."""
        return [name for name, entry in self.entries.items() if entry["kind"] not in NOT_FEDERATED]

    @cached_property
    def played(self) -> list[str]:
        """All strategies of the scenario, without the two baselines."""
        return [name for name, entry in self.entries.items() if entry["kind"] not in (ALONE, GUESS)]

    @cached_property
    def best(self) -> list[str]:
        """The strategy of the verdict, or the two of which none is best; none where nothing was learned."""
        return [] if nothing_learned(self.summary) else list((self.summary.get("best") or {}).get("strategies", []))

    @cached_property
    def clients(self) -> ClientReport | None:
        """Each client under the best strategy, or the first that has gains; None where no strategy has."""
        named = list((self.summary.get("best") or {}).get("strategies", []))
        candidates = [*named, *(name for name in self.federated if (self.entries[name].get("gain") or {}).get("clients"))]
        for name in candidates:
            report = client_report(self.results, name)
            if any(gain is not None for gain in report.table["gain"].to_pylist()):
                return report
        return None

    @cached_property
    def names(self) -> list[str]:
        """Of each row of `clients`, its client; with its seed where seeds deal other rows."""
        if self.clients is None:
            return []
        table = self.clients.table
        named = [shown(name) for name in table["client"].to_pylist()]
        return [f"{n}, seed {s}" for n, s in zip(named, table["seed"].to_pylist(), strict=True)] if self.clients.per_seed else named

    def column(self, name: str) -> NDArray[np.float64]:
        """Numbers of `clients`, `[rows]`, NaN for none."""
        assert self.clients is not None
        return np.asarray(self.clients.table[name].to_numpy(zero_copy_only=False), dtype=np.float64)

    @cached_property
    def rounds(self) -> Any:
        """The table of rounds as a data frame."""
        return self.results.rounds.to_pandas()

    def predictions(self, strategy: str) -> pa.Table | None:
        """What a strategy answered to each test row, under all seeds; None where the run did not keep it."""
        if not (self.results.directory / f"{PREDICTIONS}.parquet").exists():
            return None
        return self.results.table(PREDICTIONS, filters=[("strategy", "=", strategy)])

    @property
    def seeds(self) -> int:
        """How many seeds were played."""
        return max((len(entry.get("seeds", ())) or 1 for entry in self.entries.values()), default=1)

    @property
    def clients_in_words(self) -> str:
        """How many clients there are: `54 clients`."""
        return count(self.summary["clients"], "client")


def count(number: float, word: str) -> str:
    """A number and what it is of, in the plural where it must be."""
    return f"{number:,.0f} {word}" if number == 1 else f"{number:,.0f} {word}s"
