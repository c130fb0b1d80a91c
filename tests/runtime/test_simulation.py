"""A whole run, in this process: its tables against its models, its bytes against the arithmetic, and how it ends badly."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.scenarios import scenario
from rich.console import Console

from scarcity_ray import Results, simulate
from scarcity_ray.core.exchange import ClientResult
from scarcity_ray.core.spec import SpecError
from scarcity_ray.report.final_table import final_table
from scarcity_ray.report.verdict import verdict
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.runtime.ray_fleet import RayLauncher
from scarcity_ray.runtime.simulation import OutputExists, RunFailed
from scarcity_ray.scenario import parse
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.gradient_exchange import GradientExchange

STRATEGIES = [
    {"kind": "local_only"},
    {"kind": "fed_avg", "fraction": 0.5},
    {"kind": "insight_exchange"},
    {"kind": "sf_hfe", "experts": 1, "differences": "slopes", "representation": {"kind": "random_fourier", "features": 16}},
]


BASELINES = ["guess", "alone"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(scenario(strategies=STRATEGIES, evaluation={"every": 2}), out=tmp_path_factory.mktemp("simulation") / "run")


def test_every_round_has_a_row_and_every_evaluated_client_one(results: Results) -> None:
    rounds, clients = results.frame("rounds"), results.frame("clients")
    assert {name: len(rows) for name, rows in rounds.groupby("strategy")} == {
        "local_only": 3,
        "fed_avg": 3,
        "insight_exchange": 3,
        "sf_hfe": 2,  # a survey, then moments: it ends early
    }
    tested = rounds[rounds.test_loss.notna()]
    assert tested[tested.strategy == "fed_avg"]["round"].tolist() == [2, 3]  # every second, and the last
    assert len(clients) == 12 * (len(tested) + 2)
    assert clients[clients.strategy.isin(BASELINES)]["round"].unique().tolist() == [3]
    for (strategy, number), rows in clients[~clients.strategy.isin(BASELINES)].groupby(["strategy", "round"]):
        (row,) = tested[(tested.strategy == strategy) & (tested["round"] == number)].to_dict("records")
        assert row["test_loss"] == pytest.approx(rows.test_loss.mean())
        assert row["test_accuracy"] == pytest.approx(rows.test_accuracy.mean())
        assert row["test_accuracy_worst_decile"] == pytest.approx(rows.test_accuracy.min())  # 12 // 10 = 1 client
        assert row["test_loss_worst_decile"] == pytest.approx(rows.test_loss.max())


def test_bytes_are_those_of_the_packed_messages(results: Results) -> None:
    rounds = results.frame("rounds").groupby("strategy")[["uplink_bytes", "downlink_bytes"]].sum()
    weights = 4 * (64 * 12 + 12 + 12 * 10 + 10)
    assert rounds.loc["local_only"].tolist() == [0, 0]
    assert rounds.loc["fed_avg"].tolist() == [3 * 6 * weights, 3 * 6 * weights]  # 3 rounds of half of 12 clients
    assert rounds.loc["insight_exchange"].tolist() == [3 * 12 * 52, 3 * 12 * 4]
    survey, moments = 52 + 4 * 65, 52 + 4 * (17 * 18 // 2 - 1 + 17 * 10)
    down = (8 + 4) + 4 * (17 * 10 + 3)
    assert rounds.loc["sf_hfe"].tolist() == [12 * (survey + moments), 12 * down]
    last = results.frame("clients").groupby(["strategy", "client_id"])[["uplink_bytes", "downlink_bytes"]].max()
    total = last.groupby("strategy").sum()
    assert total.drop(index=BASELINES).equals(rounds)
    assert total.loc["guess"].tolist() == [12 * 4 * 10, 12 * 4 * 10]  # a share of each class
    assert total.loc["alone"].tolist() == [0, 0]


@pytest.mark.parametrize("strategy", ["local_only", "fed_avg", "insight_exchange", "sf_hfe"])
def test_saved_models_give_the_accuracy_that_the_tables_say(results: Results, strategy: str) -> None:
    federation = prepare(parse(results.scenario), Path()).federation
    rows = pq.read_table(results.directory / "clients.parquet", filters=[("strategy", "=", strategy)])
    rows = rows.filter(pc.equal(rows["round"], pc.max(rows["round"]))).to_pandas().set_index("client_id")
    for client in range(12):
        model = results.model(strategy, None if strategy == "fed_avg" else client)
        mine = federation.test.rows(client)
        x, y = torch.from_numpy(federation.test.x[mine]), torch.from_numpy(federation.test.y[mine])
        with torch.no_grad():
            scores = model(x)
        assert rows.test_loss[client] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, y)), rel=1e-4)
        assert rows.test_accuracy[client] == float((scores.argmax(1) == y).double().mean())


def test_a_test_without_rows_is_null(tmp_path: Path) -> None:
    data = scenario()["data"] | {"test_fraction": 0.0}
    rounds = simulate(scenario(data=data), out=tmp_path / "run").rounds
    assert rounds["test_loss"].null_count == rounds["test_accuracy"].null_count == 3
    assert rounds["train_loss"].null_count == 0
    summary = Results.load(tmp_path / "run").summary
    console = Console(file=io.StringIO(), width=140)
    console.print(final_table(summary))
    (row,) = [line.replace("(still falling)", "").split() for line in console.file.getvalue().splitlines() if line.startswith("fed_avg")]
    assert row[1:6] == ["-"] * 5  # mean, all rows, worst tenth, surely better, surely worse
    assert "nothing to judge" in verdict(summary)


def test_only_the_sample_is_evaluated(tmp_path: Path) -> None:
    one = simulate(scenario(evaluation={"clients": 4}), out=tmp_path / "one")
    assert one.frame("clients").groupby("round").client_id.nunique().tolist() == [4, 4, 4]
    assert one.frame("clients").client_id.nunique() == 4


def test_repeats_are_runs_of_their_own_seeds(tmp_path: Path) -> None:
    both = simulate(scenario(repeats=2), out=tmp_path / "both").summary["strategies"]["fed_avg"]
    alone = simulate(scenario(seed=4), out=tmp_path / "alone").summary["strategies"]["fed_avg"]
    assert both["seeds"]["4"]["result_hash"] == alone["result_hash"]
    accuracy = [both["seeds"][seed]["test_accuracy"] for seed in ("3", "4")]
    assert both["test_accuracy"] == pytest.approx(np.mean(accuracy))
    assert both["std"]["test_accuracy"] == pytest.approx(np.std(accuracy, ddof=1))


def test_a_strategy_that_diverges_is_marked_and_the_others_run(tmp_path: Path) -> None:
    wild = {"kind": "fed_avg", "name": "wild", "local": {"epochs": 5, "batch_size": 8, "lr": 1e30}}
    told = r"(?m)^wild diverged: every update of round 1 was rejected: x is not finite, or beyond 1e\+30 \(try a smaller lr\)$"
    with pytest.raises(RunFailed, match=told) as failed:
        simulate(scenario(strategies=[wild, {"kind": "fed_avg"}]), out=tmp_path / "run")
    assert failed.value.directory == tmp_path / "run"
    kept = Results.load(tmp_path / "run")
    found = {name: (entry["status"], entry["rounds"]) for name, entry in kept.summary["strategies"].items()}
    assert found == {"guess": ("finished", 0), "alone": ("finished", 0), "wild": ("diverged", 1), "fed_avg": ("finished", 3)}
    assert "is rejected" in (tmp_path / "run/logs/scarcity.log").read_text()


def renamed(sent: dict[str, Any]) -> dict[str, Any]:
    return {"weights": sent["x"]}


def too_short(sent: dict[str, Any]) -> dict[str, Any]:
    value, weight = sent["x"]
    return {"x": (value[:, :5], weight)}


def too_heavy(sent: dict[str, Any]) -> dict[str, Any]:
    value, weight = sent["x"]
    return {"x": (value, weight + 1)}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (renamed, "weights is float32 [1, 928], and the server has nothing of that name"),
        (too_short, "x is float32 [1, 5], not float32 [928] for each client"),
        (too_heavy, "the weight of x is more than its rows are worth"),
    ],
)
def test_a_strategy_whose_updates_have_another_form_is_told_so_and_not_to_learn_slower(
    spoil: Callable[[dict[str, Any]], dict[str, Any]], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FedAvg.client_update

    def client_update(strategy: FedAvg, *args: Any) -> Any:
        return ClientResult(spoil(dict(right(strategy, *args).sums)))

    monkeypatch.setattr(FedAvg, "client_update", client_update)
    with pytest.raises(RunFailed) as failed:
        simulate(scenario(strategies=[{"kind": "fed_avg", "name": "mine"}, {"kind": "local_only"}]), out=tmp_path / "run")
    told = f"mine: every update of round 1 was rejected: {why}"
    assert failed.value.message == told
    assert f"{told}; stopped" in (tmp_path / "run/logs/scarcity.log").read_text()


def test_a_strategy_whose_insights_have_another_form_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = GradientExchange.client_update

    def client_update(strategy: GradientExchange, *args: Any) -> Any:
        result = right(strategy, *args)
        return replace(result, payload={name: value[:, :3] for name, value in result.payload.items()})

    monkeypatch.setattr(GradientExchange, "client_update", client_update)
    with pytest.raises(
        RunFailed, match=r"(?m)^gradient_exchange: every insight of round 1 was rejected: .* not 20 numbers for each client$"
    ):
        simulate(scenario(strategies=[{"kind": "gradient_exchange", "dimensions": 20}]), out=tmp_path / "run")


def test_a_run_computes_on_one_thread_and_gives_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, seen, before = FedAvg.client_update, set[int](), torch.get_num_threads()

    def client_update(strategy: FedAvg, *args: Any) -> Any:
        seen.add(torch.get_num_threads())
        return right(strategy, *args)

    monkeypatch.setattr(FedAvg, "client_update", client_update)
    torch.set_num_threads(2)
    try:
        simulate(scenario(rounds=1), out=tmp_path / "run")
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_a_second_run_does_not_write_over_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [simulate(scenario(rounds=1)).directory.name for _ in range(3)] == ["small", "small-2", "small-3"]
    with pytest.raises(OutputExists):
        simulate(scenario(rounds=1), out="runs/small")
    assert simulate(scenario(rounds=2), out="runs/small", force=True).rounds.num_rows == 2


def test_more_actors_than_fit_are_refused_with_the_arithmetic() -> None:
    blobs = {"source": {"kind": "blobs", "shape": [2], "classes": 2, "samples_per_client": 2}, "clients": 10_000}
    crowd = parse(scenario(data=blobs, execution={"clients_per_actor": 1}))
    with pytest.raises(SpecError, match=r"10,000 Client actors of 190 MB each.* take 1,90\d\.\d GB, and .* GB are available") as refused:
        prepare(crowd, Path())
    assert refused.value.field == ("execution", "clients_per_actor")


BAD_MODEL = """
import torch

