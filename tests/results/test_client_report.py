"""The report of each client: against the tables of the run, and against the counts of its summary."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.scenarios import scenario
from rich.console import Console

from scarcity_ray import Results, simulate
from scarcity_ray.inference.shrinkage import shrink
from scarcity_ray.report.clients import show_clients
from scarcity_ray.results.client_report import SURE, client_report
from scarcity_ray.results.reading import RunError
from scarcity_ray.run import main

SITES = ["Ålesund", "clinic, north", "12", "ward_7", "0", "south"]
STRATEGIES = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "representation": {"kind": "identity"}, "experts": 1}]
CASES = {"accuracy over seeds": ("classification", 2), "rmse over seeds": ("regression", 2), "rmse": ("regression", 1), "digits": ("", 2)}


def table(folder: Path, task: str) -> dict[str, Any]:
    """Six named sites with rows enough for some to gain surely, and one without test rows."""
    draw, rows = np.random.default_rng(1), ["site,dose,age,outcome", *['"lone",0,0,' + ("no" if task == "classification" else "0.0")]]
    for place in range(360):
        dose, age = draw.normal(size=2)
        value = 3 * dose - age + 0.3 * draw.normal()
        outcome = ("no", "yes")[int(value > 0.3)] if task == "classification" else 70 + 20 * value
        rows.append(f'"{SITES[place % 6]}",{dose},{age},{outcome}')
    (folder / "rows.csv").write_text("\n".join(rows), encoding="utf-8")
    source = {"kind": "table", "path": str(folder / "rows.csv"), "label": "outcome", "client": "site", "task": task}
    return {"source": source, "test_fraction": 0.4}


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    """They take longer than these runs, and nobody looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scarcity_ray.report.curves.draw_curves", lambda *_: None)
        patch.setattr("scarcity_ray.report.experts_plot.draw_experts", lambda *_: None)
        yield


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder, (task, repeats) = tmp_path_factory.mktemp("report"), CASES[request.param]
    data = table(folder, task) if task else {"source": {"kind": "digits"}, "clients": 6, "partition": {"kind": "iid"}}
    plain = scenario(data=data, model={"kind": "linear"}, strategies=STRATEGIES, repeats=repeats, rounds=4)
    return simulate(plain, out=folder / "run")


def last_rows(run: Results, strategy: str) -> Any:
    rows = run.frame("clients")
    rows = rows[rows["strategy"] == strategy]
    return rows[rows["round"] == rows["round"].max()].set_index(["seed", "client_id"]).sort_index()


def test_the_report_follows_from_the_tables(run: Results) -> None:
    report = client_report(run, "sf_hfe")
    own, alone = last_rows(run, "sf_hfe"), last_rows(run, "alone")
    regression = run.summary["task"] == "regression"
    for rows in (own, alone):
        rows["value"] = np.sqrt(rows["test_loss"]) if regression else rows["test_accuracy"]
    own["alone"] = alone["value"]
    found = report.table.to_pandas()
    assert sorted(found["gain"].dropna()) == found["gain"].dropna().tolist()
    for row in found.to_dict("records"):
        seeds = slice(None) if np.isnan(row["seed"] or np.nan) else int(row["seed"])
        mine = own.loc[(seeds, row["client_id"]), :]
        expected = mine[["alone", "value", "gain", "uplink_bytes", "downlink_bytes"]].to_numpy(dtype=float).reshape(-1, 5).mean(axis=0)
        said = [row[name] for name in ("alone", "federated", "measured_gain", "uplink_bytes", "downlink_bytes")]
        np.testing.assert_allclose(said, expected, rtol=1e-12)
        difference = row["alone"] - row["federated"] if regression else row["federated"] - row["alone"]
        np.testing.assert_allclose(row["measured_gain"], difference, rtol=1e-6, atol=1e-9)
        assert set(np.ravel(mine["num_train"])) == {row["num_train"]}
        assert set(np.ravel(mine["num_test"])) == {row["num_test"]}


def test_clients_have_their_own_names_and_keep_them_over_seeds(run: Results) -> None:
    report, rows = client_report(run), run.frame("clients")
    assert set(rows["strategy"]) == {"guess", "alone", "fed_avg", "sf_hfe"}
    names, seeds = report.table["client"].to_pylist(), len(run.summary["strategies"]["fed_avg"].get("seeds", [""]))
    if run.summary["task"] == "classification" and report.per_seed:  # digits have no names, and other rows under each seed
        assert rows["client"].isna().all()
        assert sorted(names) == sorted([str(place) for place in range(6)] * 2)
        assert (report.seeds, seeds) == (1, 2)
        return
    assert sorted(names) == sorted([*SITES, "lone"])
    assert (report.per_seed, report.seeds) == (False, seeds)
    of = dict(zip(report.table["client_id"].to_pylist(), names, strict=True))
    assert rows["client"].tolist() == [of[one] for one in rows["client_id"]]
    lone = report.table.to_pylist()[-1]
    assert (lone["client"], lone["num_test"], lone["gain"], lone["sure"]) == ("lone", 0, None, None)
    assert lone["expert"] == ("/".join("0" * seeds) if report.strategy == "sf_hfe" else None)


@pytest.mark.parametrize("strategy", ["fed_avg", "sf_hfe", "guess"])
def test_the_counts_are_those_of_the_summary(run: Results, strategy: str) -> None:
    report, gain = client_report(run, strategy), run.summary["strategies"][strategy]["gain"]
    assert [report.count(sure) for sure in (1, -1, 0)] == [gain[name] for name in ("surely_better", "surely_worse", "cannot_tell")]
    assert sum(report.count(sure) for sure in SURE) == gain["clients"]


