"""A run draws its curves, and its experts where it has an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scenarios import scenario
from matplotlib.figure import Figure

from scarcity_ray import Results, simulate
from scarcity_ray.core.metrics import headline
from scarcity_ray.report import curves

ENSEMBLE = {"kind": "sf_hfe", "representation": {"kind": "identity"}}
PNG = b"\x89PNG"


@pytest.mark.usefixtures("with_plots")
@pytest.mark.parametrize(
    "data",
    [
        {"source": {"kind": "digits"}, "partition": {"kind": "iid"}},
        {"source": {"kind": "shifted_regression", "samples_per_client": 12}},
    ],
    ids=lambda data: data["source"]["kind"],
)
def test_a_run_draws_its_curves_and_its_experts(data: dict[str, Any], tmp_path: Path) -> None:
    strategies = [{"kind": "fed_avg"}, ENSEMBLE, ENSEMBLE | {"name": "shared", "experts": 1, "personal": False}]
    simulate(scenario(data=data | {"clients": 6}, model={"kind": "linear"}, strategies=strategies), out=tmp_path / "run")
    for name in ("curves.png", "experts.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(PNG)
    assert (tmp_path / "run/report.html").read_bytes().startswith(b"<!doctype html>")
    log = (tmp_path / "run/logs/scarcity.log").read_text()
    assert "WARNING" not in log[log.index("INFO") :]  # before it stands what the data cannot tell


@pytest.mark.usefixtures("with_plots")
def test_a_plot_that_fails_is_told_and_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(curves, "draw_curves", broken)
    results = simulate(scenario(rounds=1), out=tmp_path / "run", show=True)
    assert f"{tmp_path}/run/curves.png could not be drawn: ValueError: no ink" in capsys.readouterr().out.replace("\n", "")
    assert Results.load(results.directory).summary["strategies"]["fed_avg"]["status"] == "finished"
    assert not (tmp_path / "run/experts.png").exists()  # without an ensemble there are none


def test_costs_are_means_over_seeds_also_where_one_ended_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batteries run out in another round under each seed; what was spent until then stays spent."""
    world = {"compute": {}, "energy": {"battery": {"lognormal": {"median": 0.01, "sigma": 1.0}}}}
    strategies = [{"kind": "fed_avg", "clients_per_round": 4}, {"kind": "pooled"}]
    results = simulate(scenario(rounds=10, repeats=2, scarcity=world, strategies=strategies), out=tmp_path / "run")
    rounds = results.frame("rounds").query("strategy == 'fed_avg'")
    last = rounds.groupby("seed").agg({"round": "max", "clock_seconds": "last", "joules": "sum"})
    assert last["round"].nunique() > 1
    one, pooled = curves._curves(results, results.summary, results.frame("rounds"), headline("classification"))
    assert one.spent["hours"][-1] == pytest.approx(last["clock_seconds"].mean() / 3600)
    assert one.spent["joules_each"][-1] == pytest.approx(last["joules"].mean() / 12)
    for spent in one.spent.values():
        assert (np.diff(spent) >= 0).all()
    assert np.isfinite(one.centre).all()
    assert pooled.spent["hours"][-1] == pooled.spent["joules_each"][-1] == 0

    titles: list[list[str]] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: titles.append([axes.get_title() for axes in figure.axes]))
    curves.draw_curves(results, tmp_path / "curves.png")
    assert titles == [["By round", "By bytes", "By time", "By energy", "Client by client, at the end"]]
