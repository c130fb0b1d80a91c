"""Values of the user's own: columns of the table, and traces of presence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.interrupted import interrupt_after
from helpers.scenarios import scenario

from scarcity_ray import resume, simulate
from scarcity_ray.core.spec import SpecError
from scarcity_ray.results.hashing import fingerprint
from scarcity_ray.runtime.plan import RunPlan, prepare
from scarcity_ray.scenario import parse


def table(folder: Path, **columns: Any) -> Path:
    """Four hospitals with six rows each, their devices in the columns given."""
    rng = np.random.default_rng(1)
    names = np.repeat(["d", "b", "a", "c"], 6)
    frame = pd.DataFrame({"hospital": names, "age": rng.standard_normal(24), "y": rng.standard_normal(24)})
    for name, values in columns.items():
        frame[name] = values
    frame.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def planned(folder: Path, data: dict[str, Any] | None = None, **scarcity: Any) -> RunPlan:
    source = {"kind": "table", "path": "rows.csv", "label": "y", "client": "hospital"}
    content = scenario(
        data={"source": source, "test_fraction": 0.3} | (data or {}), model={"kind": "linear"}, strategies=[{"kind": "fed_avg"}]
    )
    return prepare(parse(content | {"scarcity": scarcity}), folder)


def test_a_column_gives_each_client_its_own_value_and_is_no_feature(tmp_path: Path) -> None:
    table(tmp_path, speed=np.repeat([4.0, 2.0, 1.0, 3.0], 6))
    plan = planned(tmp_path, compute={"speed": {"column": "speed"}})
    assert plan.federation.names == ("a", "b", "c", "d")
    assert plan.world is not None
    assert (plan.world.flops / 1e9).tolist() == [1, 2, 3, 4]
    assert plan.federation.shape == (1,)


def test_the_values_enter_the_fingerprint_of_the_data_and_none_change_it(tmp_path: Path) -> None:
    table(tmp_path, speed=np.repeat([4.0, 2.0, 1.0, 3.0], 6))
    one = fingerprint(planned(tmp_path, compute={"speed": {"column": "speed"}}).federation)
    table(tmp_path, speed=np.repeat([5.0, 2.0, 1.0, 3.0], 6))
    assert fingerprint(planned(tmp_path, compute={"speed": {"column": "speed"}}).federation) != one


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"speed": np.arange(24.0)}, r"client d has 0, 1, 2, 3, 4: a client has one value in all its rows"),
        ({"speed": np.full(24, -1.0)}, r"client d has -1: a client has one value in all its rows, 0 or more"),
        ({"speed": np.repeat(["fast", "slow"], 12)}, r"the column is text: a client's value is a number"),
        ({}, r"'speed'.*there is no|no such column|has no column"),
    ],
)
def test_a_bad_column_is_refused(columns: dict[str, Any], words: str, tmp_path: Path) -> None:
    table(tmp_path, **columns)
    with pytest.raises(SpecError, match=words):
        planned(tmp_path, compute={"speed": {"column": "speed"}})


def test_a_source_without_clients_has_no_columns_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only a table whose rows name their client has columns of clients"):
        prepare(parse(scenario(scarcity={"compute": {"speed": {"column": "speed"}}})), tmp_path)


def trace(folder: Path, *lines: str) -> dict[str, Any]:
    table(folder)
    (folder / "trace.csv").write_text("\n".join(["client,start,end", *lines]))
    return {"kind": "trace", "path": "trace.csv"}


def test_a_trace_is_read_by_names(tmp_path: Path) -> None:
    availability = trace(tmp_path, "d,0,10", "a,2.5,3", "d,12,13")
    plan = planned(tmp_path, availability=availability)
    assert plan.world is not None
    there = [plan.world.presence.at(np.arange(4), int(second * 1e6), 0).tolist() for second in (0, 2.5, 11, 12)]
    assert there == [[False, False, False, True], [True, False, False, True], [False] * 4, [False, False, False, True]]
    without = fingerprint(planned(tmp_path).federation)
    assert fingerprint(plan.federation) != without


@pytest.mark.parametrize("data", [{"participants": 2}, {"held_out_clients": 0.5}])
def test_values_and_spans_of_clients_that_take_no_part_are_passed_over(data: dict[str, Any], tmp_path: Path) -> None:
    availability = trace(tmp_path, "d,0,4", "a,0,1", "b,0,2", "d,12,14", "c,0,3", "b,12,14")
    table(tmp_path, speed=np.repeat([4.0, 2.0, 1.0, 3.0], 6))
    plan = planned(tmp_path, data, availability=availability, compute={"speed": {"column": "speed"}})
    places = ["abcd".index(name) + 1 for name in plan.federation.names or ()]
    assert len(places) == 2
    assert plan.world is not None
    assert (plan.world.flops / 1e9).tolist() == places
    assert plan.federation.spans is not None
    starts, end = plan.federation.spans.starts.tolist(), plan.federation.spans.end
    assert [int(end[start]) // 10**6 for start in starts[:-1]] == places
    assert np.diff(starts).tolist() == [1 + (place in (2, 4)) for place in places]
    with pytest.raises(SpecError, match="there is no client 'x'"):
        planned(tmp_path, data, availability=trace(tmp_path, "x,0,4"))


def test_a_trace_may_be_parquet(tmp_path: Path) -> None:
    table(tmp_path)
    pd.DataFrame({"client": ["b"], "start": [1], "end": [4]}).to_parquet(tmp_path / "trace.parquet")
    plan = planned(tmp_path, availability={"kind": "trace", "path": "trace.parquet"})
    assert plan.federation.spans is not None
    assert plan.federation.spans.begin.tolist() == [1_000_000]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["d,0,10", "x,2,3"], r"line 3: there is no client 'x'; the first are a, b, c, d"),
        (["d,5,10", "d,2,3"], r"line 3: a span from 2 s, and client d is there until 10 s already"),
        (["d,5,10", "d,8,12"], r"line 3: a span from 8 s, .*join those that overlap"),
        (["d,5,5"], r"line 2: a span from 5 to 5 s"),
        (["d,-1,5"], r"line 2: a span from -1 to 5 s"),
        (["d,early,5"], r"it needs the columns client \(a name\), start and end \(seconds\)"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(lines: list[str], words: str, tmp_path: Path) -> None:
    availability = trace(tmp_path, *lines)
    with pytest.raises(SpecError, match=words):
        planned(tmp_path, availability=availability)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(SpecError, match=r"scarcity\.availability\.path is 'no\.csv': there is no file"):
        planned(tmp_path, availability={"kind": "trace", "path": "no.csv"})


def test_a_run_with_a_trace_is_resumed_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    availability = trace(tmp_path, "a,0,100", "b,0,100", "c,0,100", "d,5,100")
    source = {"kind": "table", "path": "rows.csv", "label": "y", "client": "hospital"}
    content = scenario(data={"source": source, "test_fraction": 0.3}, model={"kind": "linear"}, strategies=[{"kind": "fed_avg"}])
    (tmp_path / "scenario.yaml").write_text(yaml.safe_dump(content | {"scarcity": {"availability": availability}}))
    whole = simulate(tmp_path / "scenario.yaml", out=tmp_path / "whole")
    assert whole.frame("rounds")["available"].tolist() == [3, 3, 3]
    interrupt_after(monkeypatch, 2, lambda: simulate(tmp_path / "scenario.yaml", out=tmp_path / "elsewhere" / "cut"))
    cut = resume(tmp_path / "elsewhere" / "cut")
    assert cut.summary["strategies"]["fed_avg"]["result_hash"] == whole.summary["strategies"]["fed_avg"]["result_hash"]


def test_a_budget_below_what_preparing_the_data_takes_is_refused(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(
        SpecError, match=r"scarcity\.budget\.uplink_bytes is 1\.0: preparing the data takes .* bytes of a client, and 4 clients"
    ):
        planned(tmp_path, budget={"uplink_bytes": 1})