def test_gains_are_shrunk_together(run: Results) -> None:
    report, own = client_report(run, "fed_avg"), last_rows(run, "fed_avg")
    own["square"] = own["gain_error"] ** 2
    key = ["seed", "client_id"] if report.per_seed else ["client_id"]
    units = own.groupby(key)[["gain", "square"]].mean().dropna()
    expected = shrink(units["gain"], np.sqrt(units["square"]))
    found = report.table.to_pandas().set_index(key).loc[units.index]
    for name, values in (("gain", expected.mean), ("gain_low", expected.low), ("gain_high", expected.high)):
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12)
    assert found["sure"].tolist() == [SURE[one] for one in expected.sure.tolist()]


def shown(run: Results, width: int, strategy: str | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_clients(console, client_report(run, strategy), run.summary)
    return console.file.getvalue()


def test_what_fits_is_shown_and_the_rest_is_named(run: Results) -> None:
    narrow, wide = shown(run, 80, "sf_hfe"), shown(run, 140, "sf_hfe")
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow + wide
    assert "no room for" not in wide
    assert "expert" not in wide.splitlines()[2]  # there is but one
    assert "KB received, which --csv FILE has" in " ".join(narrow.split())
    report = client_report(run, "sf_hfe")
    rows = wide.splitlines()[4 : 4 + len(report.table)]
    assert [row.startswith(name) for row, name in zip(rows, report.table["client"].to_pylist(), strict=True)] == [True] * len(rows)
    gain = run.summary["strategies"]["sf_hfe"]["gain"]
    assert f"{gain['surely_better']} are surely better off and {gain['surely_worse']} surely worse off" in " ".join(wide.split())


def test_two_best_strategies_are_named(run: Results) -> None:
    summary = run.summary
    summary["best"]["strategies"] = ["sf_hfe", "fed_avg"]
    report = client_report(Changed(run, summary))
    assert (report.strategy, report.as_good) == ("sf_hfe", "fed_avg")
    console = Console(file=io.StringIO(), width=140)
    show_clients(console, report, summary)
    assert "No single strategy is best: sf_hfe or fed_avg. The table is of sf_hfe; --strategy fed_avg" in " ".join(
        console.file.getvalue().split()
    )


class Changed(Results):
    """A run with another summary."""

    def __init__(self, run: Results, summary: dict[str, Any]) -> None:
        super().__init__(run.directory)
        self.changed = summary

    @property
    def summary(self) -> dict[str, Any]:
        return self.changed


@pytest.mark.parametrize(
    ("best", "strategy", "words"),
    [
        (None, None, "names no best federated strategy; --strategy may be guess, fed_avg, sf_hfe"),
        (
            {},
            "fedavg",
            "--strategy is 'fedavg': {} has no such strategy to compare with alone; did you mean fed_avg?",
        ),
        ({}, "alone", "--strategy may be guess, fed_avg, sf_hfe"),
    ],
)
def test_a_strategy_that_cannot_be_reported_is_refused(run: Results, best: Any, strategy: str | None, words: str) -> None:
    with pytest.raises(RunError) as refused:
        client_report(Changed(run, run.summary | {"best": best}), strategy)
    assert words.format(run.directory) in str(refused.value)


def test_the_command_prints_or_writes_and_refuses(run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def left(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["clients", *map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    code, out, _ = left(run.directory, "--strategy", "fed_avg")
    assert code == 0
    assert "alone and with fed_avg" in out
    path = tmp_path / "clients.csv"
    code, out, _ = left(run.directory, "--strategy", "fed_avg", "--csv", path)
    table = client_report(run, "fed_avg").table
    assert (code, out) == (0, f"{len(table)} rows of fed_avg in {path}\n")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for written, row in zip(rows, table.to_pylist(), strict=True):
        assert {name: written[name] or None for name in ("client", "sure")} == {name: row[name] for name in ("client", "sure")}
        assert [float(written[name] or "nan") for name in ("gain", "gain_low", "alone")] == pytest.approx(
            [np.nan if row[name] is None else row[name] for name in ("gain", "gain_low", "alone")], rel=0, abs=0, nan_ok=True
        )
    assert left(run.directory, "--csv", tmp_path / "no" / "such.csv")[0] == 1
    code, out, said = left(run.directory, "--strategy", "fed-avg2")
    assert (code, out) == (2, "")
    assert "did you mean fed_avg?" in said
    assert left(tmp_path)[0] == 2


def test_a_run_without_the_column_shows_ids(run: Results, tmp_path: Path) -> None:
    """As a run of tables 1.2 left it."""
    old = tmp_path / "old"
    shutil.copytree(run.directory, old)
    part = old / "clients.parquet" / "part-00000000.parquet"
    rows = pq.read_table(part)
    pq.write_table(rows.drop_columns(["client"]).replace_schema_metadata({"schema_version": "1.2"}), part, write_page_checksum=True)
    before, after = Results.load(old), Results.load(run.directory)
    assert before.frame("clients")["client"].isna().all()
    assert client_report(before).table["client"].to_pylist() == list(map(str, client_report(after).table["client_id"].to_pylist()))


def test_a_run_of_a_version_without_gains_is_said_to_have_none(run: Results, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run.directory, old)
    part = old / "clients.parquet" / "part-00000000.parquet"
    rows = pq.read_table(part)
    gains = [name for name in rows.column_names if name.startswith("gain")]
    pq.write_table(rows.drop_columns(gains).replace_schema_metadata({"schema_version": "1.0"}), part, write_page_checksum=True)
    assert "No client has a gain: " in shown(Results.load(old), 100, "fed_avg")


def test_a_run_that_has_not_ended_is_refused(run: Results, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(json.dumps(run.scenario))
    with pytest.raises(RunError, match=r"summary.json is missing: the run has not ended"):
        client_report(Results.load(tmp_path))
