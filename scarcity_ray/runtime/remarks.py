"""What a user should know of a scenario before its run: what its test rows, validation rows and seeds can tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import headline
from scarcity_ray.results.summary import NOT_FEDERATED
from scarcity_ray.scenario import Scenario
from scarcity_ray.strategies.local_only import LocalOnly

_GAIN = 0.05  # of a metric from 0 to 1: five points
_OF_A_ROW = 0.25  # variance of one row's gain: measured .06 to .39 in 21 comparisons by accuracy and AUC, .16 to .32 for 15
_OF_CLIENTS = 0.08  # standard deviation of clients' true gains: measured 0 to .16


def remarks(scenario: Scenario, federation: Federation, tested: NDArray[np.int64]) -> tuple[str, ...]:
    """A sentence for each thing that keeps a run from telling what it is asked: what, why it matters, and what to do.

    tested: ids of the clients that are evaluated.
    """
    return (*_of_test_rows(scenario, federation, tested), *_of_validation(scenario, federation), *_of_seeds(scenario))


def half_width(rows: NDArray[np.int64], again: float = 1.0, renewed: bool = False) -> float:
    """Half of the 95 % interval that a mean gain of a metric from 0 to 1 may have, roughly; NaN of fewer than two clients.

    t sqrt(sum of (.08^2 + .25 / rows)) / clients: .08 is how far clients' true gains differ and .25 the variance of a row's gain, and t is
    Student's of clients - 1 degrees. It lies within a third of the width that the runs behind these two numbers found.
    rows: `[clients]`, test rows above 0. again: how often seeds bring so many others. renewed: whether with other clients.
    """
    clients = len(rows)
    if clients < 2:
        return float("nan")
    variance = float((_OF_CLIENTS**2 / (again if renewed else 1.0) + _OF_A_ROW / (rows * again)).sum()) / clients**2
    return float(stdtrit(clients - 1, 0.975) * np.sqrt(variance))


def _of_test_rows(scenario: Scenario, federation: Federation, tested: NDArray[np.int64]) -> Iterator[str]:
    counts = federation.test.counts[tested]
    rows = counts[counts > 0]
    if len(rows) < 2:
        few = "no client has" if not len(rows) else "a single client has"
        yield f"{few} test rows, so no gain has an interval: set `test_fraction`, or take clients with more rows"
        return
    shown = headline(federation.task, scenario.evaluation.metric)
    if not shown.metric.bounded or federation.task != "classification":
        return
    repeats, brought = scenario.repeats, scenario.data.repeats
    whole = sum(len(part.y) for part in (federation.train, federation.validation, federation.test)) / len(federation.test.y)
    again = {"draws": float(repeats), "trainings": 1.0}.get(brought, min(float(repeats), whole))  # seeds test no row more than there are
    half = half_width(rows, again, renewed=brought in ("draws", "deals"))
    if half > _GAIN:
        yield (
            f"a mean gain of 5 points of {shown.short} cannot be told from none: {len(rows):,} clients with {int(rows.min()):,} to "
            f"{int(rows.max()):,} test rows give it a 95 % interval of about ±{100 * half:.2g}; more clients or test rows would tell"
            + (", or more `repeats`" if brought == "draws" or (brought != "trainings" and repeats < whole) else "")
        )


def _of_validation(scenario: Scenario, federation: Federation) -> Iterator[str]:
    federated = sum(strategy.kind_title not in NOT_FEDERATED for strategy in scenario.strategies)
    alone = any(isinstance(strategy, LocalOnly) for strategy in scenario.strategies)
    if len(federation.validation.y) or not len(federation.test.y) or not (federated > 1 or alone):
        return
    lacking = ["gains are over each client's ridge, not over the model that local_only trains"] if alone else []
    lacking += [f"the best of {federated} strategies is chosen on halves of the test rows"] if federated > 1 else []
    yield f"no validation rows: {', and '.join(lacking)}; set `validation_fraction`"


def _of_seeds(scenario: Scenario) -> Iterator[str]:
    if scenario.repeats == 1:
        yield "one seed: intervals leave out the luck of training; `repeats: 5` shows it"
