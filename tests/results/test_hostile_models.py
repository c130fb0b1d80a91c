"""Models and modules as a stranger may write them into a run's directory: a clear error, and no code of the directory's is run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from helpers.directories import MODEL, ROWS, forge, refused, told
from helpers.scenarios import scenario
from safetensors.torch import save_file

from scarcity_ray import Results, simulate
from scarcity_ray.results.reading import RunError
from scarcity_ray.results.sealed import load_sealed
from scarcity_ray.run import main
from scarcity_ray.serving import predict


def tensor(name: str, value: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    """Replaces a tensor by what `value` makes of it; None removes it."""

    def change(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name]).contiguous()

    return change


BOMB = {"kind": "mlp", "hidden": [10**9, 10**9], "activation": "relu"}
FORGERIES = {
    "no metadata": lambda tensors, metadata: metadata.clear(),
    "no tensors": lambda tensors, metadata: tensors.clear(),
    "an unknown strategy": told(strategy__kind="../../etc/passwd"),
    "another strategy": told(strategy={"kind": "fed_avg"}),
    "a strategy's name that climbs": told(strategy__name="../../../tmp/x"),
    "a strategy that is a list": told(strategy=[]),
    "a field of another version": told(strategy__temperature=3),
    "a representation of terabytes": told(strategy__representation__features=8192, problem__shape=[10**9]),
    "features that are not there": told(strategy__representation__features=99),
    "a shape of terabytes": told(problem__shape=[10**6, 10**6]),
    "a negative shape": told(problem__shape=[-64]),
    "a shape of words": told(problem__shape="ab"),
    "another shape": told(problem__shape=[65]),
    "no outputs": told(problem__outputs=0),
    "a billion outputs": told(problem__outputs=10**9),
    "endless outputs": told(problem__outputs=1e300),
    "an unknown task": told(problem__task="mining"),
    "the other task": told(problem__task="regression"),
    "no seed": told(seed=None),
    "a seed too large": told(seed=2**80),
    "a model of exabytes": told(model=BOMB),
    "twenty thousand layers": told(model={"kind": "mlp", "hidden": [1] * 20_000}),
    "a model of words": told(model="linear"),
    "a wrong network": told(model={"kind": "cnn", "channels": [10**9], "hidden": 10**9}),
    "no encoding": told(encoding=None),
    "an encoding of words": told(encoding="x"),
    "an encoding of another shape": told(encoding__inputs={"kind": "array", "shape": [10**9]}),
    "an encoding of fewer classes": told(encoding__classes=[0, 1]),
    "heads of another shape": tensor("ensemble.heads", lambda heads: heads[:, :5]),
    "heads without dimensions": tensor("ensemble.heads", lambda heads: heads.sum()),
    "no heads": tensor("ensemble.heads", None),
    "no whole": tensor("ensemble.whole", None),
    "no scale": tensor("ensemble.scale", None),
    "one scale": tensor("ensemble.scale", lambda scale: scale[:1]),
    "scales of words": tensor("ensemble.scale", lambda scale: scale.to(torch.bool)[:, None]),
    "no noise": tensor("ensemble.noise", lambda noise: noise[:0]),
    "scatters of one": tensor("ensemble.scatters", lambda scatters: scatters[:1]),
    "flat covariances": tensor("ensemble.covariances", lambda found: found[0]),
    "experts that are not there": tensor("ensemble.expert_id", lambda ids: ids + 7),
    "negative experts": tensor("ensemble.expert_id", lambda ids: ids - 9),
    "fractions of experts": tensor("ensemble.expert_id", lambda ids: ids + 0.5),
    "clients beyond counting": tensor("ensemble.client_id", lambda ids: ids + 2**62),
    "negative clients": tensor("ensemble.client_id", lambda ids: ids - 50),
    "one client many times": tensor("ensemble.client_id", lambda ids: ids * 0),
    "fewer clients": tensor("ensemble.client_id", lambda ids: ids[:2]),
    "a router of another shape": tensor("ensemble.density.means", lambda means: means[:, :3]),
    "no router": tensor("ensemble.density.means", None),
    "no representation": tensor("representation.frequencies", None),
    "a representation of another shape": tensor("representation.frequencies", lambda found: found[:3]),
    "no head": tensor("head.weight", None),
    "a head of another shape": tensor("head.weight", lambda weight: weight[..., :2]),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_model_that_does_not_hold_together_is_refused(run: Path, case: str) -> None:
    forge(run, FORGERIES[case])
    assert {"predict", "unlearn"} & refused(run, ("client's model", "predict", "predict for a client", "unlearn")).keys()


ELSEWHERE = """
import pathlib
pathlib.Path({mark!r}).write_text("code of a run directory was run")
def make(**args):
    raise SystemExit("and called")
