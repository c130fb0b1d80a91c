"""The settings of `evaluation` that say what is measured and what decides: refused where they do not suit, and without a say in results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clock import wall_clock
from helpers.scenarios import scenario
from rich.console import Console

from scarcity_ray import Results, simulate, verify
from scarcity_ray.core.metrics import ACCURACY, LOSS, headline
from scarcity_ray.metrics import scores
from scarcity_ray.report.curves import _curves, draw_curves
from scarcity_ray.report.final_table import show_final
from scarcity_ray.report.verdict import verdict
from scarcity_ray.runtime import evaluation
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.plan_in_words import plan_in_words
from scarcity_ray.runtime.simulation import resume
from scarcity_ray.scenario import ScenarioError, SpecErrors, parse

BLOBS = {"kind": "blobs", "shape": [3], "classes": 2, "separation": 1.5, "samples_per_client": 12}
TWO = scenario(data={"source": BLOBS, "clients": 20}, strategies=[{"kind": "local_only"}, {"kind": "fed_avg"}])
REGRESSION = {"data": {"source": {"kind": "shifted_regression", "samples_per_client": 9}, "clients": 4}, "model": {"kind": "linear"}}


def with_labels(folder: Path, labels: list[Any]) -> dict[str, Any]:
    """Two classes under a user's own labels, in a table with named clients."""
    draw = np.random.default_rng(0)
    rows = ["site,dose,died"]
    for place in range(120):
        label = place % len(labels)
        rows.append(f"{'abcdef'[place % 6]},{draw.normal() + label},{labels[label]}")
    (folder / "rows.csv").write_text("\n".join(rows))
    source = {"kind": "table", "path": str(folder / "rows.csv"), "label": "died", "client": "site", "task": "classification"}
    return TWO | {"data": {"source": source}}


