"""predictions.parquet: every metric of a run follows from it, by scikit-learn and plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.references import of_more, of_two
from helpers.scenarios import scenario
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, r2_score

from scarcity_ray import Results, simulate
from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.results.reading import RunError
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.simulation import Interrupted, resume
from scarcity_ray.runtime.verification import verify
from scarcity_ray.scenario import parse
from scarcity_ray.serving.unlearn import unlearn

STRATEGIES = [{"kind": "local_only"}, {"kind": "fed_avg"}]


def table(folder: Path, task: str) -> dict[str, Any]:
    """Six named sites."""
    draw, rows = np.random.default_rng(1), ["site,dose,age,outcome"]
    for place in range(300):
        dose, age = draw.normal(size=2)
        value = dose - age + draw.normal()
        outcome = ("no", "yes")[int(value > 0.3)] if task == "classification" else 70 + 20 * value
        rows.append(f"{'abcdef'[place % 6]}{place % 6},{dose},{age},{outcome}")
    (folder / "rows.csv").write_text("\n".join(rows))
    return {"source": {"kind": "table", "path": str(folder / "rows.csv"), "label": "outcome", "client": "site", "task": task}}


def case(folder: Path, kind: str) -> dict[str, Any]:
    if kind == "digits":
        data: dict[str, Any] = {"source": {"kind": "digits"}, "clients": 6, "partition": {"kind": "iid"}}
    else:
        data = table(folder, kind)
    execution = {"ray": False, "actors": 3}
    settings = {"predictions": True, "every": 2}
    return scenario(data=data, strategies=STRATEGIES, execution=execution, evaluation=settings, model={"kind": "linear"}, repeats=2)


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    """They take longer than these runs, and nobody looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scarcity_ray.report.curves.draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module", params=["classification", "regression", "digits"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp(request.param)
    return simulate(case(folder, request.param), out=folder / "run")


def references(run: Results) -> tuple[list[str], dict[str, Callable[[Any], float]]]:
    """The columns of answers, and each metric as a function of rows of the table."""
    names = run.table("predictions").column_names
    answers = [name for name in names if name.startswith(("p_", "prediction"))]

    def of_classes(function: Callable[[Any, Any], float]) -> Callable[[Any], float]:
        return lambda rows: float(function(rows["y"].to_numpy(), rows[answers].to_numpy()))

    def of_numbers(function: Callable[[Any, Any], float]) -> Callable[[Any], float]:
        return lambda rows: float(function(rows["y"].to_numpy(), rows["prediction"].to_numpy()))

    if answers == ["prediction"]:
        found = {"loss": mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}
        return answers, {name: of_numbers(function) for name, function in found.items()}
    found = of_two(1, (0.1, 0.2)) if len(answers) == 2 else of_more(len(answers))
    found["accuracy"] = lambda y, p: accuracy_score(y, p.argmax(1))
    found["loss"] = lambda y, p: log_loss(y, p, labels=range(p.shape[1]))
    return answers, {name: of_classes(function) for name, function in found.items()}


def test_every_metric_of_every_client_follows_from_it(run: Results) -> None:
    predictions, clients, rounds = run.frame("predictions"), run.frame("clients"), run.frame("rounds")
    answers, metrics = references(run)
    columns = [
        name for name in clients.columns if name.startswith("test_") and not name.endswith("_global") and clients[name].notna().any()
    ]
    assert {f"test_{name}" for name in metrics} == set(columns)
    groups = predictions.groupby(["strategy", "seed"])
    assert len(groups) == 2 * len([GUESS, ALONE, *STRATEGIES])
    if answers != ["prediction"]:
        np.testing.assert_allclose(predictions[answers].sum(axis=1), 1.0, rtol=1e-12)
    for (strategy, seed), rows in groups:
        last = clients[(clients["strategy"] == strategy) & (clients["seed"] == seed)]
        last = last[last["round"] == last["round"].max()].sort_values("client_id")
        pooled = run.summary["strategies"][strategy]["seeds"][str(seed)]
        if strategy not in (GUESS, ALONE):
            row = rounds[(rounds["strategy"] == strategy) & (rounds["seed"] == seed)].iloc[-1]
            assert all(row[f"test_{name}_pooled"] == pooled[f"test_{name}_pooled"] for name in metrics)
        assert rows.groupby("client_id").size().tolist() == last["num_test"].tolist()
        for name, function in metrics.items():
            own = [function(mine) for _, mine in rows.groupby("client_id")]
            np.testing.assert_allclose(last[f"test_{name}"], own, rtol=1e-5, atol=1e-6, err_msg=name)
            over_all = np.nan if pooled[f"test_{name}_pooled"] is None else pooled[f"test_{name}_pooled"]
            np.testing.assert_allclose(over_all, function(rows), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("kind", "metric"), [("classification", "auc"), ("regression", "r2")])
def test_a_run_without_test_rows_has_none(tmp_path: Path, kind: str, metric: str) -> None:
    made = case(tmp_path, kind)
    made["data"] |= {"test_fraction": 0.0, "validation_fraction": 0.5}
    made["evaluation"] |= {"metric": metric}
    run = simulate(made, out=tmp_path / "run")
    assert run.table("predictions").num_rows == 0
    assert run.summary["best"] is None
    assert run.summary["strategies"]["fed_avg"][f"test_{metric}"] is None


