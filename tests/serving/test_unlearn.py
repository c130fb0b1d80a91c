"""Unlearning: each model is what it would be without the client, or is gone, or is named as what stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.directories import content
from helpers.hospitals import SITES, hospital_rows
from helpers.scenarios import scenario
from typer.testing import CliRunner

from scarcity_ray import Results, simulate
from scarcity_ray.results.results import RunError
from scarcity_ray.run import app
from scarcity_ray.serving.predict import UnknownClient, predict
from scarcity_ray.serving.unlearn import MEASURED, unlearn

SEED, CLIENTS = 5, 12
GONE = CLIENTS - 1
"""The client that `held_out_clients` takes out under that seed: the last, so the others keep their ids."""

IDENTITY = {"kind": "identity"}
FOURIER = {"kind": "random_fourier", "features": 40, "bandwidth": 2.0}
AUTO = {"kind": "auto", "features": 72, "bandwidth": 2.0}


def both(folder: Path, strategies: list[dict[str, Any]], **changes: Any) -> tuple[Results, Results]:
    """A run with the client, and one of the same scenario in which it has no training rows and never takes part."""
    rotated = [{"kind": "rotate", "groups": 2}]
    data = {"source": {"kind": "digits"}, "clients": CLIENTS, "partition": {"kind": "iid"}, "transforms": rotated, "test_fraction": 0.5}
    data |= changes.pop("data", {})
    made = {"seed": SEED, "strategies": strategies} | changes
    with_it = simulate(scenario(data=data, **made), out=folder / "with")
    never = simulate(scenario(data=data | {"held_out_clients": 1 / CLIENTS}, **made), out=folder / "never")
    assert GONE in with_it.clients["client_id"].to_pylist()
    assert GONE not in never.clients["client_id"].to_pylist()
    return with_it, never


def distance(mine: Results, never: Results, model: str) -> float:
    """The greatest difference of a tensor's numbers, as a share of the greatest of them."""
    found, wanted = mine.tensors(model), never.tensors(model)
    assert found.keys() == wanted.keys()
    shares = [0.0]
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        if value.is_floating_point():
            shares.append(float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-9)))
        else:
            assert torch.equal(found[name], value), name
    return max(shares)


def same_tables(mine: Results, never: Results, *columns: str) -> None:
    """The rows of clients say the same of each, and the summary of the strategy."""
    keys = ["strategy", "round", "client_id"]
    one, other = (run.frame("clients").sort_values(keys).dropna(subset=["expert_id"]).reset_index() for run in (mine, never))
    assert len(one) == len(other) > 0
    for column in columns:
        np.testing.assert_allclose(one[column], other[column], rtol=1e-3, atol=1e-6, err_msg=column)


@pytest.mark.parametrize("representation", [IDENTITY, FOURIER, AUTO, {"kind": "trunk"}], ids=["identity", "fourier", "auto", "trunk"])
@pytest.mark.parametrize("experts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_ensemble_is_as_if_the_client_had_never_been(tmp_path: Path, experts: int, representation: dict[str, Any]) -> None:
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "experts": experts, "representation": representation}]
    mine, never = both(tmp_path, strategies)
    before = distance_of_heads(mine, never)
    for name in ("experts.png", "report.html"):
        (mine.directory / name).touch()
    (mine.directory / "scarcity").mkdir()
    chosen = representation["kind"] == "auto"
    done = unlearn(mine, GONE, strict=not chosen)
    assert done.relearned == ["sf_hfe"]
    assert len(done.stays) == chosen
    assert all(one.startswith("models/sf_hfe.safetensors: the choice of its features, identity.") for one in done.stays)
    assert set(done.removed) == {"models/fed_avg.safetensors", "checkpoints", "experts.png", "report.html", "scarcity"}
    assert distance(mine, never, "sf_hfe") < 1e-5 < before
    same_tables(mine, never, "expert_id", "confidence", "contribution", "contribution_whole")
    entries = [run.summary["strategies"]["sf_hfe"]["experts"] for run in (mine, never)]
    assert [one["clients"] for one in entries[0]] == [one["clients"] for one in entries[1]]
    assert GONE not in mine.clients["client_id"].to_pylist()
    assert GONE not in mine.insights["client_id"].to_pylist()
    assert mine.summary["unlearned"] == [GONE]
    assert mine.models == ["sf_hfe"]
    with pytest.raises(RunError, match="did not take part"):
        unlearn(mine, GONE)