def refused(settings: dict[str, Any], changes: dict[str, Any], base: Path | None = None) -> str:
    with pytest.raises((ValueError, SpecErrors)) as caught:
        prepare(parse(changes | {"evaluation": settings}), base or Path())
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "acc"}, ["evaluation.metric", "'acc'", "did you mean auc?", "auc"]),
        ({"margin": -1}, ["evaluation.margin", "-1"]),
        ({"thresholds": [0.1, 1.0]}, ["evaluation.thresholds.1", "1.0"]),
        ({"sensitivity_at": 0}, ["evaluation.sensitivity_at", "0"]),
    ],
    ids=str,
)
def test_a_setting_out_of_its_range_is_refused_when_it_is_read(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(TWO | {"evaluation": settings})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"metric": "auc"}, REGRESSION, "evaluation.metric is 'auc': it does not suit a regression; allowed: rmse, mae or r2"),
        (
            {"metric": "rmse"},
            {},
            "evaluation.metric is 'rmse': it does not suit a classification; allowed: accuracy, auc, log_loss or brier",
        ),
        ({"positive": 2}, {}, "evaluation.positive is 2: no class has that label; allowed: 0 or 1"),
        (
            {"positive": 1},
            REGRESSION,
            "evaluation.positive is 1: only two classes have a positive one, and these data have numbers to predict",
        ),
        (
            {"positive": 1},
            {"data": {"source": {"kind": "digits"}, "clients": 4, "partition": {"kind": "iid"}}},
            "these data have 10 classes: leave it out",
        ),
    ],
)
def test_a_setting_that_does_not_suit_the_data_is_refused_before_the_run(
    settings: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    assert words in refused(settings, TWO | changes)


def test_an_auc_that_takes_too_much_memory_is_refused_and_otherwise_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = int(prepare(parse(TWO), Path()).federation.test.counts.sum())
    monkeypatch.setattr(scores, "MOST_BYTES", 12 * rows)
    assert "test_auc" in {metric.column for metric in prepare(parse(TWO | {"evaluation": {"metric": "auc"}}), Path()).metrics}
    monkeypatch.setattr(scores, "MOST_BYTES", 12 * rows - 1)
    words = refused({"metric": "auc"}, TWO)
    assert "evaluation.metric is 'auc': the scores of all test rows take" in words
    assert "test fewer clients (evaluation.clients); without that limit: accuracy, log_loss, brier" in words
    prepare(parse(TWO | {"evaluation": {"metric": "auc", "clients": 19}}), Path())
    plan = prepare(parse(TWO), Path())
    assert not {metric.name for metric in plan.metrics} & {"auc", "calibration_slope", "specificity_at_sensitivity_0_9"}
    assert "no AUC" in evaluation.described(plan)


@pytest.mark.parametrize(
    ("labels", "positive", "place"),
    [
        (["no", "yes"], None, 1),
        (["no", "yes"], "no", 0),
        (["no", "yes"], "yes", 1),
        ([0, 1], "0", 0),
        ([3, 7], 7, 1),
        (["false", "true"], True, 1),
        (["false", "true"], "False", 0),
    ],
)
def test_the_positive_class_goes_by_its_label(tmp_path: Path, labels: list[Any], positive: Any, place: int) -> None:
    plan = prepare(parse(with_labels(tmp_path, labels) | {"evaluation": {} if positive is None else {"positive": positive}}), tmp_path)
    (found,) = [metric for metric in plan.metrics if metric.name == "sensitivity_at_0_1"]
    assert found.positive == place  # type: ignore[attr-defined]  # of this metric
    assert f"the positive class is {labels[place]} (the other: {labels[1 - place]})".lower() in dict(plan_in_words(plan))["metric"].lower()


def test_a_label_that_no_row_has_is_refused_by_name(tmp_path: Path) -> None:
    words = refused({"positive": "yess"}, with_labels(tmp_path, ["no", "yes"]), tmp_path)
    assert "evaluation.positive is 'yess': no class has that label; allowed: no or yes" in words


# -- what decides ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    """They take longer than these runs; one test draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scarcity_ray.report.curves.draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def by_auc(tmp_path_factory: pytest.TempPathFactory) -> Results:
    changes = {"evaluation": {"metric": "auc", "thresholds": [0.3]}, "execution": {"ray": False, "actors": 3}}
    return simulate(TWO | changes, out=tmp_path_factory.mktemp("auc") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(TWO, out=tmp_path_factory.mktemp("plain") / "run")


def test_summary_table_and_verdict_go_by_the_metric(by_auc: Results) -> None:
    summary = by_auc.summary
    entry = summary["strategies"]["fed_avg"]
    assert (summary["metric"], summary["margin"]) == ("auc", 0.0)
    assert f"mean AUC {summary['strategies']['alone']['test_auc']:.3f} alone, {entry['test_auc']:.3f} with fed_avg" in verdict(summary)
    console = Console(width=120)
    with console.capture() as shown:
        show_final(console, summary, by_auc.directory)
    assert "AUC" in shown.get()
    assert "accuracy" not in shown.get()
    undefined = entry["test_auc_undefined"]
    assert undefined == 1
    assert f"{undefined} of 20 clients has test rows without AUC, and do not count" in " ".join(shown.get().split())
    rows = by_auc.frame("clients")
    last = rows[(rows["strategy"] == "fed_avg") & (rows["round"] == 3)]
    assert last["test_auc"].isna().sum() == undefined
    assert entry["test_auc"] == pytest.approx(last["test_auc"].mean())
    gain = last["test_auc"].to_numpy() - rows[rows["strategy"] == "alone"]["test_auc"].to_numpy()
    np.testing.assert_allclose(last["gain"], gain, atol=1e-12)
    assert entry["raw_share_better_than_alone"] == pytest.approx((gain > 0).sum() / (~np.isnan(gain)).sum())
    assert entry["gain"]["mean"] == pytest.approx(np.nanmean(gain))


def test_the_metric_that_decides_is_known_after_each_round_and_over_all_rows_after_the_last(by_auc: Results, plain: Results) -> None:
    for run, rounds in ((by_auc, [True, True, True]), (plain, [False, False, True])):
        found = run.frame("rounds")
        found = found[found["strategy"] == "fed_avg"]
        assert found["test_auc"].notna().tolist() == rounds
        assert found["test_auc_pooled"].notna().tolist() == [False, False, True]
        assert found["test_calibration_slope_pooled"].notna().tolist() == [False, False, True]
        assert found["test_brier"].notna().all()


def test_curves_are_of_the_metric(by_auc: Results, tmp_path: Path) -> None:
    draw_curves(by_auc, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = _curves(by_auc, by_auc.summary, by_auc.frame("rounds"), headline("classification", "auc"))
    assert [curve.name for curve in curves] == ["local_only", "fed_avg"]
    assert all(np.isfinite(curve.centre).all() and len(curve.round) == 3 for curve in curves)


def test_a_regression_goes_by_its_metric(tmp_path: Path) -> None:
    strategies = [{"kind": "local_only"}, {"kind": "fed_avg"}]
    run = simulate(TWO | REGRESSION | {"strategies": strategies, "evaluation": {"metric": "mae"}}, out=tmp_path / "run")
    assert "mean MAE" in verdict(run.summary)
    assert run.summary["strategies"]["fed_avg"]["rmse"] > 0
    assert "test_auc" not in run.summary["strategies"]["fed_avg"]
    assert "test_auc" not in run.clients.column_names


def test_a_gain_below_the_margin_counts_as_none(by_auc: Results, tmp_path: Path) -> None:
    assert "no difference" not in verdict(by_auc.summary)
    settings = TWO | {"evaluation": {"metric": "auc", "margin": 0.9}}
    summary = simulate(settings, out=tmp_path / "run").summary
    assert verdict(summary).startswith("Federating makes no difference beyond the margin of 0.900: mean AUC")
    entry = summary["strategies"]["fed_avg"]
    assert entry["share_equal_to_alone"] == pytest.approx(1.0, abs=1e-3)
    assert entry["gain"]["cannot_tell"] == entry["gain"]["clients"]


def test_a_summary_of_before_these_settings_is_read(plain: Results) -> None:
    summary = {key: value for key, value in plain.summary.items() if key not in ("metric", "margin")}
    assert verdict(summary) == verdict(plain.summary)


# -- no say in results -----------------------------------------------------------------------------------------------


def hashes(run: Results) -> dict[str, str]:
    return {name: entry["result_hash"] for name, entry in run.summary["strategies"].items()}


def test_no_result_depends_on_what_is_measured(by_auc: Results, plain: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashes(by_auc) == hashes(plain)
    monkeypatch.setattr(evaluation, "measures", lambda *_, **__: (LOSS, ACCURACY))
    bare = simulate(TWO, out=tmp_path / "run")
    assert hashes(bare) == hashes(plain)
    assert "test_brier" not in bare.rounds.column_names
    monkeypatch.undo()
    # A run of before these metrics, read, verified and continued by this version.
    again = Results.load(bare.directory)
    assert verify(again.directory).difference is None
    assert verify(plain.directory).difference is None
    assert verify(plain.directory, rounds=3).difference is None


def test_one_actor_or_three_the_bits_are_the_same(by_auc: Results, tmp_path: Path) -> None:
    changes = {"evaluation": {"metric": "auc", "thresholds": [0.3]}, "execution": {"ray": False, "actors": 1}}
    alone = simulate(TWO | changes, out=tmp_path / "run")
    assert hashes(alone) == hashes(by_auc)
    for name in ("rounds", "clients"):
        here, there = (run.table(name) for run in (alone, by_auc))
        kept = [column for column in here.column_names if not wall_clock(column)]
        assert here.select(kept).equals(there.select(kept))


def test_a_run_may_be_continued_under_another_metric(plain: Results) -> None:
    scenario_file = plain.directory / "scenario.yaml"
    text = scenario_file.read_text()
    scenario_file.write_text(text.replace("metric: null", "metric: brier"))
    try:
        assert verify(plain.directory, rounds=1).changed == []
        resume(plain.directory)
    finally:
        scenario_file.write_text(text)
