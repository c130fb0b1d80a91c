"""Reading and writing YAML: plain data by YAML 1.2, with places; overrides; resolved scenarios that load again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray.scenario import ScenarioError, load, parse, plain_yaml, resolved
from scarcity_ray.scenario.diagnostics import nearest

SCENARIO: dict[str, Any] = {
    "name": "small",
    "rounds": 2,
    "data": {"source": {"kind": "digits"}, "clients": 10, "partition": {"kind": "iid"}},
    "model": {"kind": "linear"},
    "strategies": [{"kind": "local_only"}, {"kind": "fed_avg", "fraction": 0.5}],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0", 0),
        ("10_000", 10_000),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("007", "007"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ("-.inf", -math.inf),
        ("{a: [1, {b: c}]}", {"a": [1, {"b": "c"}]}),
    ],
)
def test_values_are_read_as_yaml_1_2_says(text: str, value: Any) -> None:
    data = plain_yaml.read(f"x: {text}", "file").data
    assert data == {"x": value}
    assert type(data["x"]) is type(value)


def test_merged_mappings_and_aliases_are_copies() -> None:
    text = "base: &base {kind: fed_avg, fraction: 0.1}\nlist:\n  - *base\n  - {<<: *base, fraction: 0.2}\n"
    document = plain_yaml.read(text, "file")
    assert not document.problems
    assert document.data["list"] == [{"kind": "fed_avg", "fraction": 0.1}, {"kind": "fed_avg", "fraction": 0.2}]
    assert document.data["list"][0] is not document.data["base"]


def test_every_value_has_its_place() -> None:
    document = plain_yaml.read("a: 1\nb:\n  c: {d: [x, y]}\n", "file")
    places = {".".join(map(str, path)): (place.line, place.column) for path, place in document.places.items()}
    assert places == {"": (1, 1), "a": (1, 1), "b": (2, 1), "b.c": (3, 3), "b.c.d": (3, 7), "b.c.d.0": (3, 11), "b.c.d.1": (3, 14)}
    assert nearest(document.places, ("b", "c", "z", 3)) == document.places["b", "c"]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_<0x1e.~", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(plain)
def test_what_is_written_is_read_again(data: Any) -> None:
    document = plain_yaml.read(plain_yaml.write({"x": data}), "file")
    assert not document.problems
    assert document.data == {"x": data}
    assert repr(document.data) == repr({"x": data})


positive = st.floats(1e-6, 1e6)
words = st.text("aeno0123456789_-", min_size=1, max_size=6)
locals_ = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 64), "lr": positive}, optional={"clip_norm": st.none() | positive}
) | st.builds(lambda steps, decay: {"steps": steps, "weight_decay": decay}, st.integers(1, 9), positive)
models = st.sampled_from([{"kind": "linear"}, {"kind": "mlp", "hidden": [4, 3], "activation": "tanh"}, {"kind": "cnn"}]) | st.builds(
    lambda path, args: {"kind": "import", "path": f"{path}.x:make", "args": args},
    st.sampled_from(["a", "on", "y"]),
    st.dictionaries(words, st.none() | st.booleans() | st.integers() | words | st.lists(positive, max_size=2), max_size=2),
)
sizes = st.integers(1, 500) | st.builds(lambda mean: {"lognormal": {"mean": mean}}, st.floats(0, 5))
sources = st.sampled_from([{"kind": "digits"}, {"kind": "wine"}, {"kind": "leaf_synthetic"}]) | st.builds(
    lambda size: {"kind": "blobs", "shape": [3, 2], "classes": 4, "samples_per_client": size}, sizes
)
partitions = st.none() | st.sampled_from([{"kind": "iid"}, {"kind": "shards", "classes_per_client": 2}, {"kind": "natural", "minimum": 1}])
cohorts = st.builds(lambda share: {"kind": "fed_avg", "fraction": share}, st.floats(0.01, 1)) | st.just(
    {"kind": "fed_avg", "clients_per_round": 2}
)
several = st.lists(
    st.builds(
        lambda name, strategy, local: {**strategy, "name": name, "local": local},
        words,
        st.sampled_from([{"kind": "local_only"}, {"kind": "pooled"}]) | cohorts,
        st.none() | locals_,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda strategy: strategy["name"],
)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {"name": words, "rounds": st.integers(1, 99), "model": models, "strategies": several},
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "local": locals_,
            "evaluation": st.just({"clients": 3}),
            "output": st.builds(dict, directory=words),
        },
    ),
    sources,
    partitions,
    st.lists(st.sampled_from([{"kind": "affine", "groups": 2}, {"kind": "rotate", "groups": 4}]), max_size=2),
)
def test_a_resolved_scenario_loads_as_the_same(data: dict[str, Any], source: Any, partition: Any, transforms: Any) -> None:
    scenario = parse({**data, "data": {"source": source, "clients": 5, "partition": partition, "transforms": transforms}})
    text = resolved(scenario)
    again = parse(plain_yaml.read(text, "file").data)
    assert again == scenario
    assert resolved(again) == text


def written(path: Path, data: Any = SCENARIO) -> Path:
    path.write_text(plain_yaml.write(data))
    return path


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("rounds=7", ("rounds",), 7),
        ("local.lr=1e-3", ("local", "lr"), 0.001),
        ("local.lr=1", ("local", "lr"), 1.0),
        ("strategies.1.fraction=0.2", ("strategies", 1, "fraction"), 0.2),
        ("strategies.fed_avg.fraction=0.2", ("strategies", 1, "fraction"), 0.2),
        ("strategies.1.fraction=", ("strategies", 1, "fraction"), None),
        ("strategies.2={kind: pooled, name: all}", ("strategies", 2, "name"), "all"),
        ("strategies.2.kind=pooled", ("strategies", 2, "kind"), "pooled"),
        ("data.transforms.0.kind=affine", ("data", "transforms", 0, "groups"), 3),
        ("model={kind: mlp, hidden: [4, 2]}", ("model", "hidden"), [4, 2]),
        ("execution.ray=false", ("execution", "ray"), False),
        ("output.directory=a=b", ("output", "directory"), "a=b"),
        ("output.directory='7'", ("output", "directory"), "7"),
        ("strategies.0.name=yes", ("strategies", 0, "name"), "yes"),
    ],
)
def test_set(option: str, path: tuple[str | int, ...], value: Any, tmp_path: Path) -> None:
    found: Any = load(written(tmp_path / "a.yaml"), [option]).scenario
    for part in path:
        found = getattr(found, part) if isinstance(part, str) else found[part]
    assert found == value
    assert type(found) is type(value)


def test_a_strategys_own_local_training_keeps_the_rest_of_the_scenarios(tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", {**SCENARIO, "local": {"epochs": 5, "batch_size": 8, "lr": 0.3, "clip_norm": 1.0}})
    rest = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1.0, "batch_size": 8}
    scenario = load(path, ["strategies.1.local.lr=0.1"]).scenario
    assert scenario.strategies[0].local is None
    assert scenario.strategies[1].local.model_dump() == {**rest, "epochs": 5, "steps": None, "lr": 0.1}
    scenario = load(path, ["strategies.1.local.steps=3", "local.lr=0.2"]).scenario
    assert scenario.strategies[1].local.model_dump() == {**rest, "epochs": None, "steps": 3, "lr": 0.2}
    # What a run's directory says is all of it, so that another local section beside it changes nothing.
    again = plain_yaml.read(resolved(scenario), "file").data
    assert again["strategies"][1]["local"] == {**rest, "epochs": None, "steps": 3, "lr": 0.2}
    assert parse({**again, "local": {"lr": 9.0, "weight_decay": 1.0}}).strategies == scenario.strategies


def test_a_strategys_whole_local_section_of_an_earlier_run_means_what_it_meant(tmp_path: Path) -> None:
    """Runs that were written before a strategy inherited anything say every field."""
    own = {"epochs": None, "steps": 50, "batch_size": 50, "lr": 0.1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    strategies = [{"kind": "pooled", "local": {**own, "clip_norm": None}}]
    scenario = parse({**SCENARIO, "local": {"epochs": 5, "lr": 0.3, "momentum": 0.9, "clip_norm": 1.0}, "strategies": strategies})
    assert scenario.strategies[0].local.model_dump() == {**own, "clip_norm": None}


def test_set_goes_on_from_what_was_set_before(tmp_path: Path) -> None:
    options = ["strategies.1={kind: pooled}", "strategies.1.name=a", "strategies.1.name=b", "rounds=3"]
    scenario = load(written(tmp_path / "a.yaml"), options).scenario
    assert [strategy.title for strategy in scenario.strategies] == ["local_only", "b"]
    assert scenario.rounds == 3


@pytest.mark.parametrize(
    ("option", "field", "words"),
    [
        ("rounds=2.5", "rounds", "is 2.5; allowed: an integer of at least 1"),
        ("rounds", "", "allowed: section.field=value, as in --set local.lr=0.1"),
        ("data..clients=3", "", "allowed: section.field=value"),
        ("data.cleints=3", "data.cleints", "is not a field here; did you mean clients?"),
        ("lokal.lr=3", "lokal", "is not a field here; did you mean local?"),
        (
            "strategies.7.fraction=0.2",
            "strategies.7",
            "is not in the list, which has 2 items; allowed: an index from 0 to 2 (2 adds an item)",
        ),
        ("strategies.fed_av.fraction=0.2", "strategies.fed_av", "or one of local_only, fed_avg"),
        ("data.clients.lr=3", "data.clients", "is 10, which has no fields; set `data.clients` itself"),
        ("model={kind: mlp", "model", "is not YAML: while parsing a flow mapping"),
        ("model=!!python/name:os.system", "model", "has the tag !!python/name:os.system"),
        ("model={kind: mlp, kind: cnn}", "model.kind", "is given twice; keep one"),
        ("local.lr=.nan", "local.lr", "is .nan; allowed: finite numbers"),
        ("data.partition.kind=dirichlet", "data.partition.alpha", "is missing"),
        ("strategies.1.clients_per_round=2", "strategies.1.clients_per_round", "fraction is given too"),
    ],
)
def test_a_bad_set_names_the_option(option: str, field: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(written(tmp_path / "a.yaml"), [option])
    (problem,) = caught.value.problems
    assert ".".join(map(str, problem.path)) == field
    assert words in problem.message
    if not field.endswith("alpha"):  # missing from what the file says
        assert str(problem.place) == f"--set {option}"