def distance_of_heads(mine: Results, never: Results) -> float:
    found, wanted = (run.ensemble().whole for run in (mine, never))
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("representation", [IDENTITY, AUTO], ids=["identity", "auto"])
def test_with_forgetting_the_messages_of_all_rounds_are_read(tmp_path: Path, representation: dict[str, Any]) -> None:
    own = {"kind": "sf_hfe", "experts": 1, "forgetting": 0.5, "representation": representation}
    drift = {"drift": {"round": 3, "share": 0.5}}
    mine, never = both(tmp_path, [own], rounds=4, data=drift)
    before = distance_of_heads(mine, never)
    unlearn(mine, GONE, strict=representation is IDENTITY)
    assert distance(mine, never, "sf_hfe") < 1e-5 < before
    same_tables(mine, never, "expert_id", "confidence", "contribution", "contribution_whole")


@pytest.mark.parametrize("kind", ["spread", "evidence"])
def test_a_bandwidth_of_all_clients_is_named(tmp_path: Path, kind: str) -> None:
    own = {"kind": "sf_hfe", "experts": 1, "representation": FOURIER | {"bandwidth": kind}}
    mine, never = both(tmp_path, [own])
    before = content(mine.directory)
    with pytest.raises(RunError, match=r"nothing was changed.*there would stay.*bandwidth"):
        unlearn(mine, GONE, strict=True)
    assert content(mine.directory) == before
    old, wanted = (run.tensors("sf_hfe")["representation.frequencies"].norm() for run in (mine, never))
    (stays,) = unlearn(mine, GONE).stays
    assert "the bandwidth of its Fourier features" in stays
    assert f"{float(old / wanted):.4g} times as large" in stays
    assert distance_of_heads(mine, never) < 0.01


@pytest.mark.parametrize("settings", [{}, {"strength": 3.0, "column_norms": True}], ids=["auto", "fed3r"])
def test_afl_is_replayed(tmp_path: Path, settings: dict[str, Any]) -> None:
    mine, never = both(tmp_path, [{"kind": "afl", "representation": FOURIER, **settings}])
    before = distance(mine, never, "afl")
    done = unlearn(mine, GONE, strict=True)
    assert done.relearned == ["afl"]
    assert distance(mine, never, "afl") < 1e-5 < before
    found, wanted = (run.summary["strategies"]["afl"] for run in (mine, never))
    for name in ("strength", "scale", "clients", "rows"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-6), name


@pytest.mark.parametrize("personal", [True, False], ids=["personal", "global"])
def test_prototypes_are_replayed(tmp_path: Path, personal: bool) -> None:
    own = {"kind": "prototypes", "personal": personal, "representation": FOURIER}
    mine, never = both(tmp_path, [own], data={"partition": {"kind": "quantity_skew", "sigma": 1.2}})
    done = unlearn(mine, GONE, strict=True)
    assert done.relearned == ["prototypes"]
    assert distance(mine, never, "prototypes") < 1e-5
    found, wanted = (run.summary["strategies"]["prototypes"] for run in (mine, never))
    assert found["temperature"] == pytest.approx(wanted["temperature"], rel=1e-6)
    assert found["left_out"] == wanted["left_out"]


