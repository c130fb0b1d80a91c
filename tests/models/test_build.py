"""The models that YAML names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from scarcity_ray.core.spec import SpecError
from scarcity_ray.models import CNN, MLP, AnyModel, Import, Linear, build


def sizes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()]


def test_shapes() -> None:
    assert sizes(build(Linear(), (10,), 1, 0)) == [(1, 10), (1,)]
    assert sizes(build(Linear(bias=False), (2, 5), 3, 0)) == [(3, 10)]
    assert sizes(build(MLP(hidden=[200]), (784,), 62, 0)) == [(200, 784), (200,), (62, 200), (62,)]
    assert [type(m) for m in build(MLP(hidden=[4, 5], activation="tanh"), (3,), 2, 0)][1::2] == [nn.Tanh, nn.Tanh]


@pytest.mark.parametrize("shape", [(1, 28, 28), (28, 28), (784,)])
def test_the_fedavg_papers_cnn(shape: tuple[int, ...]) -> None:
    """1,663,370 parameters with 10 outputs, as the paper says (section 3)."""
    module = build(CNN(), shape, 10, 0)
    assert sum(p.numel() for p in module.parameters()) == 1_663_370
    assert module(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("spec", "shape", "field"),
    [(CNN(), (5,), "kind"), (CNN(), (2, 2, 8, 8), "kind"), (CNN(), (3, 3), "channels"), (CNN(channels=[4] * 4), (64,), "channels")],
)
def test_a_cnn_needs_images(spec: CNN, shape: tuple[int, ...], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec, shape, 3, 0)
    assert caught.value.field == ("model", field)


@pytest.mark.parametrize("spec", [Linear(), MLP(hidden=[4]), CNN(channels=[2], hidden=3)])
def test_weights_come_from_the_seed_alone(spec: Any) -> None:
    before = torch.random.get_rng_state()
    first = build(spec, (4, 4), 3, 7)
    torch.rand(5)
    again, other = build(spec, (4, 4), 3, 7), build(spec, (4, 4), 3, 8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    torch.random.set_rng_state(before)
    build(spec, (4, 4), 3, 7)
    assert torch.equal(torch.random.get_rng_state(), before)


FACTORIES = """
from torch import nn
VALUE = 3
def good(width=4): return nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))
def raising(): raise KeyError("gone")
def nothing(): return None
def lazy(): return nn.LazyLinear(2)
class Inner:
    @staticmethod
    def make(): return nn.Linear(3, 2)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_models.py").write_text(FACTORIES)
    (tmp_path / "users_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_models", raising=False)
    return "users_models"


def test_import(factories: str) -> None:
    assert sizes(build(Import(path=f"{factories}:good", args={"width": 5}), (3,), 2, 0))[0] == (5, 3)
    assert sizes(build(Import(path=f"{factories}:Inner.make"), (3,), 2, 0)) == [(2, 3), (2,)]


@pytest.mark.parametrize(
    ("path", "args", "shape", "words"),
    [
        ("no_such_module_here:f", {}, (3,), "cannot be imported"),
        ("users_broken:f", {}, (3,), "ZeroDivisionError"),
        ("users_models:goood", {}, (3,), "has no goood"),
        ("users_models:VALUE", {}, (3,), "not a function"),
        ("users_models:raising", {}, (3,), "KeyError"),
        ("users_models:good", {"depth": 2}, (3,), "depth"),
        ("users_models:nothing", {}, (3,), "not a torch.nn.Module"),
        ("users_models:lazy", {}, (3,), "lazy"),
        ("users_models:good", {}, (4,), "fails on a batch"),
        ("users_models:good", {}, (7, 3), "not shape"),
    ],
)
@pytest.mark.usefixtures("factories")
def test_an_import_that_cannot_serve_is_refused(path: str, args: dict[str, Any], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        build(Import(path=path, args=args), shape, 2, 0)
    assert caught.value.field[0] == "model"


@pytest.mark.parametrize(
    "bad", [{"kind": "mpl"}, {"kind": "mlp", "hidden": []}, {"kind": "mlp", "hidden": [0]}, {"kind": "import", "path": "a"}]
)
def test_settings_that_cannot_be_meant_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyModel).validate_python(bad)
