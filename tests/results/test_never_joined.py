"""Who joined no round: counted by hand, and from a run's tables, also where the run was cut short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interrupted import interrupt_after
from helpers.played import federation, shards
from helpers.scenarios import scenario

from scarcity_ray import Results, resume, simulate
from scarcity_ray.report.never_joined import never_joined_in_words
from scarcity_ray.results.never_joined import describe_seed, over_seeds, top_share
from scarcity_ray.scarcity.taking_part import TakingPart

WORLD: dict[str, Any] = {
    "compute": {"memory": {"choices": [0.001, 100.0, 100.0, 100.0]}},
    "availability": {"kind": "markov", "on": 60.0, "off": 600.0, "groups": 4},
    "energy": {},
    "budget": {"uplink_bytes": {"choices": [100.0, 20_000.0, 20_000.0]}},
}
CONTENT = scenario(
    rounds=3,
    repeats=2,
    data={"source": {"kind": "digits"}, "clients": 16, "partition": {"kind": "dirichlet", "alpha": 0.3, "minimum": 8}},
    model={"kind": "linear"},
    strategies=[{"kind": "fed_avg", "clients_per_round": 2}, {"kind": "pooled"}],
    evaluation={"every": 3, "clients": 12},
    scarcity=WORLD,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return simulate(CONTENT, out=tmp_path_factory.mktemp("left out") / "run")


def test_rows_groups_classes_and_reasons_are_counted() -> None:
    y = np.array([0, 0, 1, 1, 1, 2])  # clients have 3, 1 and 2 rows
    held = federation(shards(np.zeros((6, 2)), y, [3, 1, 2]))
    held = replace(held, task="classification", outputs=4)
    part = TakingPart(np.array([True, False, False]), np.array([None, "memory", "unheard"], dtype=object), np.array([6.0, 0.0, 0.0]))
    found = describe_seed(part, held, np.array([0, 0, 1]))
    assert found["never_joined"] == {
        "clients": 2,
        "clients_share": pytest.approx(2 / 3),
        "rows": 3,
        "rows_share": 0.5,
        "by": {"memory": 1, "unheard": 1},
        "groups": {"0": 0.5, "1": 1.0},
        "classes": {"0": 0.0, "1": pytest.approx(2 / 3), "2": 1.0, "3": None},
    }
    all_joined = describe_seed(TakingPart(np.ones(3, dtype=np.bool_), np.full(3, None), np.ones(3)), held, None)["never_joined"]
    assert (all_joined["clients"], all_joined["by"]) == (0, {})
    mean = over_seeds([found["never_joined"], all_joined | {"groups": {"0": 0.0, "1": 0.0}}])
    assert (mean["clients"], mean["rows_share"], mean["by"]) == (1.0, 0.25, {"memory": 0.5, "unheard": 0.5})
    assert (mean["groups"], mean["classes"]["3"]) == ({"0": 0.25, "1": 0.5}, None)


@pytest.mark.parametrize(
    ("work", "share"),
    [([2.0] * 7, 0.3), ([0, 0, 9, 0], 1.0), ([4, 3, 2, 1], (4 + 0.2 * 3) / 10), ([0, 0], None)],
    ids=["equal", "one", "between two", "nobody"],
)
def test_the_share_of_the_busiest(work: list[float], share: float | None) -> None:
    assert top_share(np.array(work, dtype=float)) == (None if share is None else pytest.approx(share))


def test_a_run_counts_what_its_tables_say(results: Results) -> None:
    """Of 16 clients 12 are tested; the tables tell of these alone, the summary of all."""
    entry, clients = results.summary["strategies"]["fed_avg"], results.frame("clients").query("strategy == 'fed_avg' and round == 3")
    values: dict[bool, list[float]] = {True: [], False: []}
    for seed, tested in clients.groupby("seed"):
        found, never = entry["seeds"][str(seed)]["never_joined"], tested["rounds_joined"] == 0
        assert never.sum() <= found["clients"] <= never.sum() + 4
        assert sum(found["by"].values()) == found["clients"]
        for reason in ("memory", "uplink_bytes"):
            mine = (tested["excluded_by"] == reason) & never
            assert mine.sum() <= found["by"].get(reason, 0) <= mine.sum() + 4
        assert {"memory", "unavailable"} <= set(found["by"])
        assert len(found["groups"]) > 1
        for joined, part in tested.groupby(tested["rounds_joined"] > 0):
            values[joined].append(part["test_accuracy"].mean())
    metric = entry["never_joined"]["metric"]
    assert (metric["joined"], metric["never"]) == pytest.approx((np.mean(values[True]), np.mean(values[False])))
    assert metric["difference"] == pytest.approx(metric["joined"] - metric["never"])
    assert metric["low"] < metric["difference"] < metric["high"]
    assert 0.3 < entry["top_30_work_share"] <= 1
    assert "never_joined" not in results.summary["strategies"]["pooled"]
    (line,) = never_joined_in_words(results.summary)
    assert line.startswith(f"fed_avg leaves out {entry['never_joined']['clients']:g} of 16 clients in a seed on average, which joined")
    assert "short of memory" in line
    assert "out of budget uplink_bytes" in line
    twice = {**results.summary, "strategies": {**results.summary["strategies"], "other": entry}}
    assert never_joined_in_words(twice)[1].startswith(
        f"Of all clients others leave out: other {100 * entry['never_joined']['clients_share']:.0f} %;"
    )


def test_a_run_that_was_cut_short_counts_the_same(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last round of the first seed, which had no end yet; and once it had, in the next strategy."""
    interrupt_after(monkeypatch, 3, lambda: simulate(CONTENT, out=tmp_path / "cut"))
    interrupt_after(monkeypatch, 2, lambda: resume(tmp_path / "cut"))
    resumed = resume(tmp_path / "cut").summary["strategies"]["fed_avg"]
    whole = results.summary["strategies"]["fed_avg"]
    assert resumed["result_hash"] == whole["result_hash"]
    for name in ("never_joined", "top_30_work_share", "seeds"):
        assert _without_seconds(resumed[name]) == _without_seconds(whole[name])


def test_who_has_sent_a_survey_alone_is_left_out(tmp_path: Path) -> None:
    """The budget has room for the survey, and for nobody's moments."""
    strategies = [{"kind": "sf_hfe", "representation": {"kind": "random_fourier", "features": 24}}]
    run = simulate(scenario(strategies=strategies, scarcity={"budget": {"uplink_bytes": 1000}}), out=tmp_path / "run")
    assert (run.frame("clients").query("strategy == 'sf_hfe'")["rounds_joined"] == 1).all()
    found = run.summary["strategies"]["sf_hfe"]["never_joined"]
    assert (found["clients"], found["by"], found["metric"]) == (12, {"uplink_bytes": 12}, None)


def test_where_nothing_is_scarce_nothing_is_said(tmp_path: Path) -> None:
    summary = simulate(scenario(rounds=1), out=tmp_path / "run").summary
    assert not {"never_joined", "top_30_work_share"} & set(summary["strategies"]["fed_avg"])
    assert never_joined_in_words(summary) == []
    summary["strategies"]["fed_avg"]["never_joined"] = {"clients": 0}
    assert never_joined_in_words(summary) == []


def _without_seconds(found: Any) -> Any:
    return {key: _without_seconds(value) for key, value in found.items() if "second" not in key} if isinstance(found, dict) else found