def test_models_of_clients_alone_lose_the_clients_and_others_are_removed(tmp_path: Path) -> None:
    kinds = ("local_only", "insight_exchange", "fed_avg", "ditto", "fed_per")
    strategies: list[dict[str, Any]] = [{"kind": kind} for kind in kinds]
    strategies += [{"kind": "insight_exchange", "name": "unguided", "guide": False}]
    strategies += [{"kind": "fed_glm", "strength": 0.01, "rounds": 3}]
    mine, never = both(tmp_path, strategies)
    assert mine.summary["strategies"]["fed_glm"]["coefficients"]
    assert (mine.directory / "coefficients.csv").exists()
    done = unlearn(mine, GONE, strict=True)
    assert mine.models == done.cut == ["local_only", "unguided"]
    for name in done.cut:
        assert distance(mine, never, name) == 0.0
    assert "models/insight_exchange.safetensors" in done.removed
    assert "coefficients" not in mine.summary["strategies"]["fed_glm"]
    assert not (mine.directory / "coefficients.csv").exists()
    assert not (mine.directory / "checkpoints").exists()


def test_a_trained_trunk_is_refused(tmp_path: Path) -> None:
    trunk = {"representation": {"kind": "trunk", "rounds": 2}}
    results = simulate(scenario(strategies=[{"kind": "sf_hfe", **trunk}, {"kind": "afl", **trunk}]), out=tmp_path / "run")
    before = content(results.directory)
    with pytest.raises(RunError, match=r"sf_hfe\.safetensors cannot be without the client: its trunk was trained by 2 rounds of fed_avg"):
        unlearn(results, 3)
    (results.directory / "models" / "sf_hfe.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model that could be without client 3.*models/afl\.safetensors: its trunk"):
        unlearn(results, 3)
    after = content(results.directory)
    assert after.items() <= before.items()


def test_messages_that_were_not_kept_cannot_be_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scarcity_ray.actors.meta_learner.KEPT_BYTES", 0)
    kinds = ({"kind": "afl", "representation": IDENTITY}, {"kind": "local_only"}, {"kind": "sf_hfe", "representation": IDENTITY})
    results = simulate(scenario(strategies=list(kinds)), out=tmp_path / "run")
    with pytest.raises(RunError, match="messages were not kept"):
        unlearn(results, 3)
    (results.directory / "models" / "sf_hfe.safetensors").unlink()
    done = unlearn(results, 3)
    assert done.cut == ["local_only"]
    assert "not kept" in done.removed["models/afl.safetensors"]
    assert "strength" not in results.summary["strategies"]["afl"]


def test_a_run_whose_models_all_clients_trained_is_refused(tmp_path: Path) -> None:
    results = simulate(scenario(), out=tmp_path / "run")
    before = content(results.directory)
    with pytest.raises(RunError, match="no model that could be without client 0"):
        unlearn(results, 0)
    assert content(results.directory) == before


