"""`compare`: strategies of several runs, against what one run says of both, and against closed forms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.scenarios import scenario
from scipy import stats
from typer.testing import CliRunner

from scarcity_ray import Results, simulate
from scarcity_ray.report.units import number
from scarcity_ray.results.comparison import compare
from scarcity_ray.results.reading import RunError
from scarcity_ray.run import app

AVERAGED, PROXIMAL = {"kind": "fed_avg", "local": {"lr": 0.5}}, {"kind": "fed_prox", "mu": 2.0}
DATA = {"source": {"kind": "digits"}, "clients": 6, "partition": {"kind": "quantity_skew", "sigma": 0.5}}
PLAIN = {"data": DATA, "model": {"kind": "linear"}, "rounds": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two strategies in runs of their own, with three and two seeds, and in one run with two; and that run with other data."""
    folder = tmp_path_factory.mktemp("compare")
    for name, strategies, changes in [
        ("averaged", [AVERAGED], {"repeats": 3}),
        ("proximal", [PROXIMAL], {"repeats": 2}),
        ("both", [AVERAGED, PROXIMAL], {"repeats": 2}),
        ("other", [AVERAGED], {"seed": 4, "data": DATA | {"test_fraction": 0.25}}),
    ]:
        simulate(scenario(**(PLAIN | {"strategies": strategies} | changes)), out=folder / name)
    return folder


def found(runs: Path, *names: str, reference: str | None = None) -> dict[str, Any]:
    return compare([Results.load(runs / name) for name in names], reference)


def test_two_runs_say_what_one_run_of_both_says(runs: Path) -> None:
    apart, together = found(runs, "averaged", "proximal"), Results.load(runs / "both").summary
    assert (apart["seeds"], apart["clients"]) == ([3, 4], 6)
    assert [len(one["seeds"]) for one in apart["runs"].values()] == [3, 2]
    (one,), (other,) = apart["comparisons"], together["comparisons"]
    assert [one[name].split("/")[1] for name in ("better", "worse")] == [other["better"], other["worse"]]
    assert one["gain"] == pytest.approx(other["gain"], rel=1e-9, abs=1e-12)
    assert (one["p_value"], one["p_holm"]) == pytest.approx((other["p_value"], other["p_holm"]), rel=1e-9)
    for label, name in (("averaged/fed_avg", "fed_avg"), ("proximal/fed_prox", "fed_prox"), ("alone", "alone"), ("guess", "guess")):
        entry, its = apart["strategies"][label], together["strategies"][name]
        assert entry["mean"] == pytest.approx(its["test_accuracy"], rel=1e-12)
        assert entry["worst_tenth"] == pytest.approx(its["test_accuracy_worst_decile"], rel=1e-12)
        assert (entry["bytes_per_client"], entry["rounds"], entry["hours"]) == (its["bytes_per_client"], its["rounds"], None)
    assert apart["reference"] == "averaged/fed_avg"
    sign = 1 if one["better"] == "proximal/fed_prox" else -1
    assert apart["strategies"]["proximal/fed_prox"]["difference"]["mean"] == pytest.approx(sign * one["gain"]["mean"], rel=1e-12)


def moved(run: Path, to: Path, by: np.ndarray, metric: str = "test_accuracy", of: str = "fed_avg") -> Path:
    """A copy of a run of one seed in which a strategy's last values of a metric are others: `by[client]`."""
    shutil.copytree(run, to)
    part = to / "clients.parquet" / "part-00000000.parquet"
    rows = pq.read_table(part)
    frame = rows.to_pandas()
    last = (frame["strategy"] == of) & (frame["round"] == frame.loc[frame["strategy"] == of, "round"].max())
    frame.loc[last, metric] = by[frame.loc[last, "client_id"]]
    pq.write_table(
        rows.set_column(rows.column_names.index(metric), rows.field(metric), pa.array(frame[metric])), part, write_page_checksum=True
    )
    return to


