"""The scenarios that are shipped: they load, say what they are for, and their schema is the program's."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pyarrow.csv
import pytest

from scarcity_ray.data import deal
from scarcity_ray.models import build
from scarcity_ray.scenario import json_schema, load, parse, plain_yaml, resolved

FOLDER = Path(__file__).parents[2] / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenarios beside the table that own_data.yaml wants."""
    folder = tmp_path_factory.mktemp("scenarios")
    for file in FILES:
        shutil.copy(file, folder)
    hospitals = runpy.run_path(str(FOLDER / "make_own_data.py"))["hospitals"]
    pyarrow.csv.write_csv(hospitals(), folder / "own_data.csv")
    return folder


def test_which_are_shipped() -> None:
    names = [
        "budget",
        "drift",
        "hospitals",
        "leaf_synthetic",
        "noniid",
        "own_data",
        "phones",
        "rotated",
        "schools",
        "seed",
        "stragglers",
        "strangers",
        "ten_thousand",
        "thousand",
        "villages",
    ]
    assert [file.stem for file in FILES] == names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_says_what_it_is_for(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=./schema.json"
    opening = "\n".join(line for line in lines if line.startswith("#"))
    assert "# Question  " in opening
    assert f"python -m scarcity_ray.run scenarios/{file.name}" in opening
    assert "# Outcome   " in opening
    assert load(file).scenario.name == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_data_can_be_dealt_and_its_model_built(file: Path, folder: Path) -> None:
    loaded = load(folder / file.name)
    scenario = loaded.scenario
    federation = deal(scenario.data, scenario.seed, loaded.base_dir)
    assert federation.clients >= 5
    assert federation.train.counts.min() >= 1
    if scenario.model is not None:
        build(scenario.model, federation.shape, federation.outputs, scenario.seed)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_resolved_it_is_the_same_scenario(file: Path) -> None:
    scenario = load(file).scenario
    assert parse(plain_yaml.read(resolved(scenario), "file").data) == scenario


def test_the_schema_beside_them_is_current() -> None:
    shipped = json.loads((FOLDER / "schema.json").read_text())
    assert shipped == json_schema(), "write it again: scarcity-ray schema > scenarios/schema.json"


def test_every_field_has_a_line_of_help() -> None:
    schema = json_schema()
    sections = {"Scenario": schema, **schema["$defs"]}
    helpless = [
        f"{name}.{field}"
        for name, section in sections.items()
        for field, about in section.get("properties", {}).items()
        if field != "kind" and not about.get("description")
    ]
    assert not helpless
    assert "default" in sections["Execution"]["properties"]["ray"]