def test_a_full_disk_leaves_what_another_call_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = [{"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}, {"kind": "local_only"}, {"kind": "fed_avg"}]
    runs = [simulate(scenario(strategies=strategies), out=tmp_path / name / "run") for name in ("whole", "cut")]

    def fails(*_: Any) -> None:
        raise OSError("no space left")

    for place in ("replace_table", "write_whole", "save_sealed"):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[unlearn.__module__], place, fails)
            with pytest.raises(OSError, match="no space left"):
                unlearn(runs[1], 3)
    for run in runs:
        unlearn(run, 3)
    for name in ("sf_hfe", "local_only"):
        assert distance(*runs, name) == 0.0
    assert runs[0].insights.num_rows == runs[1].insights.num_rows
    assert [run.summary["unlearned"] for run in runs] == [[3], [3]]
    assert runs[0].models == runs[1].models == ["local_only", "sf_hfe"]


def test_the_last_two_clients_stay(tmp_path: Path) -> None:
    data = {"source": {"kind": "digits"}, "clients": 4, "partition": {"kind": "iid"}}
    strategies = [{"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}, {"kind": "local_only"}]
    results = simulate(scenario(data=data, strategies=strategies), out=tmp_path / "run")
    assert unlearn(results, 0).relearned == ["sf_hfe"]
    assert unlearn(results, 2).relearned == ["sf_hfe"]
    assert results.ensemble().client_id.tolist() == [1, 3]
    assert results.summary["unlearned"] == [0, 2]
    before = content(results.directory)
    refused = CliRunner().invoke(app, ["unlearn", str(results.directory), "--client", "1"])
    assert refused.exit_code == 2
    assert "a single client would be left" in refused.output
    assert content(results.directory) == before


def named(results: Results, model: str) -> tuple[str, ...]:
    return results.encoding(model).clients or ()


def test_every_seed_loses_the_client_of_that_name(tmp_path: Path) -> None:
    pq.write_table(hospital_rows(), tmp_path / "stays.parquet")
    data = {
        "source": {"kind": "table", "path": str(tmp_path / "stays.parquet"), "label": "days", "client": "site"},
        "held_out_clients": 0.1,
    }
    strategies = [{"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}, {"kind": "afl", "representation": IDENTITY}]
    results = simulate(scenario(data=data, strategies=strategies, repeats=3), out=tmp_path / "run")
    places = {site: {named(results, name).index(site) for name in results.models if site in named(results, name)} for site in SITES}
    gone = next(site for site, ids in places.items() if len(ids) > 1)
    unlearn(results, gone)
    assert gone not in results.clients["client"].to_pylist()
    assert not any(gone in named(results, name) for name in results.models)
    entry = results.summary["strategies"]["afl"]
    assert entry["rows"] == pytest.approx(np.mean([one["rows"] for one in entry["seeds"].values()]))
    assert entry["std"]["rows"] == pytest.approx(np.std([one["rows"] for one in entry["seeds"].values()], ddof=1))
    assert all(4 <= one["clients"] <= 5 for one in entry["seeds"].values())


def test_an_unlearned_client_of_a_table_is_a_stranger_afterwards(tmp_path: Path) -> None:
    pq.write_table(hospital_rows(), tmp_path / "stays.parquet")
    source = {"kind": "table", "path": str(tmp_path / "stays.parquet"), "label": "days", "client": "site"}
    strategies = [{"kind": "local_only"}, {"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}]
    results = simulate(scenario(rounds=1, data={"source": source}, model={"kind": "linear"}, strategies=strategies), out=tmp_path / "run")
    read, program = results.encoding(), CliRunner()
    strict = program.invoke(app, ["unlearn", str(results.directory), "--client", "hill", "--strict"])
    assert strict.exit_code == 2
    assert "means and standard deviations of age, dose, days and the words of ward" in strict.output
    assert results.encoding() == read
    first = program.invoke(app, ["unlearn", str(results.directory), "--client", "hill"])
    assert first.exit_code == 0, first.output
    for said in ("learned again without it: sf_hfe", "do not depend on it: local_only", "stays: how every model reads tables", MEASURED):
        assert said in first.output
    again = program.invoke(app, ["unlearn", str(results.directory), "--client", "hill"])
    assert again.exit_code == 2
    assert "did not take part" in again.output
    assert all("hill" not in named(results, name) for name in results.models)
    assert results.encoding().inputs == read.inputs  # as it says
    rows = hospital_rows(20, seed=5)
    with pytest.raises(UnknownClient, match="client hill did not take part"):
        predict(results, rows, client="hill")
    with pytest.raises(UnknownClient, match="client hill did not take part"):
        predict(results, rows, model="local_only", client="hill")
    joined = predict(results, rows, client="hill", labelled=hospital_rows(9, seed=6))
    assert joined.schema.metadata[b"answered_by"] == b"a new head for client hill, made from 9 labelled rows"
    assert predict(results, rows, client="coast").schema.metadata[b"answered_by"] == b"the head of client coast"
