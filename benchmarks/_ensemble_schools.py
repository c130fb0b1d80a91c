"""Chem97: 2,410 schools with a dozen pupils each, compared with the mixed model that a statistician fits to all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from _common import HERE
from _ensemble_runs import Bench, Found, Row, Run, figure, of_all, sent
from _mixed import has_statsmodels, mixed_model
from scipy.stats import t as student

from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse

DRAWS = 2000
"""Bootstrap samples of the schools."""


class Marks(NamedTuple):
    """The mixed model: root mean square error on test rows, in marks; variance of marks within schools, and of the schools' intercepts."""

    rmse: float
    noise: float
    intercept: float


def chem97(bench: Bench) -> Found:
    """sf_hfe compared with the mixed model, pooled rows, FedAvg with and without edges, and each school alone."""
    shipped, more = _scenarios()
    seeds = range(1, 2) if bench.quick else range(bench.seeds + 1)  # the shipped split is that of seed 1
    beside = bench.pool.map(mixed, [shipped] * len(seeds), seeds) if has_statsmodels() else None
    played = bench.plays({"shipped": shipped, "more": more}, seeds)
    runs = [Run(one.seed, {**one.results, **other.results}) for one, other in zip(played["shipped"], played["more"], strict=True)]
    errors = of_all(runs, "sf_hfe", "rmse_pooled")
    rows = [figure("sf_hfe, error in marks", errors, at_most=2.305, bytes=sent(runs, "sf_hfe"), budget=299)]
    if not bench.quick:
        rows += [
            figure(f"the same, seeds 1 to {bench.seeds}", errors[1:], at_most=2.305),
            figure(f"the same, seeds 0 to {bench.seeds - 1}", errors[:-1], at_most=2.305),
        ]
    notes = []
    if beside is not None:
        rows += _beside_mixed(runs, errors, list(beside))
    else:
        notes.append("statsmodels is not installed: no comparison with the mixed model (pip install statsmodels)")
    for name, title in {"pooled": "pooled rows", "fed_avg": "fed_avg", "hier_fed_avg": "hier_fed_avg, authorities as edges"}.items():
        rows.append(figure(f"{title}, error", of_all(runs, name, "rmse_pooled"), bytes=sent(runs, name)))
    rows.append(figure("alone, error", of_all(runs, "local_only", "rmse_pooled"), bytes=0))
    rows.append(figure("share of schools better off than alone", of_all(runs, "sf_hfe", "share_better_than_alone")))
    rows.append(figure("experts chosen", [len(run.of("sf_hfe")["experts"]) for run in runs]))
    gains, more_notes, details = _gains(runs)
    return Found(rows + gains, notes + more_notes, details)


def mixed(scenario: dict[str, Any], seed: int) -> Marks:
    """The mixed model of the schools, in marks."""
    federation = prepare(parse({**scenario, "seed": seed, "execution": {"ray": False}}), Path()).federation
    fit, unit = mixed_model(federation), federation.label_scale
    if fit is None:
        raise RuntimeError(f"the mixed model does not converge on the split of seed {seed}")
    error = float(np.sqrt(np.mean((fit.predicted - federation.test.y.ravel()) ** 2)))
    return Marks(unit * error, unit**2 * fit.noise, unit**2 * fit.intercept)


def _scenarios() -> tuple[dict[str, Any], dict[str, Any]]:
    """schools.yaml; and for the same schools FedAvg over local authorities, and sf_hfe restricted to the mixed model's form."""
    shipped: dict[str, Any] = yaml.safe_load((HERE.parent / "scenarios" / "schools.yaml").read_text())
    shipped["data"]["source"]["group"] = "lea"
    shipped["evaluation"] = {"every": shipped["rounds"]}
    beside = [
        {"kind": "hier_fed_avg", "fraction": 0.1},
        {"kind": "sf_hfe", "name": "intercept", "representation": {"kind": "identity"}, "experts": 1, "differences": "intercept"},
    ]
    return shipped, {**shipped, "strategies": beside}


def _beside_mixed(runs: Sequence[Run], errors: list[float], mixed: list[Marks]) -> list[Row]:
    noise, intercept = [], []
    for run, other in zip(runs, mixed, strict=True):
        results = run.results["intercept"]
        left, unit = results.tensors("intercept"), results.encoding("intercept").label_scale ** 2
        mine = unit * float(left["ensemble.noise"][0])
        noise.append(abs(mine / other.noise - 1))
        intercept.append(abs(mine * float(left["ensemble.scatters"][0, -1]) / other.intercept - 1))
    return [
        figure("mixed model on pooled rows, error", [one.rmse for one in mixed]),
        figure("sf_hfe, less that", _less(errors, mixed), at_most=0),
        figure("sf_hfe with its shape, less that", _less(of_all(runs, "intercept", "rmse_pooled"), mixed)),
        figure("mixed model, variance within schools", [one.noise for one in mixed]),
        figure("sf_hfe's, relative difference", noise, at_most=0.05),
        figure("mixed model, variance between schools", [one.intercept for one in mixed]),
        figure("sf_hfe's, relative difference", intercept, at_most=0.05),
    ]


def _less(errors: list[float], mixed: list[Marks]) -> list[float]:
    return [mine - other.rmse for mine, other in zip(errors, mixed, strict=True)]


def _gains(runs: Sequence[Run]) -> tuple[list[Row], list[str], dict[str, Any]]:
    """Each school's gain: its root mean square error alone minus that with sf_hfe, in marks.

    A school's interval is Student's t over the splits; the interval of the mean is a bootstrap over schools.
    """
    roots = {name: np.stack([np.sqrt(run.clients(name)["test_loss"]) for run in runs]) for name in ("local_only", "sf_hfe")}
    gain = roots["local_only"] - roots["sf_hfe"]
    tested = ~np.isnan(gain).any(axis=0)  # a school of one pupil has no test row
    gain, splits, schools = gain[:, tested], len(runs), int(tested.sum())
    mean = gain.mean(axis=0)
    drawn = np.random.default_rng(0).integers(0, schools, (DRAWS, schools))
    low, high = np.quantile(mean[drawn].mean(axis=1), [0.025, 0.975])
    rows = [figure("mean gain of a school over itself alone", gain.mean(axis=1))]
    notes = [f"mean gain: 95 % interval {low:.3f} to {high:.3f} marks (bootstrap over {schools:,} schools, of their means over splits)"]
    details: dict[str, Any] = {"gains": {"school": np.flatnonzero(tested).tolist(), "mean": np.round(mean, 4).tolist()}}
    if splits > 1:
        half = student.ppf(0.975, splits - 1) * gain.std(axis=0, ddof=1) / np.sqrt(splits)
        better, worse = float((mean > half).mean()), float((mean < -half).mean())
        notes.append(
            f"each school's own 95 % interval (t over {splits} splits of the same pupils, so rather narrow): "
            f"above 0 for {better:.1%} of schools, below 0 for {worse:.1%}"
        )
        details["gains"]["half_width"] = np.round(half, 4).tolist()
    return rows, notes, details
