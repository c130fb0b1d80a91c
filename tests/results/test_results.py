from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.rows import INSIGHTS, a_round, some_clients

from scarcity_ray import models
from scarcity_ray.results.rebuild import metadata_of
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.strategies import FedAvg, LocalOnly, SfHfe
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem

MLP = models.MLP(hidden=[4])


@pytest.fixture
def problem():
    module = models.build(MLP, (3,), 2, 7)
    rows = np.full(5, 8)
    return make_problem(module, local=Local(lr=0.1), task="classification", outputs=2, shape=(3,), samples=rows, seed=7)


@pytest.fixture
def run(tmp_path):
    with Recorder(tmp_path / "run", "name: x\nrounds: 2\n", {"seed": 7}, INSIGHTS) as recorder:
        yield recorder


def test_what_was_recorded_comes_back(run):
    run.round(a_round(1))
    run.clients(some_clients(1))
    run.finish({"strategies": {}})
    results = Results.load(str(run.directory))
    assert results.scenario == {"name": "x", "rounds": 2}
    assert results.environment == {"seed": 7}
    assert results.summary == {"strategies": {}}
    assert results.clients["test_loss"].to_pylist() == [0.5, 0.25]
    frame = results.frame("rounds")
    assert frame["train_loss"].tolist() == [1.0]
    assert frame["test_loss"].isna().all()
    assert results.table("clients", columns=["client_id"], filters=[("client_id", "=", 1)]).to_pylist() == [{"client_id": 1}]


def test_a_global_model_comes_back_as_a_module(run, problem):
    trained = models.build(MLP, (3,), 2, 99)
    run.model("fed_avg", trained.state_dict(), metadata_of(FedAvg(), MLP, problem), seed=7)
    module = Results.load(run.directory).model("fed_avg")
    x = torch.randn(6, 3)
    assert torch.equal(module(x), trained(x))
    assert not module.training


def test_personal_models_come_back_by_client(run, problem):
    trained = [models.build(MLP, (3,), 2, seed) for seed in (1, 2)]
    stacked = {name: torch.stack([module.state_dict()[name] for module in trained]) for name in trained[0].state_dict()}
    run.model("local_only", {**stacked, "client_id": torch.tensor([4, 9])}, metadata_of(LocalOnly(), MLP, problem), seed=7)
    results = Results.load(run.directory)
    x = torch.randn(6, 3)
    assert torch.equal(results.model("local_only", client=9)(x), trained[1](x))
    with pytest.raises(RunError, match="2 clients; name one"):
        results.model("local_only")
    with pytest.raises(RunError, match="client 5 has none"):
        results.model("local_only", client=5)


def test_personal_heads_share_their_representation(run, problem):
    """Representation once, heads `[clients, ...]`: the module of client 1 has the one and its row of the other."""
    strategy = SfHfe()
    mine = strategy.problem(problem)
    shared = {"representation.frequencies": torch.randn(253, 3), "representation.phases": torch.randn(253)}
    heads = {"head.weight": torch.randn(5, 2, 256), "head.bias": torch.randn(5, 2)}
    run.model("sf_hfe", {**shared, **heads, "client_id": torch.arange(5)}, metadata_of(strategy, None, mine), seed=7)
    state = Results.load(run.directory).model("sf_hfe", client=1).state_dict()
    assert torch.equal(state["representation.frequencies"], shared["representation.frequencies"])
    assert torch.equal(state["head.weight"], heads["head.weight"][1])


def test_a_model_saved_before_inputs_stood_beside_waves_has_waves_alone(run, problem):
    mine = SfHfe().problem(problem)
    metadata = metadata_of(SfHfe(), None, mine)
    assert metadata["strategy"]["representation"].pop("inputs") == "auto"
    tensors = {"representation.frequencies": torch.randn(256, 3), "representation.phases": torch.randn(256)}
    run.model("sf_hfe", {**tensors, "head.weight": torch.randn(2, 256), "head.bias": torch.randn(2)}, metadata, seed=7)
    module, x = Results.load(run.directory).model("sf_hfe"), torch.randn(6, 3)
    waves = torch.cos(x @ tensors["representation.frequencies"].T + tensors["representation.phases"]) * (2 / 256) ** 0.5
    torch.testing.assert_close(module.representation(x), waves)


def test_a_model_saved_without_its_settings_says_so(run):
    run.model("fed_avg", {"w": torch.ones(2)}, {}, seed=7)
    with pytest.raises(RunError, match="does not say what module"):
        Results.load(run.directory).model("fed_avg")


def test_a_model_that_is_not_there_names_those_that_are(run):
    run.model("fed_avg", {"w": torch.ones(2)}, {}, seed=7)
    with pytest.raises(RunError, match="no model 'scaffold'; it has fed_avg"):
        Results.load(run.directory).tensors("scaffold")


def test_a_run_that_goes_on_can_be_read_but_has_no_summary(run):
    run.round(a_round(1))
    run.flush()
    results = Results.load(run.directory)
    assert results.rounds.num_rows == 1
    with pytest.raises(RunError, match="the run has not ended, or was killed"):
        _ = results.summary


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no directory"):
        Results.load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunError, match=r"no scenario\.yaml \(it has notes\.txt\)"):
        Results.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_truncated_table_is_named(run, keep):
    run.round(a_round(1))
    run.flush()
    part = next((run.directory / "rounds.parquet").iterdir())
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"rounds\.parquet cannot be read"):
        _ = Results.load(run.directory).rounds


def test_other_broken_files_are_named(run):
    results = Results.load(run.directory)
    (run.directory / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json cannot be read: it is no JSON"):
        _ = results.summary
    (run.directory / "models" / "fed_avg.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(RunError, match=r"fed_avg\.safetensors cannot be read"):
        results.tensors("fed_avg")
    with pytest.raises(RunError, match="no table 'round'; it has rounds, clients, insights"):
        results.table("round")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(RunError, match=rf"^{tmp_path} cannot be read: Permission denied$"):
        Results.load(tmp_path)
