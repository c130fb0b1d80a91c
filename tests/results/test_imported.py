"""Of what a scenario imports, every file is known that a change of could change a result."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scarcity_ray.results.imported import sources

FILES = {
    "lone.py": "import numpy\nimport beside\nimport scarcity_ray.training.local\nfrom house.cellar import wine\n",
    "beside.py": "import lone\nimport json\n",
    "stranger.py": "x = 1\n",
    "house/__init__.py": "from . import hall\n",
    "house/hall.py": "from .rooms import bed, nothing\n",
    "house/rooms/__init__.py": "nothing = 0\n",
    "house/rooms/bed.py": "from ..cellar import wine\n",
    "house/rooms/unused.py": "",
    "house/cellar.py": "def wine():\n    import house.attic as attic\n    return attic\n",
    "house/attic.py": "",
    "house/outside.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "scarcity_ray" / "training").mkdir(parents=True)  # as in a checkout, where all lies in one folder
    (tmp_path / "scarcity_ray" / "training" / "local.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [one for one in sys.modules if one.partition(".")[0] in ("lone", "beside", "house", "stranger")]:
        del sys.modules[name]


ROOMS = {"house", "house.hall", "house.rooms", "house.rooms.bed", "house.cellar", "house.attic"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("stranger:x", {"stranger"}),
        ("house.cellar:wine", ROOMS),
        ("house:hall", ROOMS),
        ("house.outside:it", ROOMS | {"house.outside"}),
        ("lone:beside", ROOMS | {"lone", "beside"}),
    ],
)
def test_what_is_imported_from_beside_a_module_is_found(path: str, names: set[str], folder: Path) -> None:
    importlib.import_module(path.partition(":")[0])
    found = sources([path])
    assert list(found) == sorted(names)
    for name, digest in found.items():
        file = folder.joinpath(*name.split("."))
        content = (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_bytes()
        assert digest == hashlib.sha256(content).hexdigest()


def test_a_module_that_cannot_be_parsed_any_more_is_read_as_it_is(folder: Path) -> None:
    importlib.import_module("lone")
    (folder / "lone.py").write_text("import beside (\n")
    assert sources(["lone:x"]) == {"lone": hashlib.sha256(b"import beside (\n").hexdigest()}
    (folder / "lone.py").unlink()
    assert sources(["lone:x"]) == {"lone": None}


def test_of_what_is_installed_only_the_file_is_read_and_of_what_has_none_nothing() -> None:
    import torch

    file = Path(str(torch.nn.__file__))
    assert sources(["torch.nn:Linear", "math:sin", "sys:path", "no.such.module:x", "numpy:array"]) == {
        "math": None,
        "no.such.module": None,
        "numpy": hashlib.sha256(Path(str(importlib.import_module("numpy").__file__)).read_bytes()).hexdigest(),
        "sys": None,
        "torch.nn": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_two_paths_into_one_module_are_read_once(folder: Path) -> None:
    assert list(sources(["stranger:x", "house.attic:y", "stranger:z"])) == sorted(ROOMS | {"stranger"})
    assert sources([]) == {}