class Touchy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        if torch.is_grad_enabled() and self.layer.weight.shape[0] == 10 and x.shape[0] == 3:
            raise RuntimeError("three rows are too few for me")
        return self.layer(x)
"""


def program(directory: Path, content: dict[str, Any]) -> list[str]:
    (directory / "scenario.yaml").write_text(yaml.safe_dump(content))
    return [sys.executable, "-m", "scarcity_ray.run", "scenario.yaml", "--out", "run"]


def test_a_clients_exception_is_shown_with_its_id_and_cause_first(tmp_path: Path) -> None:
    (tmp_path / "touchy.py").write_text(BAD_MODEL)
    content = scenario(model={"kind": "import", "path": "touchy:Touchy"}, strategies=[{"kind": "local_only", "local": {"batch_size": 3}}])
    done = subprocess.run(program(tmp_path, content), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("the run failed: client ")
    assert "RuntimeError: three rows are too few for me" in first
    assert "Traceback" not in done.stdout + done.stderr
    assert "kept in run" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ray", [False, True])
def test_an_interrupt_keeps_what_is_done_and_says_where(ray: bool, tmp_path: Path) -> None:
    content = scenario(rounds=1_000_000, execution={"ray": ray, "cpus": 1}, evaluation={"every": 1000})
    # As a script's background job: SIGINT is ignored when it starts.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = subprocess.Popen(program(tmp_path, content), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    give_up = time.monotonic() + 120
    while not (tmp_path / "run/rounds.parquet").exists() or not pq.read_table(tmp_path / "run/rounds.parquet").num_rows:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "interrupted" in said
    assert "kept in run" in said
    kept = Results.load(tmp_path / "run")
    assert kept.rounds.num_rows >= 1
    assert kept.summary["strategies"]["fed_avg"]["status"] == "interrupted"


@pytest.mark.slow
def test_the_processes_bear_the_actors_names(ray_session: RayLauncher) -> None:
    from scarcity_ray import Client, Expert, MetaLearner, Server

    orders: dict[type, tuple[Any, ...]] = {Client: ([0, 1],), Expert: (0,), MetaLearner: (), Server: (1,)}
    fleets = {actor: ray_session.launch(actor, [order]) for actor, order in orders.items()}
    fleets[Client].map(Client.samples, {}, ())
    names = ""
    give_up = time.monotonic() + 120
    while not all(f"ray::{actor.__name__}" in names for actor in orders):
        assert time.monotonic() < give_up, names
        names = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        time.sleep(0.2)
    for fleet in fleets.values():
        fleet.close()


def test_summary_is_strict_json(results: Results) -> None:
    text = (results.directory / "summary.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