def by_definition(y: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of DeLong, DeLong and Clarke-Pearson (1988), equations 2 to 5, by comparing each pair of rows."""
    ones, zeros = score[y == 1], score[y == 0]
    wins = (ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros)
    variance = wins.mean(1).var(ddof=1) / len(ones) + wins.mean(0).var(ddof=1) / len(zeros)
    return wins.mean() - 1.96 * np.sqrt(variance), wins.mean() + 1.96 * np.sqrt(variance)


def test_the_intervals_of_an_auc_are_delongs(run: Results) -> None:
    if run.summary["task"] != "classification":
        assert "test_auc_pooled_low" not in run.rounds.column_names
        return
    predictions, answers = run.frame("predictions"), references(run)[0]
    for strategy in (GUESS, ALONE, *(one["kind"] for one in STRATEGIES)):
        rows = predictions[(predictions["strategy"] == strategy) & (predictions["seed"] == run.scenario["seed"])]
        entry = run.summary["strategies"][strategy]["seeds"][str(run.scenario["seed"])]
        low, high = entry["test_auc_pooled_low"], entry["test_auc_pooled_high"]
        assert low <= entry["test_auc_pooled"] <= high
        if len(answers) == 2:
            wanted = by_definition(rows["y"].to_numpy(), rows["p_1"].to_numpy())
            np.testing.assert_allclose([low, high], np.clip(wanted, 0, 1), atol=1e-4)


def test_rows_are_the_clients_test_rows_in_their_order(run: Results) -> None:
    plan = prepare(parse(run.scenario), run.directory)
    test, encoding = plan.federation.test, plan.federation.encoding
    found = run.frame("predictions")
    found = found[(found["strategy"] == "fed_avg") & (found["seed"] == plan.seed)]
    assert found["client_id"].tolist() == np.repeat(np.arange(plan.federation.clients), test.counts).tolist()
    assert found["row"].tolist() == np.concatenate([np.arange(count) for count in test.counts]).tolist()
    y = test.y
    if plan.federation.task == "regression":
        assert encoding is not None
        y = y[:, 0].astype(np.float64) * encoding.label_scale + encoding.label_mean
        assert 60 < found["y"].mean() < 80
    np.testing.assert_allclose(found["y"], y, rtol=1e-7)
    if encoding is None or encoding.clients is None:
        assert found["client"].isna().all()
    else:
        assert found["client"].tolist() == np.repeat(encoding.clients, test.counts).tolist()
        assert found["client"].iloc[0] == "a0"


def test_it_changes_no_result_and_can_be_verified(run: Results, tmp_path: Path) -> None:
    settings = run.scenario["evaluation"] | {"predictions": False}
    plain = simulate(run.scenario | {"evaluation": settings, "output": {}}, out=tmp_path / "run")
    hashes = [{name: entry["result_hash"] for name, entry in one.summary["strategies"].items()} for one in (run, plain)]
    assert hashes[0] == hashes[1]
    assert verify(run.directory, rounds=2).difference is None
    with pytest.raises(RunError, match="the scenario did not ask for it"):
        plain.table("predictions")


def test_a_run_that_was_cut_off_has_each_row_once_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, write = case(tmp_path, "classification"), Recorder.predictions
    whole = simulate(settings, out=tmp_path / "whole")
    calls = []

    def fails(self: Recorder, columns: dict[str, Any]) -> None:
        calls.append(columns["strategy"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(self, columns)

    monkeypatch.setattr(Recorder, "predictions", fails)
    with pytest.raises(Interrupted):
        simulate(settings, out=tmp_path / "cut")
    assert calls == [GUESS, ALONE, "local_only", "fed_avg"]
    monkeypatch.undo()
    again = resume(tmp_path / "cut")
    order = [("strategy", "ascending"), ("seed", "ascending"), ("client_id", "ascending"), ("row", "ascending")]
    assert again.table("predictions").sort_by(order).equals(whole.table("predictions").sort_by(order))


def test_another_run_in_the_folder_removes_it_and_unlearning_takes_a_client_out(tmp_path: Path) -> None:
    settings = case(tmp_path, "classification") | {"strategies": [{"kind": "sf_hfe"}], "repeats": 1}
    results = simulate(settings, out=tmp_path / "run")
    assert "c2" in results.table("predictions")["client"].to_pylist()
    unlearn(results, "c2")
    assert "c2" not in results.table("predictions")["client"].to_pylist()
    simulate(settings | {"evaluation": {}, "rounds": 2}, out=tmp_path / "run", force=True)
    assert not (tmp_path / "run" / "predictions.parquet").exists()


def test_more_answers_than_are_gathered_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scarcity_ray.metrics import scores

    monkeypatch.setattr(scores, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"evaluation.predictions is True: the answers to all test rows take 0 MiB"):
        prepare(parse(case(tmp_path, "classification")), tmp_path)


def test_its_columns_are_documented(run: Results) -> None:
    schema = run.table("predictions").schema
    assert isinstance(schema, pa.Schema)
    for field in schema:
        assert field.metadata[b"description"]
        assert field.name in ("strategy", "seed") or field.metadata[b"hashed"] == b"no"
