"""Generalised linear models over several clients: the estimates, errors and deviances of all rows in one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import torch
from helpers.interrupted import interrupt_after
from helpers.played import federation, server, shards
from numpy.typing import NDArray

from scarcity_ray import Results, resume, simulate, verify
from scarcity_ray.actors.client import Client
from scarcity_ray.actors.report import RoundResult
from scarcity_ray.actors.server import Server
from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.fleet import LocalFleet
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.strategies.fed_glm import FedGlm
from scarcity_ray.training.glm import message
from scarcity_ray.training.local import Local

Array = NDArray[Any]
COUNTS = [40, 0, 7, 73, 30]


def made(x: Array, y: Array, counts: list[int], **settings: Any) -> Server:
    """A server of clients with so many rows each, before round 1."""
    held = federation(shards(x, y, counts))
    first = server(FedGlm(), held, torch.nn.Linear(x.shape[1], held.outputs), Local(lr=1.0))
    strategy = FedGlm(**settings)
    first.set_strategy(strategy, strategy.problem(first.problem))
    return first


def fitted(x: Array, y: Array, counts: list[int], **settings: Any) -> tuple[Server, list[RoundResult]]:
    """The server after its last round, and the results of all rounds."""
    one, results = made(x, y, counts, **settings), list[RoundResult]()
    while not results or not (results[-1].done or len(results) == 60):
        results.append(one.run_round())
    return one, results


def column(learned: Any, name: str) -> Array:
    return np.array([row[name] for row in learned["coefficients"]], dtype=np.float64)


def targets(y: Array) -> Array:
    return y.astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def rows() -> tuple[Array, Array]:
    """Inputs as clients hold them, and a linear predictor."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sum(COUNTS), 3)).astype(np.float32).astype(np.float64)
    return x, x @ [0.5, -0.8, 0.2] + 0.3