"""


@pytest.mark.parametrize("where", ["model", "strategy", "both"])
@pytest.mark.parametrize("path", ["stranger:make", "os:system", "builtins:exec", "subprocess:run"])
def test_no_module_is_imported_and_nothing_called_because_a_file_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, path: str
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "stranger.py").write_text(ELSEWHERE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"kind": "import", "path": path, "args": {"command": f"touch {mark}"}}
    for file in (MODEL, "models/fed_avg.safetensors"):
        if where in ("model", "both"):
            forge(run, told(model=model), file)
        if where in ("strategy", "both"):
            forge(run, told(strategy__model=model), file)
    found = refused(run, ("fed_avg", "predict", "unlearn"))
    assert set(found) == {"fed_avg", "predict", "unlearn"}
    assert f"comes from {path}" in found["fed_avg"]
    assert "imports=True" in found["fed_avg"]
    assert not mark.exists()
    assert "stranger" not in sys.modules


def test_a_scenario_that_names_a_module_is_not_run_again_unasked(run: Path, tmp_path: Path) -> None:
    path = run / "scenario.yaml"
    assert Results.load(run).runnable() == path
    path.write_text(path.read_text() + "\nmodel: {kind: import, path: 'os:system', args: {command: touch mark}}\n")
    with pytest.raises(RunError, match="given twice"):
        Results.load(run).runnable()
    path.write_text("strategies: [{kind: fed_avg, model: {kind: import, path: 'os:system', args: {command: touch mark}}}]\n")
    with pytest.raises(RunError, match="comes from os:system"):
        Results.load(run).runnable()
    assert Results.load(run, imports=True).runnable() == path


def test_who_asks_for_his_own_module_gets_it(tmp_path: Path) -> None:
    own = {"kind": "import", "path": "helpers.models:sigmoid_mlp", "args": {"hidden": 5}}
    simulate(scenario(model=own), out=tmp_path / "run")
    with pytest.raises(RunError, match=r"helpers\.models:sigmoid_mlp"):
        Results.load(tmp_path / "run").model("fed_avg")
    assert len(list(Results.load(tmp_path / "run", imports=True).model("fed_avg").parameters())) == 4


def test_a_model_without_a_seal_is_of_another_version(run: Path) -> None:
    tensors, _ = load_sealed(run / MODEL)
    save_file(tensors, run / MODEL, {"format": "pt"})
    assert "not written by this program" in refused(run, ("predict",))["predict"]


@pytest.mark.parametrize("model", ["../sf_hfe", "../../run/models/sf_hfe", "/etc/passwd", "sf_hfe/../sf_hfe", "", ".", "a\0b"])
def test_a_models_name_cannot_climb(run: Path, model: str) -> None:
    shutil.copy(run / MODEL, run / "sf_hfe.safetensors")
    with pytest.raises(RunError, match="has no model"):
        predict(Results.load(run), ROWS, model=model)


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a b", ".hidden", "x" * 200 + "ü"])
def test_a_file_that_no_strategy_is_called_after_is_no_model(run: Path, name: str) -> None:
    shutil.copy(run / MODEL, run / f"models/{name}.safetensors")
    assert Results.load(run).models == ["fed_avg", "sf_hfe"]


@pytest.mark.parametrize("act", ["predict", "unlearn"])
def test_the_program_refuses_in_a_line(run: Path, tmp_path: Path, act: str, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run, told(model={"kind": "import", "path": "os:system", "args": {"command": f"touch {tmp_path}/mark"}}))
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    rest = [str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "out.parquet")] if act == "predict" else ["--client", "3"]
    with pytest.raises(SystemExit) as left:
        main([act, str(run), *rest])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "os:system" in line
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out.parquet").exists()
