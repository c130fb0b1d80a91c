"""Scarcity as part of a scenario: what tables say, and that nothing about how a run is computed changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interrupted import interrupt_after
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate
from scarcity_ray.scenario import ScenarioError

WORLD: dict[str, Any] = {
    "compute": {"jitter": 0.3},
    "network": {},
    "availability": {"kind": "markov", "on": 5.0, "off": 3.0},
    "dropout": {"before": 0.05, "after": 0.1},
    "energy": {"battery": 0.5, "recharge": 0.01, "idle": 0.001},
    "budget": {"uplink_bytes": 60_000.0},
}
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "fed_avg", "clients_per_round": 5, "over_selection": 1.5},
    {"kind": "fed_avg", "name": "stale", "clients_per_round": 6, "round_deadline": 0.02, "late": "stale"},
    {"kind": "fed_nova", "clients_per_round": 6, "round_deadline": 0.02, "late": "partial", "minimum_reports": 0.2},
    {"kind": "scaffold", "clients_per_round": 5},
    {"kind": "fed_buff", "concurrency": 6, "buffer": 3},
    {"kind": "fed_avg", "name": "advised", "insights": True},
    {"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 24}},
]


def hashes(results: Results) -> dict[str, str]:
    return {name: entry["result_hash"] for name, entry in results.summary["strategies"].items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(scenario(rounds=5, scarcity=WORLD, strategies=STRATEGIES), out=tmp_path_factory.mktemp("scarce") / "run")


def test_a_world_without_limits_changes_no_result(tmp_path: Path) -> None:
    plain = [{"kind": "fed_avg", "fraction": 0.5}, {"kind": "sf_hfe", "representation": {"kind": "identity"}}]
    free = simulate(scenario(strategies=plain), out=tmp_path / "free")
    endless = {"availability": {"kind": "always"}}
    limitless = simulate(scenario(strategies=plain, scarcity=endless), out=tmp_path / "limitless")
    for name in ("rounds", "clients"):
        one, other = free.frame(name), limitless.frame(name)
        shared = [column for column in one if column != "seconds" and one[column].notna().any()]
        assert one[shared].equals(other[shared])
    assert (limitless.frame("rounds")["clock_seconds"] == 0).all()


def test_the_tables_add_up(results: Results) -> None:
    rounds, clients = results.frame("rounds"), results.frame("clients")
    assert set(rounds["strategy"]) == {strategy.get("name", strategy["kind"]) for strategy in STRATEGIES}
    for name, mine in rounds.groupby("strategy"):
        last = clients[(clients["strategy"] == name) & (clients["round"] == mine["round"].max())]
        assert mine["uplink_bytes"].sum() == last["uplink_bytes"].sum()
        assert mine["downlink_bytes"].sum() == last["downlink_bytes"].sum()
        assert mine["joules"].sum() == pytest.approx(last["joules"].sum())
        assert (last["uplink_bytes"] <= 60_000).all()
        assert (np.diff(mine["clock_seconds"]) >= 0).all()
        assert (mine["selected"] >= mine["late"] + mine["dropped"]).all()
        assert name == "fed_buff" or (mine["available"] >= mine["selected"]).all()  # there clients come while others work
        assert last["rounds_joined"].sum() == (mine["clients"] - mine["rejected"]).sum()
    assert rounds["late"].sum() > 0
    assert rounds["dropped"].sum() > 0
    assert (rounds["wasted_bytes"] > 0).any()


def test_packing_and_an_interruption_change_nothing(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = scenario(rounds=5, scarcity=WORLD, strategies=STRATEGIES)
    packed = simulate(content | {"execution": {"ray": False, "actors": 5}}, out=tmp_path / "packed")
    assert hashes(packed) == hashes(results)
    interrupt_after(monkeypatch, 3, lambda: simulate(content, out=tmp_path / "cut"))
    assert hashes(resume(tmp_path / "cut")) == hashes(results)


@pytest.mark.slow
def test_ray_changes_nothing(results: Results, tmp_path: Path) -> None:
    content = scenario(rounds=5, scarcity=WORLD, strategies=STRATEGIES)
    assert hashes(simulate(content | {"execution": {"ray": True, "cpus": 2}}, out=tmp_path / "ray")) == hashes(results)


def test_few_samples_are_nested_and_leave_the_test_rows(tmp_path: Path) -> None:
    counts = {}
    for most in (3, 6):
        found = simulate(scenario(rounds=1, scarcity={"samples": {"maximum": most}}), out=tmp_path / f"run{most}").frame("clients")
        counts[most] = found
    assert counts[3]["num_train"].max() == 3
    assert counts[6]["num_train"].max() == 6
    assert counts[3]["num_test"].equals(counts[6]["num_test"])


def test_a_client_with_too_little_memory_takes_part_in_nothing(tmp_path: Path) -> None:
    world = {"compute": {"memory": {"choices": [0.001, 100.0]}}}
    found = simulate(scenario(scarcity=world), out=tmp_path / "run").frame("clients")
    last = found[found["round"] == 3]
    assert 0 < (last["excluded_by"] == "memory").sum() < 12
    assert (last[last["excluded_by"] == "memory"]["rounds_joined"] == 0).all()


def test_the_run_ends_when_its_time_is_up(tmp_path: Path) -> None:
    world = {"compute": {"speed": 1e-3}, "deadline": 2.0}
    rounds = simulate(scenario(rounds=200, scarcity=world), out=tmp_path / "run").frame("rounds")
    assert rounds["clock_seconds"].max() == 2.0
    assert 2 <= len(rounds) < 200
    assert rounds["clients"].iloc[-1] == 0  # the round that did not end in time is void
    assert rounds["wasted_bytes"].iloc[-1] > 0


@pytest.mark.parametrize(
    ("strategy", "world", "words"),
    [
        ({"over_selection": 1.3}, None, r"strategies\.0\.over_selection is 1\.3: nothing is scarce"),
        ({"round_deadline": 3.0}, None, r"strategies\.0\.round_deadline is 3\.0: nothing is scarce"),
        ({"late": "partial"}, {}, r"strategies\.0\.late is 'partial': without a round_deadline nobody is late"),
        ({"kind": "mifa", "late": "stale", "round_deadline": 3.0}, {}, r"late is 'stale': the server of mifa adds up what clients keep"),
        (
            {"kind": "q_ffl", "late": "stale", "round_deadline": 3.0},
            {},
            r"strategies\.0\.late is 'stale': clients of q_ffl start from the newest",
        ),
    ],
)
def test_an_answer_without_its_question_is_refused(strategy: dict[str, Any], world: Any, words: str, tmp_path: Path) -> None:
    content = scenario(strategies=[{"kind": "fed_avg", **strategy}]) | ({} if world is None else {"scarcity": world})
    with pytest.raises(ScenarioError, match=words):
        simulate(content, out=tmp_path / "run")


COMING: dict[str, Any] = {"compute": {}, "network": {}, "availability": {"kind": "markov", "on": 60.0, "off": 600.0}}


@pytest.mark.parametrize("kind", ["sf_hfe", "afl", "prototypes"])
def test_who_sends_once_is_waited_for_and_the_end_is_that_of_all_at_once(kind: str, tmp_path: Path) -> None:
    strategies = [{"kind": kind, "representation": {"kind": "random_fourier", "features": 24, "bandwidth": 4.0}}]
    free = simulate(scenario(rounds=30, strategies=strategies), out=tmp_path / "free")
    scarce = simulate(scenario(rounds=30, strategies=strategies, scarcity=COMING), out=tmp_path / "scarce")
    rounds = scarce.frame("rounds")
    assert len(rounds) > 2
    assert rounds["clients"].sum() == 12
    assert rounds["clock_seconds"].max() > 60
    whose = ["client_id", "test_loss", "test_accuracy"]
    last = [run.frame("clients").query(f"strategy == '{kind}'").groupby("client_id").last().reset_index()[whose] for run in (free, scarce)]
    assert np.allclose(last[0].fillna(0), last[1].fillna(0), rtol=1e-5)
    assert scarce.summary["strategies"][kind]["status"] == "finished"


def test_clients_that_never_come_are_strangers_and_no_round_is_waited_for(tmp_path: Path) -> None:
    world = {**COMING, "deadline": 200.0}
    strategies = [{"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 24}}]
    run = simulate(scenario(rounds=30, strategies=strategies, scarcity=world), out=tmp_path / "run")
    clients = run.frame("clients").query("strategy == 'sf_hfe'")
    last = clients[clients["round"] == clients["round"].max()]
    never = last["rounds_joined"] == 0
    assert 0 < never.sum() < 12
    assert last[never]["contribution"].isna().all()
    assert run.frame("rounds")["clock_seconds"].max() <= 200


@pytest.mark.parametrize(
    ("more", "scarcity"),
    [({"refresh": 0.5}, None), ({"refresh": 0.5, "forgetting": 0.5}, {})],
    ids=["nothing scarce", "sent in every round"],
)
def test_a_refresh_that_would_do_nothing_is_refused(more: dict[str, Any], scarcity: Any, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"strategies\.0\.refresh is 0\.5: .* it would do nothing"):
        simulate(scenario(strategies=[{"kind": "sf_hfe", **more}], scarcity=scarcity), out=tmp_path / "run")


@pytest.mark.parametrize(
    "strategy",
    [
        {"representation": {"kind": "random_fourier", "features": 24}},
        {"representation": {"kind": "random_fourier", "features": 24}, "forgetting": 0.5},
        {"representation": {"kind": "random_fourier", "features": 24, "bandwidth": "evidence"}},
        {"representation": {"kind": "auto", "features": 80}},
    ],
    ids=["survey", "forgetting", "pilot", "auto"],
)
def test_what_each_round_asks_for_is_waited_for_by_rounds_without_a_clock(strategy: dict[str, Any], tmp_path: Path) -> None:
    world = {"compute": {}, "energy": {}, "availability": {"kind": "bernoulli", "p": 0.05}, "dropout": {"after": 0.4}}
    run = simulate(scenario(rounds=5, strategies=[{"kind": "sf_hfe", **strategy}], scarcity=world), out=tmp_path / "run")
    rounds, clients = run.frame("rounds"), run.frame("clients").query("strategy == 'sf_hfe'")
    assert (rounds["clients"] > 0).all()
    assert rounds["dropped"].sum() > 0
    last = clients[clients["round"] == rounds["round"].max()]
    for name in ("uplink_bytes", "downlink_bytes", "joules"):
        assert rounds[name].sum() == pytest.approx(last[name].sum())


def test_a_message_that_never_comes_ends_the_strategy(tmp_path: Path) -> None:
    run = simulate(
        scenario(strategies=[{"kind": "sf_hfe"}], scarcity={"availability": {"kind": "bernoulli", "p": 0}}), out=tmp_path / "run"
    )
    assert run.frame("rounds")["clients"].tolist() == [0]
    assert run.summary["strategies"]["sf_hfe"]["status"] == "finished"


def test_an_interval_that_passes_the_end_loses_no_work(tmp_path: Path) -> None:
    world = {"compute": {}, "deadline": 25.0}
    strategies = [{"kind": "fed_avg", "round_interval": 10.0}]
    rounds = simulate(scenario(rounds=9, scarcity=world, strategies=strategies), out=tmp_path / "run").frame("rounds")
    assert rounds["clock_seconds"].tolist() == [10, 20, 25]
    assert rounds["clients"].tolist() == [12, 12, 12]
