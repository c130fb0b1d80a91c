"""A search for settings: it never sees test rows, is the same after a cut, and finds what a loop by hand finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.scenarios import scenario

from scarcity_ray import simulate, tune
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.data import inner
from scarcity_ray.results.trials import read_trials
from scarcity_ray.runtime import plan, tuning
from scarcity_ray.scenario import ScenarioError, load, parse

SPACE = {"local.lr": {"low": 0.01, "high": 1.0, "log": True}, "local.epochs": [1, 2], "strategies.fed_prox.mu": [0.01, 0.5]}

RATES = {"local.lr": SPACE["local.lr"]}
SMALL = {"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 16}, "experts": 1}


def searched(**changes: Any) -> dict[str, Any]:
    section = {"method": {"kind": "random", "trials": 5}, "parameters": SPACE, "repeats": 2} | changes
    data = scenario()["data"] | {"validation_fraction": 0.25}
    strategies = [{"kind": "local_only"}, {"kind": "fed_avg"}, {"kind": "fed_prox"}]
    return scenario(data=data, rounds=4, strategies=strategies, tune=section)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuning.Tuned:
    return tune(searched(halving={"eta": 2, "first_rounds": 1}), out=tmp_path_factory.mktemp("tune") / "whole")


def test_every_strategy_has_the_same_trials_and_its_own_best(whole: tuning.Tuned) -> None:
    found = whole.answer["strategies"]
    assert {one["trials"] for one in found.values()} == {5}
    assert len({one["updates"] for one in found.values()}) == 1
    trials = read_trials(whole.directory)
    for name, one in found.items():
        last = [trial for trial in trials if trial.strategy == name and trial.rounds == 4]
        assert one["validation"] == max(trial.validation for trial in last)
        assert ("strategies.fed_prox.mu" in one["parameters"]) == (name == "fed_prox")
    best = load(whole.directory / "best.yaml").scenario
    assert (best.tune, best.repeats, best.seed) == (None, 2, 4)
    assert best.strategies[2].mu == found["fed_prox"]["parameters"]["strategies.fed_prox.mu"]
    assert best.strategies[1].local.lr == found["fed_avg"]["parameters"]["local.lr"]
    assert json.loads((whole.directory / "tune.json").read_text())["trials_hash"] == whole.answer["trials_hash"]
    assert found["fed_avg"]["test"] == pytest.approx(whole.results.summary["strategies"]["fed_avg"]["test_accuracy"])


def test_a_cut_search_ends_as_it_would_have(whole: tuning.Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played, right = [], tuning.Trials.played

    def cut(search: Any, *arguments: Any) -> Any:
        played.append(arguments)
        if len(played) == 9:
            raise KeyboardInterrupt
        return right(search, *arguments)

    monkeypatch.setattr(tuning.Trials, "played", cut)
    content = searched(halving={"eta": 2, "first_rounds": 1}) | {"execution": {"ray": False, "actors": 3}}
    with pytest.raises(tuning.Interrupted):
        tune(content, out=tmp_path / "cut")
    assert len(read_trials(tmp_path / "cut")) == 8
    again = tune(tmp_path / "cut")
    assert again.answer["trials_hash"] == whole.answer["trials_hash"]
    hashes = [{name: one["result_hash"] for name, one in run.results.summary["strategies"].items()} for run in (whole, again)]
    assert hashes[0] == hashes[1]
    assert len(played) - 1 == len(read_trials(whole.directory))


@pytest.mark.slow
def test_a_killed_search_with_ray_ends_as_one_without(whole: tuning.Tuned, tmp_path: Path) -> None:
    content = searched(halving={"eta": 2, "first_rounds": 1}) | {"execution": {"ray": True, "cpus": 2}}
    (tmp_path / "scenario.yaml").write_text(yaml.safe_dump(content))
    program = [sys.executable, "-m", "scarcity_ray.run"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    search = subprocess.Popen([*program, "tune", "scenario.yaml", "--out", "cut"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(read_trials(tmp_path / "cut")) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    search.send_signal(signal.SIGKILL)
    search.wait()
    assert 4 <= len(read_trials(tmp_path / "cut")) < len(read_trials(whole.directory))
    done = subprocess.run([*program, "resume", "cut", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials_hash"] == whole.answer["trials_hash"]


def test_test_rows_are_never_seen(whole: tuning.Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deal = plan.deal

    def poisoned(data: Any, seed: int, *rest: Any) -> Federation:
        found = deal(data, seed, *rest)
        wrong = Shards(np.full_like(found.test.x, np.nan), (found.test.y + 1) % found.outputs, found.test.starts)
        return inner.replace(found, test=wrong)

    monkeypatch.setattr(plan, "deal", poisoned)
    monkeypatch.setattr(tuning._Search, "_final", lambda search, best, session: whole.results)
    spoiled = tune(searched(halving={"eta": 2, "first_rounds": 1}), out=tmp_path / "poisoned")
    assert spoiled.answer["trials_hash"] == whole.answer["trials_hash"]


@pytest.mark.slow
def test_a_grid_finds_what_runs_by_hand_find(tmp_path: Path) -> None:
    content = searched(method={"kind": "grid"}, parameters={"local.lr": [0.02, 0.3], "local.epochs": [1, 3]})
    found = tune(content, out=tmp_path / "grid").answer["strategies"]["fed_avg"]
    by_hand = {}
    for lr in (0.02, 0.3):
        for epochs in (1, 3):
            local = {"local": {"lr": lr, "epochs": epochs, "batch_size": content["local"]["batch_size"]}}
            run = simulate({**content, **local, "tune": None, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / f"{lr}-{epochs}")
            by_hand[lr, epochs] = run.summary["strategies"]["fed_avg"]["validation_accuracy"]
    assert found["validation"] == pytest.approx(max(by_hand.values()), abs=1e-12)
    best = max(by_hand, key=lambda one: by_hand[one])
    assert (found["parameters"]["local.lr"], found["parameters"]["local.epochs"]) == best


def test_a_search_in_place_of_another_keeps_nothing_of_it(tmp_path: Path) -> None:
    content = searched(parameters={"local.lr": [0.01, 0.3]}, method={"kind": "grid"}, repeats=1)
    tune(content, out=tmp_path / "one")
    other = {**content, "seed": 9, "rounds": 3}
    alone = tune(other, out=tmp_path / "alone")
    replaced = tune(other, out=tmp_path / "one", force=True)
    assert replaced.answer["trials_hash"] == alone.answer["trials_hash"]
    hashes = [{name: one["result_hash"] for name, one in run.results.summary["strategies"].items()} for run in (alone, replaced)]
    assert hashes[0] == hashes[1]


def test_rounds_can_be_searched_beyond_those_of_the_scenario(tmp_path: Path) -> None:
    section = searched(parameters={"strategies.fed_avg.rounds": [2, 7]}, method={"kind": "grid"}, repeats=1, halving={"first_rounds": 2})
    found = tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "rounds")
    trials = read_trials(found.directory)
    assert [(one.trial, one.rounds, one.played) for one in trials] == [(0, 2, 2), (1, 2, 2), (0, 6, 2), (0, 7, 2)]
    whole = tune({**section, "strategies": [{"kind": "fed_avg"}], "tune": section["tune"] | {"halving": None}}, out=tmp_path / "whole")
    assert [one.played for one in read_trials(whole.directory)] == [2, 7]
    by_hand = simulate({**section, "tune": None, "strategies": [{"kind": "fed_avg", "rounds": 7}]}, out=tmp_path / "hand")
    assert read_trials(whole.directory)[1].validation == pytest.approx(by_hand.summary["strategies"]["fed_avg"]["validation_accuracy"])


def test_models_can_be_searched_where_rounds_follow_from_bytes(tmp_path: Path) -> None:
    models = [{"kind": "linear"}, {"kind": "mlp", "hidden": [40]}, {"kind": "mlp", "hidden": [4000]}]
    section = searched(method={"kind": "grid"}, parameters={"model": models}, repeats=1, bytes=30_000)
    found = tune({**section, "rounds": 40, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "bytes")
    trials = read_trials(found.directory)
    assert [one.status for one in trials] == ["finished", "finished", "too large"]
    assert trials[2].updates == 0  # what its messages take is known before it is played
    plain = simulate({**section, "model": models[0], "tune": None, "rounds": 1, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "one")
    each = plain.summary["strategies"]["fed_avg"]["bytes_per_client"]
    assert (trials[0].played, trials[0].bytes) == (30_000 // each, 30_000 // each * each)
    assert trials[1].played < trials[0].played < 40
    best = load(found.directory / "best.yaml").scenario
    chosen = max(trials[:2], key=lambda one: one.validation)
    assert (best.strategies[0].model.kind, best.strategies[0].rounds) == (chosen.parameters["model"]["kind"], chosen.played)
    assert found.results.summary["strategies"]["fed_avg"]["bytes_per_client"] <= 30_000
    assert (found.answer["strategies"]["fed_avg"]["too_large"], found.answer["strategies"]["fed_avg"]["diverged"]) == (1, 0)


def test_what_a_strategy_has_of_its_own_is_searched_too(tmp_path: Path) -> None:
    section = searched(parameters={"rounds": [1, 3], "model": [{"kind": "linear"}, {"kind": "mlp", "hidden": [8]}]}, repeats=1)
    mine = {"kind": "fed_avg", "rounds": 2, "model": {"kind": "linear"}}
    found = tune({**section, "strategies": [mine], "tune": section["tune"] | {"method": {"kind": "grid"}}}, out=tmp_path / "own")
    trials = read_trials(found.directory)
    assert [one.played for one in trials] == [1, 1, 3, 3]
    assert len({one.validation for one in trials}) == 4


def test_a_pair_that_the_scenario_refuses_counts_as_a_trial(tmp_path: Path) -> None:
    section = searched(method={"kind": "grid"}, parameters={"local.momentum": [0.0, 0.9], "local.optimizer": ["sgd", "adam"]}, repeats=1)
    found = tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "pair")
    assert [one.status for one in read_trials(found.directory)] == ["finished", "finished", "finished", "impossible"]


def test_a_strategy_without_a_trial_that_finished_is_left_out(tmp_path: Path) -> None:
    section = searched(method={"kind": "grid"}, parameters=RATES, repeats=1, bytes=100)
    found = tune({**section, "strategies": [{"kind": "fed_avg"}, {"kind": "local_only"}]}, out=tmp_path / "left")
    assert found.answer["strategies"]["fed_avg"]["test"] is None
    assert "fed_avg" not in found.results.summary["strategies"]
    assert [one.title for one in load(found.directory / "best.yaml").scenario.strategies] == ["local_only"]
    with pytest.raises(tuning.RunFailed, match="no trial finished"):
        tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "none")


def test_why_a_trial_diverged_is_in_the_log_and_not_on_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    section = searched(method={"kind": "grid"}, parameters={"local.lr": [0.1, 1e30]}, repeats=1)
    found = tune({**section, "strategies": [{"kind": "insight_exchange"}]}, out=tmp_path / "two")
    assert [one.status for one in read_trials(found.directory)] == ["finished", "diverged"]
    assert capfd.readouterr() == ("", "")
    assert "insight" in (found.directory / "logs" / "scarcity.log").read_text()


def test_a_search_that_was_killed_as_its_final_test_began_ends(tmp_path: Path) -> None:
    section = {**searched(method={"kind": "grid"}, parameters={"local.lr": [0.1]}, repeats=1), "strategies": [{"kind": "fed_avg"}]}
    whole = tune(section, out=tmp_path / "whole")
    for path in (tmp_path / "whole" / "final").rglob("*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "whole" / "final" / "scenario.yaml").touch()
    again = tune(tmp_path / "whole")
    assert again.answer == whole.answer


def test_promoted_trials_play_by_their_scores_and_a_budget_cuts_the_worst(tmp_path: Path) -> None:
    rates = {"local.lr": [0.1, 0.02, 0.01, 0.4]}
    section = searched(method={"kind": "grid"}, parameters=rates, repeats=1, halving={"eta": 2, "first_rounds": 1}, budget={"updates": 49})
    found = tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "cut")
    trials = read_trials(found.directory)
    first = [one for one in trials if one.rung == 0]
    promoted_one = next(one for one in trials if one.rung == 1)
    assert promoted_one.trial == max(first, key=lambda one: one.validation).trial
    assert found.answer["strategies"]["fed_avg"]["validation"] == promoted_one.validation


def test_arrays_that_are_kept_serve_a_search_that_is_continued(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, who = rng.standard_normal((120, 3)).astype(np.float32), np.repeat(np.arange(6), 20)
    source = {"kind": "arrays", "x": x, "y": (x[:, 0] > 0).astype(np.int64), "client": who, "save": True}
    section = searched(method={"kind": "grid"}, parameters={"local.lr": [0.1]}, repeats=1)
    content = {**section, "data": {"source": source, "test_fraction": 0.5}, "strategies": [{"kind": "fed_avg"}]}
    whole = tune(content, out=tmp_path / "arrays")
    assert tune(tmp_path / "arrays").answer == whole.answer


def test_values_that_are_not_allowed_together_count_as_a_trial(tmp_path: Path) -> None:
    pairs = {"local.lr": [0.1, 2.0], "strategies.fed_prox.mu": [0.01, 0.9]}  # mu has to be below 1 / lr
    section = searched(method={"kind": "grid"}, parameters=pairs, repeats=1)
    found = tune({**section, "strategies": [{"kind": "fed_prox"}]}, out=tmp_path / "pairs")
    tried = {tuple(one.parameters.values()): one.status for one in read_trials(found.directory)}
    assert [pair for pair, status in tried.items() if status == "impossible"] == [(2.0, 0.9)]
    assert (found.answer["strategies"]["fed_prox"]["impossible"], found.answer["strategies"]["fed_prox"]["trials"]) == (1, 4)


def test_a_setting_that_was_tried_before_is_not_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played, right = [], tuning.Trials.played

    def counted(trials: Any, titles: Any, setting: Any, *rest: Any) -> Any:
        played.append(setting["local.lr"])
        return right(trials, titles, setting, *rest)

    monkeypatch.setattr(tuning.Trials, "played", counted)
    section = searched(method={"kind": "tpe", "trials": 6, "batch": 2}, parameters={"local.lr": [0.1, 0.3]}, repeats=1)
    found = tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "twice")
    trials = read_trials(found.directory)
    assert len(trials) == 6
    assert sorted(played) == sorted({one.parameters["local.lr"] for one in trials})
    first = {}
    for one in trials:
        before = first.setdefault(one.parameters["local.lr"], one)
        assert one.validation == before.validation
        assert (one.updates == 0) == (one is not before)


def test_what_is_sent_without_weights_is_cut_at_the_bytes_as_well(tmp_path: Path) -> None:
    section = searched(method={"kind": "grid"}, parameters={"local.lr": [0.1]}, repeats=1, bytes=300)
    found = tune({**section, "rounds": 9, "strategies": [{"kind": "insight_exchange"}]}, out=tmp_path / "said")
    (insights,) = read_trials(found.directory)
    assert insights.status == "finished"
    assert 0 < insights.played < 9
    assert insights.bytes <= 300 < insights.bytes / insights.played * (insights.played + 1)
    assert found.results.summary["strategies"]["insight_exchange"]["rounds"] == insights.played


@pytest.mark.parametrize("kind", ["fed_avg", "sf_hfe"])
def test_what_preparing_a_table_costs_is_counted_once(kind: str, tmp_path: Path) -> None:
    rows = [f"{who},{(who + row) % 5},{row % 3},{row % 2}" for who in range(6) for row in range(12)]
    (tmp_path / "rows.csv").write_text("\n".join(["who,a,b,label", *rows]))
    source = {"kind": "table", "path": str(tmp_path / "rows.csv"), "label": "label", "client": "who", "task": "classification"}
    data = {"source": source, "test_fraction": 0.25, "validation_fraction": 0.5}
    strategy = {"kind": kind, "rounds": 3} | ({"representation": {"kind": "identity"}} if kind == "sf_hfe" else {})
    content = scenario(data=data, rounds=3, strategies=[strategy])
    once = simulate(content, out=tmp_path / "run").summary["strategies"][kind]["bytes_per_client"]
    section = {"method": {"kind": "grid"}, "parameters": {f"strategies.{kind}.rounds": [3]}, "repeats": 1, "bytes": int(once)}
    found = tune({**content, "tune": section}, out=tmp_path / "tune")
    (trial,) = read_trials(found.directory)
    assert (trial.status, trial.bytes) == ("finished", once)


@pytest.mark.parametrize(("bytes", "status"), [(300, "too large"), (1200, "too large"), (10_000, "finished")])
def test_a_message_that_is_sent_once_fits_or_does_not(bytes: int, status: str, tmp_path: Path) -> None:
    section = searched(method={"kind": "grid"}, parameters={"strategies.sf_hfe.personal": [True]}, repeats=1, bytes=bytes)
    with nullcontext() if status == "finished" else pytest.raises(tuning.RunFailed, match="no trial finished"):
        tune({**section, "rounds": 3, "strategies": [SMALL]}, out=tmp_path / "once")
    (trial,) = read_trials(tmp_path / "once")
    assert trial.status == status
    assert (trial.bytes or 0) <= bytes


@pytest.mark.parametrize("method", [{"kind": "random", "trials": 8}, {"kind": "tpe", "trials": 8, "batch": 4}])
def test_no_trial_begins_once_the_budget_is_spent(method: dict[str, Any], tmp_path: Path) -> None:
    section = searched(method=method, budget={"updates": 5 * 12}, halving={"eta": 2, "first_rounds": 1}, parameters=RATES)
    found = tune({**section, "strategies": [{"kind": "fed_avg"}]}, out=tmp_path / "spent")
    trials = read_trials(found.directory)
    before = sum(one.updates for one in trials[:-1])
    assert before < 60 <= before + trials[-1].updates
    rungs_played = {one.rung for one in trials}
    top = [one for one in trials if one.rung == max(rungs_played)]
    assert found.answer["strategies"]["fed_avg"]["validation"] == max(one.validation for one in top)


def test_few_validation_rows_are_replaced_by_inner_folds() -> None:
    data = parse(searched()).data
    federation = plan.deal(data.model_copy(update={"validation_fraction": 0.0}), 3, Path())
    folds = inner.judged(federation, 3)
    assert len(folds) == 3
    for fold in folds:
        assert (fold.train.counts + fold.test.counts == federation.train.counts).all()
        assert (fold.test.counts > 0).all()
        rows = set(map(bytes, federation.train.x))
        assert {*map(bytes, fold.train.x), *map(bytes, fold.test.x)} <= rows
        assert not len(fold.validation.x)
    assert len({bytes(fold.test.x) for fold in folds}) == 3


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"parameters": {"strategies.fed_dyn.mu": [1.0]}},
            "names no strategy; allowed: strategies.NAME.field",
        ),
        (
            {"parameters": {"local.lr": [0.1, -1.0]}},
            r"tune\.parameters\.local\.lr cannot be -1\.0 for local_only",
        ),
        ({"parameters": {"local.lrr": [0.1]}}, "cannot be 0.1 for local_only: is not a field here; did you mean lr"),
        ({"parameters": {"data.clients": [5]}}, "is no setting of a strategy"),
        ({"parameters": {"repeats": [5]}}, "is no setting of a strategy"),
        ({"parameters": {"local": [5]}}, "has fields: name one, as local.lr"),
        ({"parameters": {"local.epochs": [5], "local.steps": [5]}}, "sets what local.epochs sets of local_only: leave one of them out"),
        ({"parameters": {"local.lr": [0.5], "strategies.fed_avg.local.lr": [0.1]}}, "sets what local.lr sets of fed_avg"),
        ({"parameters": {"rounds": ["ten"]}}, "cannot be 'ten' for local_only"),
        ({"parameters": {"local.epochs": {"low": 1.5, "high": 2.4, "integer": True}}}, "must be whole numbers"),
        ({"parameters": {"local.lr": {"low": 1.0, "high": 0.1}}}, "low must be below high"),
        ({"per_strategy": False, "bytes": 1000}, "bytes needs per_strategy"),
    ],
)
def test_what_cannot_be_searched_is_refused_first(section: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=words):
        tune(searched(**section), out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_first_rung_that_is_too_short_for_a_strategy_is_refused_first(tmp_path: Path) -> None:
    content = {**searched(halving={"first_rounds": 1}, parameters=RATES), "strategies": [SMALL]}
    with pytest.raises(ScenarioError, match=r"halving\.first_rounds is too few for sf_hfe: .* takes 1 round \(survey\)"):
        tune(content, out=tmp_path / "no")