def test_intervals_and_tests_are_those_of_student_and_holm(runs: Path, tmp_path: Path) -> None:
    """Differences of two values, half of the clients each, have no skewness and no tails: then the interval is Student's, of the
    jackknife's variance s^2 / (n - 1)."""
    base, steps = np.array([0.5, 0.6, 0.4, 0.7, 0.5, 0.3]), np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
    shifts = {"a": (0.0, 0.0), "b": (0.06, 0.01), "c": (0.03, 0.02)}
    copies = [moved(runs / "other", tmp_path / name, base + mean + half * steps) for name, (mean, half) in shifts.items()]
    said = compare([Results.load(copy) for copy in copies], "a/fed_avg")
    n, p_values = len(base), {}
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        mean, half = (shifts[other][place] - shifts[one][place] for place in (0, 1))
        error = abs(half) * np.sqrt(n / (n - 1)) / np.sqrt(n - 1)
        p_values[one, other] = 2 * stats.t.sf(abs(mean) / error, n - 1)
        if one == "a":
            difference = said["strategies"][f"{other}/fed_avg"]["difference"]
            low, high = stats.t.interval(0.95, n - 1, mean, error)
            assert [difference[name] for name in ("mean", "low", "high")] == pytest.approx([mean, low, high], rel=1e-9)
            assert (difference["clients"], difference["seeds"]) == (n, 1)
    ordered = sorted(p_values, key=lambda pair: p_values[pair])
    worst = 0.0
    for place, pair in enumerate(ordered):
        worst = min(1.0, max(worst, (3 - place) * p_values[pair]))
        (told,) = (one for one in said["comparisons"] if {one["better"][0], one["worse"][0]} == {*pair})
        assert (told["p_value"], told["p_holm"]) == pytest.approx((p_values[pair], worst), rel=1e-9)


def test_what_differs_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"averaged and .*other have other data.*seed \(3 and 4\), data.test_fraction \(0.5 and 0.25\)"):
        found(runs, "averaged", "other")
    shutil.copytree(runs / "other", tmp_path / "auc")
    path = tmp_path / "auc" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": "auc"}))
    with pytest.raises(RunError, match=r"another metric decides: accuracy in .*other, AUC in .*auc"):
        compare([Results.load(runs / "other"), Results.load(tmp_path / "auc")])
    path.write_text(path.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    with pytest.raises(RunError, match="auc has not ended: guess, alone, fed_avg was interrupted; to continue: scarcity-ray resume"):
        compare([Results.load(tmp_path / "auc")])
    path.unlink()
    with pytest.raises(RunError, match="the run has not ended"):
        compare([Results.load(runs / "other"), Results.load(tmp_path / "auc")])
    with pytest.raises(RunError, match="did you mean averaged/fed_avg"):
        found(runs, "averaged", "proximal", reference="averaged/fedavg")
    shutil.copytree(runs / "averaged", tmp_path / "dealt")
    path = tmp_path / "dealt" / "environment.json"
    facts = json.loads(path.read_text())
    facts["scenario"]["data"]["partition"]["sigma"] = (
        0.75  # of the first seed the digest says that the rows are the same, not of the second
    )
    path.write_text(json.dumps(facts))
    with pytest.raises(RunError, match=r"data.partition.sigma \(0.5 and 0.75\)"):
        compare([Results.load(runs / "proximal"), Results.load(tmp_path / "dealt")])
    facts["scenario"]["data"]["partition"]["sigma"] = 0.5
    path.write_text(json.dumps(facts | {"data": "f" * 64}))
    with pytest.raises(RunError, match="the file of rows has changed"):
        compare([Results.load(runs / "proximal"), Results.load(tmp_path / "dealt")])
    with pytest.raises(RunError, match="is named twice"):
        found(runs, "averaged", "averaged")


def test_runs_of_one_name_are_told_apart_and_only_common_clients_count(runs: Path, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        shutil.copytree(runs / "other", tmp_path / folder / "run")
    part = tmp_path / "y" / "run" / "clients.parquet" / "part-00000000.parquet"
    rows = pq.read_table(part)
    pq.write_table(rows.filter(pa.compute.greater(rows["client_id"], 1)), part, write_page_checksum=True)  # as after `unlearn`
    said = compare([Results.load(tmp_path / folder / "run") for folder in ("x", "y")])
    assert list(said["strategies"]) == ["x/run/fed_avg", "y/run/fed_avg", "guess", "alone"]
    assert (said["clients"], [one["clients"] for one in said["runs"].values()]) == (4, [6, 4])
    assert said["strategies"]["y/run/fed_avg"]["difference"]["clients"] == 4
    assert said["comparisons"][0]["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_the_command_prints_tables_json_and_refusals(runs: Path) -> None:
    def left(*arguments: object, columns: int = 60) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["compare", *map(str, arguments)], obj=False, env={"COLUMNS": str(columns)})
        return done.exit_code, done.output

    directories = [runs / name for name in ("averaged", "proximal", "both")]
    code, out = left(*directories, "--json")
    said = json.loads(out)
    assert (code, len(said["comparisons"]), said["reference"]) == (0, 6, "averaged/fed_avg")
    code, out = left(*directories)
    assert code == 0
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 60
    words = out.split()
    for entry in said["strategies"].values():
        assert number(entry["mean"]) in words
        if entry["difference"]:
            assert f"{entry['difference']['mean']:+.3f}" in words
    assert "averaged/fed_avg is the same as both/fed_avg. It cannot be told whether" in " ".join(words)
    assert "Of 6 pairs 0 can be told apart by Holm's test." in " ".join(words)
    assert left(runs / "averaged", runs / "other")[0] == 2
