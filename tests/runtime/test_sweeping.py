"""A sweep: every combination is a run of its own, is the same after a cut, and says who wins where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate, sweep
from scarcity_ray.runtime import sweeping
from scarcity_ray.scenario import ScenarioError


def crossed(parameters: dict[str, Any]) -> dict[str, Any]:
    strategies = [{"kind": "local_only"}, {"kind": "fed_avg", "name": "mean"}]
    return scenario(rounds=2, strategies=strategies, sweep={"parameters": parameters})


def test_cells_are_runs_of_their_own_and_a_cut_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = crossed({"data.clients": [4, 8], "strategies.mean.fraction": [0.5]})
    played, right = [], sweeping.ended

    def cut(cell: Any, *out: Any, **more: Any) -> Results:
        played.append(cell.name)
        if len(played) == 2:
            raise KeyboardInterrupt
        return right(cell, *out, **more)

    monkeypatch.setattr(sweeping, "ended", cut)
    with pytest.raises(sweeping.Interrupted, match="cut"):
        sweep(content, out=tmp_path / "cut")
    found = sweep(tmp_path / "cut")
    assert played == ["small-000", "small-001", "small-000", "small-001"]
    by_hand = simulate({**content, "sweep": None, "data": content["data"] | {"clients": 8}}, out=tmp_path / "by_hand").summary["strategies"]
    cell = Results.load(tmp_path / "cut" / "cells" / "001")
    assert cell.scenario["strategies"][1]["fraction"] == 0.5
    assert cell.summary["strategies"]["local_only"]["result_hash"] == by_hand["local_only"]["result_hash"]
    assert cell.summary["strategies"]["mean"]["result_hash"] != by_hand["mean"]["result_hash"]
    rows = pd.read_csv(tmp_path / "cut" / "sweep.csv")
    assert rows["data.clients"].tolist() == [4, 4, 8, 8]
    told = [one["strategies"]["mean"]["value"] for one in found.answer["cells"]]
    assert rows[rows["strategy"] == "mean"]["accuracy"].tolist() == pytest.approx(told)
    assert (tmp_path / "cut" / "sweep.png").stat().st_size > 10_000


def test_a_strategy_that_diverges_in_a_cell_does_not_end_the_sweep(tmp_path: Path) -> None:
    found = sweep(crossed({"strategies.mean.local.lr": [1e30, 0.2], "local.steps": [2]}), out=tmp_path / "lr")
    assert [one["strategies"]["mean"]["status"] for one in found.answer["cells"]] == ["diverged", "finished"]


def test_a_sweep_that_was_killed_as_a_cell_began_ends(tmp_path: Path) -> None:
    whole = sweep(crossed({"data.clients": [4, 8]}), out=tmp_path / "one")
    for path in (tmp_path / "one" / "cells" / "001").rglob("*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "one" / "cells" / "001" / "scenario.yaml").touch()
    assert sweep(tmp_path / "one").answer == whole.answer


def test_a_sweep_in_place_of_another_keeps_no_cell_of_it(tmp_path: Path) -> None:
    sweep(crossed({"data.clients": [4, 8]}), out=tmp_path / "one")
    found = sweep({**crossed({"data.clients": [5]}), "seed": 9}, out=tmp_path / "one", force=True)
    assert sorted(cell.name for cell in (tmp_path / "one" / "cells").iterdir()) == ["000"]
    assert Results.load(tmp_path / "one" / "cells" / "000").scenario["data"]["clients"] == 5
    assert [cell["setting"] for cell in found.answer["cells"]] == [{"data.clients": 5}]


def test_who_wins_is_the_best_and_whom_it_does_not_surely_beat() -> None:
    def pair(better: str, worse: str, p: float) -> dict[str, Any]:
        return {"better": better, "worse": worse, "p_holm": p}

    entries = {name: {"status": "finished", "test_accuracy": 0.5} for name in ("alone", "a", "b", "c")}
    pairs = [pair("b", "a", 0.3), pair("b", "c", 0.01), pair("a", "c", 0.02)]
    summary = {"task": "classification", "best": {"strategies": ["b"]}, "comparisons": pairs, "strategies": entries}
    assert sweeping._of_cell({}, summary)["wins"] == ["b", "a"]
    assert sweeping._of_cell({}, summary | {"best": None})["wins"] == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"data.clients": [4, 0]}, r"data\.clients is 0; .* \(where data\.clients=0\)"),
        ({"data.clients": [4, 5000]}, "5,000 clients of at least 2 rows"),
        ({"data.cleints": [4]}, "is not a field here; did you mean clients"),
        ({"rounds.more": [4]}, "is no field: rounds has no fields"),
    ],
)
def test_a_cell_that_cannot_run_is_refused_before_any_is_played(parameters: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=words):
        sweep(crossed(parameters), out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(ScenarioError, match="sweep is missing"):
        sweep(scenario(), out=tmp_path / "no")