def labels(family: str, eta: Array) -> Array:
    rng = np.random.default_rng(1)
    if family == "gaussian":
        return targets(eta + rng.standard_normal(len(eta)))
    if family == "poisson":
        return targets(rng.poisson(np.exp(eta)))
    if family == "binomial":
        return (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(np.int64)
    return np.argmax(np.stack([0 * eta, eta, 0.5 - eta]) + rng.gumbel(size=(3, len(eta))), 0)


FAMILIES = {"gaussian": sm.families.Gaussian(), "binomial": sm.families.Binomial(), "poisson": sm.families.Poisson()}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_of_all_rows_in_one_place(family: str, rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y = labels(family, eta)
    reference = sm.GLM(y.reshape(-1).astype(np.float64), sm.add_constant(x), family=FAMILIES[family]).fit(tol=1e-14)
    _, results = fitted(x, y, COUNTS, family=family, tolerance=1e-12)
    learned = results[-1].learned
    np.testing.assert_allclose(column(learned, "estimate"), reference.params, rtol=1e-8)
    np.testing.assert_allclose(column(learned, "std_error"), reference.bse, rtol=1e-8)
    np.testing.assert_allclose(learned["deviance"], reference.deviance, rtol=1e-8)
    np.testing.assert_allclose(learned["null_deviance"], reference.null_deviance, rtol=1e-8)
    assert learned["df_resid"] == reference.df_resid
    assert learned["converged"]
    assert learned["notes"] == []
    if family == "gaussian":
        assert len(results) == 1
        ols = sm.OLS(y.reshape(-1).astype(np.float64), sm.add_constant(x)).fit()
        np.testing.assert_allclose(column(learned, "p_value"), ols.pvalues, rtol=1e-6)
        np.testing.assert_allclose(np.stack([column(learned, "lower"), column(learned, "upper")], 1), ols.conf_int(), rtol=1e-8, atol=1e-8)
    else:
        np.testing.assert_allclose(column(learned, "p_value"), reference.pvalues, rtol=1e-6)
        np.testing.assert_allclose(
            np.stack([column(learned, "lower"), column(learned, "upper")], 1), reference.conf_int(), rtol=1e-8, atol=1e-8
        )


def test_several_classes_are_one_model_too(rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y = labels("multinomial", eta)
    reference = sm.MNLogit(y, sm.add_constant(x)).fit(method="newton", tol=1e-14, disp=False)
    learned = fitted(x, y, COUNTS, tolerance=1e-12)[1][-1].learned
    np.testing.assert_allclose(column(learned, "estimate"), reference.params.T.reshape(-1), rtol=1e-8)
    np.testing.assert_allclose(column(learned, "std_error"), reference.bse.T.reshape(-1), rtol=1e-8)
    np.testing.assert_allclose([learned["deviance"], learned["null_deviance"]], [-2 * reference.llf, -2 * reference.llnull], rtol=1e-8)
    assert [row["class"] for row in learned["coefficients"]] == ["1"] * 4 + ["2"] * 4


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_each_round_is_one_iteration_on_all_rows(family: str, rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y, one = labels(family, eta), sm.add_constant(x)
    flat = y.reshape(-1).astype(np.float64)
    made_, beta = made(x, y, COUNTS, family=family), np.zeros(4)
    for round in range(4):
        result = made_.run_round()
        if family == "poisson" and round == 0:
            beta[0] = np.log(flat.mean())
        else:
            mean = 1 / (1 + np.exp(-one @ beta)) if family == "binomial" else np.exp(one @ beta)
            weight = mean * (1 - mean) if family == "binomial" else mean
            beta = np.linalg.lstsq(one * np.sqrt(weight)[:, None], np.sqrt(weight) * (one @ beta + (flat - mean) / weight), rcond=None)[0]
        np.testing.assert_allclose(made_.state.broadcast["beta"].reshape(-1).numpy(), beta, rtol=1e-8)
        assert result.learned["iterations"] == round + 1


def test_dobsons_counts_are_those_of_r() -> None:
    """The example of R's ?glm: three clients of three counts each."""
    counts = targets(np.array([18, 17, 15, 20, 10, 20, 25, 13, 12]))
    outcome, treatment = np.tile([0, 1, 2], 3), np.repeat([0, 1, 2], 3)
    x = np.stack([outcome == 1, outcome == 2, treatment == 1, treatment == 2], 1).astype(float)
    _, results = fitted(x, counts, [3, 3, 3], family="poisson")
    learned = results[-1].learned
    np.testing.assert_allclose(column(learned, "estimate"), [3.0445, -0.4543, -0.2930, 0, 0], atol=5e-5)
    np.testing.assert_allclose(column(learned, "std_error"), [0.1709, 0.2022, 0.1927, 0.2, 0.2], atol=5e-5)
    assert learned["deviance"] == pytest.approx(5.1291, abs=5e-5)
    assert learned["null_deviance"] == pytest.approx(10.5814, abs=5e-5)
    assert (learned["df_resid"], len(results)) == (4, 6)  # 4 steps as in R, after the mean; the deviance of a step is known a round later


def test_ridge_is_in_score_and_information_and_not_on_the_constant(rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y = labels("binomial", eta)
    _, results = fitted(x, y, COUNTS, strength=0.1, tolerance=1e-12)
    learned, one = results[-1].learned, sm.add_constant(x)
    beta = column(learned, "estimate")
    gradient = one.T @ (y - 1 / (1 + np.exp(-one @ beta))) / len(y)
    np.testing.assert_allclose(gradient, 0.1 * np.array([0, *beta[1:]]), atol=1e-10)
    assert "strength 0.1 shrinks" in learned["notes"][0]


@pytest.mark.parametrize("family", ["gaussian", "multinomial", "poisson"])
def test_the_same_bits_for_any_actors_and_chunks(family: str, rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y, found = labels(family, eta), []
    for parts in ([[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[4, 2], [0, 1, 3]]):
        one = made(x, y, COUNTS, family=family)
        held = one.clients.workers[0].federation  # type: ignore[attr-defined]
        actors = []
        for part in parts:
            actors.append(Client(np.array(part)))
            actors[-1].load_federation(held)
        one.load_federation(LocalFleet(actors))
        one.set_strategy(one.strategy, one.problem)
        for _ in range(3):
            result = one.run_round()
        assert result.learned["iterations"] == 3
        found.append(one.state.broadcast["beta"].numpy().tobytes())
    assert len(set(found)) == 1


def test_bytes_are_eight_a_number(rows: tuple[Array, Array]) -> None:
    x, eta = rows
    one, results = fitted(x, labels("gaussian", eta), COUNTS)
    assert one.traffic.uplink.tolist() == [8 * (4 + 10 + 1)] * 5
    assert one.traffic.downlink.tolist() == [8 * 4 * 2] * 5  # before the round, and after the last
    assert results[0].rejected == []


def test_clients_send_insights_about_the_coefficients_they_got(tmp_path: Path) -> None:
    data = {"source": {"kind": "blobs", "shape": [4], "classes": 3, "separation": 2.0}, "clients": 4}
    strategies = [{"kind": "fed_glm", "insights": True, "strength": 0.1}]
    results = simulate(
        {"name": "told", "rounds": 3, "data": data, "strategies": strategies, "execution": {"ray": False}}, out=tmp_path / "r"
    )
    losses = results.frame("insights").groupby("round")[["loss_before", "loss_after"]].mean()
    assert (losses["loss_before"] == losses["loss_after"]).all()
    assert losses["loss_before"].iloc[-1] < losses["loss_before"].iloc[0] == pytest.approx(np.log(3), rel=1e-6)


def test_a_client_that_is_rejected_is_left_out_and_told(rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y = labels("binomial", eta)
    wild = x.copy()
    wild[40] = np.nan  # the first row of client 2
    results = fitted(wild, y, COUNTS)[1]
    learned, others = results[-1].learned, np.r_[:40, 47:150]
    reference = sm.GLM(y[others].astype(float), sm.add_constant(x[others]), family=FAMILIES["binomial"]).fit(tol=1e-14)
    np.testing.assert_allclose(column(learned, "estimate"), reference.params, rtol=1e-8)
    assert results[-1].row["rejected"] == 1
    assert learned["converged"]
    assert learned["notes"] == ["the last round is of 95% of the training rows: clients dropped out, or were rejected"]


# -- what has no best value ------------------------------------------------------------------------------------------------


def test_a_column_that_others_determine_has_no_coefficient(rows: tuple[Array, Array]) -> None:
    x, eta = rows
    y = labels("poisson", eta)
    whole = fitted(x, y, COUNTS, family="poisson")[1][-1].learned
    learned = fitted(np.column_stack([x, x[:, 0] - 2 * x[:, 1], 0 * x[:, 0]]), y, COUNTS, family="poisson")[1][-1].learned
    estimates = column(learned, "estimate")
    np.testing.assert_allclose(estimates[:4], column(whole, "estimate"), rtol=1e-8)
    assert np.isnan(estimates[4:]).all()
    assert np.isnan(column(learned, "std_error")[4:]).all()
    assert learned["df_resid"] == whole["df_resid"]
    assert learned["notes"] == ["no coefficient of its own, as the other columns determine it: x3, x4"]


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_that_are_separated_are_told(classes: int) -> None:
    x = np.linspace(-1, 1, 30)[:, None]
    y = np.digitize(x[:, 0], [0.0] if classes == 2 else [-0.3, 0.3]).astype(np.int64)
    one, results = fitted(x, y, [10, 10, 10])
    learned = results[-1].learned
    assert torch.isfinite(one.state.broadcast["beta"]).all()
    assert np.isfinite(column(learned, "estimate")).all()
    assert learned["deviance"] < 0.05
    assert learned["iterations"] < 20
    assert any("separate labels" in note for note in learned["notes"])
    assert fitted(x, y, [10, 10, 10], strength=0.01)[1][-1].learned["converged"]


@pytest.mark.parametrize("y", [np.zeros(12), np.r_[np.zeros(11), 1e6]])
def test_counts_that_are_all_0_or_far_apart_end(y: Array) -> None:
    x = np.random.default_rng(5).standard_normal((12, 2))
    one, results = fitted(x, targets(y), [5, 7], family="poisson")
    assert torch.isfinite(one.state.broadcast["beta"]).all()
    assert results[-1].rejected == []
    assert results[-1].done


def test_fewer_rows_than_coefficients_have_no_errors() -> None:
    rng = np.random.default_rng(6)
    learned = fitted(rng.standard_normal((4, 6)), targets(rng.standard_normal(4)), [2, 2])[1][-1].learned
    assert (learned["df_resid"], learned["dispersion"]) == (0, None)
    assert np.isnan(column(learned, "std_error")).all()


def test_a_message_of_no_rows_is_zero() -> None:
    for family, y in (("gaussian", torch.zeros(0)), ("poisson", torch.zeros(0)), ("multinomial", torch.zeros(0, dtype=torch.int64))):
        said = message(family, torch.zeros(0, 3).double(), y.double() if family != "multinomial" else y, torch.ones(3, 2).double()[:, :1])  # type: ignore[arg-type]
        assert all(not value.any() for value in (said.score, said.information, said.deviance))


def test_a_step_that_raises_the_deviance_is_taken_back_half_the_way() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 1)) ** 3
    y = targets(np.round(np.exp(np.clip(1.5 * x[:, 0], -5, 6))))
    one, betas, results = made(x, y, [15, 25], family="poisson"), list[Array](), list[RoundResult]()
    while not results or not results[-1].done:
        betas.append(one.state.broadcast["beta"].numpy())
        results.append(one.run_round())
    deviances = [result.learned["deviance"] for result in results]
    place = next(i for i in range(1, len(results)) if deviances[i] > deviances[i - 1])
    np.testing.assert_array_equal(betas[place + 1], (betas[place] + betas[place - 1]) / 2)
    assert deviances[-1] == min(deviances)
    assert results[-1].learned["converged"]


# -- a run: the user's table, units and names ------------------------------------------------------------------------------


def visits() -> pd.DataFrame:
    rng, n = np.random.default_rng(2), 150
    table = pd.DataFrame({
        "site": rng.choice(["north", "south", "east"], n), "ward": rng.choice(["a", "b", "c"], n),
        "age": rng.uniform(20, 90, n), "dose": rng.uniform(0, 2, n),
    })  # fmt: skip
    eta = 0.01 * table.age + 0.5 * table.dose + 0.3 * (table.ward == "b") - 0.5
    table["visits"] = rng.poisson(np.exp(eta)).astype(float)
    table["stay"] = 3 + 4 * eta + rng.standard_normal(n)
    table["back"] = np.where(rng.random(n) < 1 / (1 + np.exp(-eta)), "yes", "no")
    return table


def content(label: str, strategies: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    source = {"kind": "table", "path": "t.csv", "client": "site", "label": label, "features": ["ward", "age", "age^2", "dose"]}
    data = {"source": source, "test_fraction": 0.0}
    return {"name": "visits", "rounds": 3, "data": data, "strategies": strategies, "execution": {"ray": False}, **changes}


def run(folder: Path, *args: Any, **changes: Any) -> Results:
    visits().to_csv(folder / "t.csv", index=False)
    return simulate(content(*args, **changes), base_dir=folder, out=folder / "run", show=True)


@pytest.mark.parametrize(("label", "family"), [("stay", "gaussian"), ("visits", "poisson"), ("back", "binomial")])
def test_coefficients_are_in_the_users_units_and_names(label: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(tmp_path, label, [{"kind": "fed_glm", "family": "auto" if label == "back" else family}])
    table = visits().assign(back=lambda rows: (rows.back == "yes").astype(float))
    reference = smf.glm(f"{label} ~ C(ward) + age + I(age**2) + dose", table, family=FAMILIES[family]).fit(tol=1e-14)
    entry = results.summary["strategies"]["fed_glm"]
    names = ["intercept", "ward=a", "ward=b", "ward=c", "age", "age^2", "dose"]
    assert [row["name"] for row in entry["coefficients"]] == names
    own = [0, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(column(entry, "estimate")[own], reference.params, rtol=1e-5)  # inputs are standardised as float32
    np.testing.assert_allclose(column(entry, "std_error")[own], reference.bse, rtol=1e-5)
    np.testing.assert_allclose([entry["deviance"], entry["null_deviance"]], [reference.deviance, reference.null_deviance], rtol=1e-6)
    np.testing.assert_allclose(entry["dispersion"], reference.scale, rtol=1e-6)
    assert entry["coefficients"][1]["estimate"] is None
    assert entry["notes"] == ["no coefficient of its own, as the other columns determine it: ward=a"]
    lines = (tmp_path / "run" / "coefficients.csv").read_text().splitlines()
    assert lines[0] == "strategy,seed,name,class,estimate,std_error,statistic,p_value,lower,upper"
    assert lines[2] == f"fed_glm,0,ward=a,{'yes' if label == 'back' else ''},,,,,,"
    assert float(lines[5].split(",")[4]) == entry["coefficients"][4]["estimate"]
    shown = capsys.readouterr().out
    assert "fed_glm: change of the l" in shown
    assert "ward=b" in shown


def test_models_answer_in_the_users_unit_and_a_run_is_verified(tmp_path: Path) -> None:
    split = {"source": content("visits", [])["data"]["source"], "test_fraction": 0.3}
    results = run(tmp_path, "visits", [{"kind": "fed_glm", "family": "poisson"}], data=split, evaluation={"predictions": True}, repeats=2)
    found = results.frame("predictions")
    found = found[found["strategy"] == "fed_glm"]
    assert (found["prediction"] > 0).all()
    assert found["y"].round(3).isin(range(30)).all()
    seeds = results.summary["strategies"]["fed_glm"]["seeds"]
    assert [(tmp_path / "run" / "coefficients.csv").read_text().count(f"fed_glm,{seed},") for seed in seeds] == [7, 7]
    rows, names = visits(), [row["name"] for row in seeds["0"]["coefficients"]]
    beta = dict(zip(names, np.nan_to_num(column(seeds["0"], "estimate")), strict=True))
    eta = beta["intercept"] + beta["age"] * rows.age + beta["age^2"] * rows.age**2 + beta["dose"] * rows.dose
    expected = np.exp(eta + sum(beta[f"ward={ward}"] * (rows.ward == ward) for ward in "abc"))
    first = found[found["seed"] == 0]
    assert np.abs(first["prediction"].to_numpy()[:, None] - expected.to_numpy()).min(1).max() < 1e-4
    assert verify(tmp_path / "run").difference is None


@pytest.mark.parametrize(("label", "settings", "why"), [
    ("stay", {"family": "poisson"}, r"strategies.0.family.*labels are to be counts.* of 150 are not, such as .*use gaussian"),
    ("stay", {"family": "binomial"}, r"strategies.0.family.*labels are numbers; allowed: auto, gaussian or poisson"),
    ("back", {"family": "gaussian"}, r"strategies.0.family.*labels are 2 classes; allowed: auto or multinomial, or binomial"),
    ("ward", {"family": "binomial"}, r"strategies.0.family.*labels are 3 classes; allowed: auto or multinomial$"),
    ("back", {"uplink": [{"kind": "import", "path": "helpers.user_transforms:Sign"}]}, r"strategies.0.uplink.*exact sums"),
])  # fmt: skip
def test_what_does_not_suit_is_refused_before_anything_starts(label: str, settings: Any, why: str, tmp_path: Path) -> None:
    visits().to_csv(tmp_path / "t.csv", index=False)
    asked = content(label, [{"kind": "fed_glm", **settings}])
    asked["data"]["source"]["features"] = ["age", "dose"]
    with pytest.raises(SpecError) as refused:
        prepare(parse(asked), tmp_path)
    assert re.search(why, f"{'.'.join(map(str, refused.value.field))}: {refused.value.message}")


def test_too_many_coefficients_are_refused(rows: tuple[Array, Array]) -> None:
    wide = np.zeros((6, 2_000))
    with pytest.raises(SpecError, match="2,001 coefficients"):
        made(wide, targets(np.arange(6)), [3, 3])


def test_a_run_that_is_cut_continues_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"strategies": [{"kind": "fed_glm", "family": "poisson"}], "execution": {"ray": False, "checkpoint_every": 1}}
    visits().to_csv(tmp_path / "t.csv", index=False)
    asked = content("visits", **settings)
    whole = simulate(asked, base_dir=tmp_path, out=tmp_path / "whole")

    interrupt_after(monkeypatch, 3, lambda: simulate(asked, base_dir=tmp_path, out=tmp_path / "cut"))
    cut = resume(tmp_path / "cut")
    for key in ("result_hash", "coefficients"):
        assert cut.summary["strategies"]["fed_glm"][key] == whole.summary["strategies"]["fed_glm"][key]
    assert len({(tmp_path / name / "coefficients.csv").read_bytes() for name in ("cut", "whole")}) == 1
