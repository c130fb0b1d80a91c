"""The version of what computes is raised, or somebody has said that results stay as they are."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scarcity_ray.core import computing
from scarcity_ray.core.computing import COMPUTING_VERSION, DIGEST_FILE, PACKAGE, digest

MODULE = '''\
"""A module."""

import math

FACTOR = 2
"""What it multiplies by."""


class Thing:
    """A thing."""

    def area(self, r, *, exact=None):
        """Its area."""
        # in a comment
        return math.pi * r**2 * FACTOR if exact is None else f"{r:.3f} of {exact!r}"
'''


def test_a_change_of_what_computes_says_whether_results_can_change() -> None:
    assert digest() == DIGEST_FILE.read_text().strip(), (
        f"what computes has changed: raise COMPUTING_VERSION (now {COMPUTING_VERSION}) in scarcity_ray/core/computing.py if results can "
        "change, then run `python -m scarcity_ray.core.computing` to write the new digest"
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "thing.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("# in a comment", "# in another,\n        # longer one"),
        lambda text: text.replace('"""A thing."""', '"""Another\n\n    text."""'),
        lambda text: text.replace('"""What it multiplies by."""', ""),
        lambda text: text.replace('"""A module."""\n\n', ""),
        lambda text: text.replace("r**2", "(r ** 2)"),
        lambda text: text.replace("def area(self, r, *, exact=None):", "def area(\n        self, r, *, exact=None\n    ):"),
        lambda text: text.replace('f"{r:.3f} of {exact!r}"', "f'{r:.3f} ' f'of {exact!r}'"),
        lambda text: text.replace("FACTOR = 2", "FACTOR = 0x2"),
    ],
)
def test_how_it_is_written_does_not_matter(edit: Callable[[str], str], package: Path) -> None:
    before = digest(package)
    assert edit(MODULE) != MODULE
    (package / "training" / "thing.py").write_text(edit(MODULE))
    assert digest(package) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "FACTOR = 2.0"),
        ("FACTOR = 2", "FACTOR = True"),
        ("r**2", "r**3"),
        ("* r**2 * FACTOR", "* (r**2 * FACTOR)"),
        ("exact=None)", "exact=0)"),
        ("self, r, *, exact", "self, r, exact"),
        ("is None", "is not None"),
        ("{exact!r}", "{exact!s}"),
        (":.3f}", ":.4f}"),
        (" of ", " off "),
        ("import math", "import cmath as math"),
        ("return math", "math"),
        ("import math", "import math\n\nmath.pi = 3"),
    ],
)
def test_what_it_does_matters(old: str, new: str, package: Path) -> None:
    before = digest(package)
    assert old in MODULE
    (package / "training" / "thing.py").write_text(MODULE.replace(old, new, 1))
    assert digest(package) != before


def test_each_module_that_computes_is_in_it_and_no_other(package: Path) -> None:
    before = digest(package)
    for folder in ("runtime", "results", "report", "scenario", "serving"):
        (package / folder).mkdir()
        (package / folder / "thing.py").write_text(MODULE)
    (package / "run.py").write_text(MODULE)
    (package / "training" / "notes.txt").write_text("no module")
    assert digest(package) == before
    found = {before}
    for folder in ("actors", "core", "data", "ensemble", "models", "schedules", "strategies", "training/inner", "uplink"):
        (package / folder).mkdir()
        (package / folder / "other.py").write_text(MODULE)
        found.add(digest(package))
    (package / "training" / "thing.py").rename(package / "training" / "renamed.py")
    found.add(digest(package))
    assert len(found) == 11


def test_no_folder_of_the_package_is_forgotten() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    assert folders - {*computing._FOLDERS} == {"commands", "report", "results", "runtime", "scenario", "serving", "tuning"}


def test_two_versions_of_python_cut_f_strings_in_different_places() -> None:
    whole, cut = ast.parse('f"one two {x} three"'), ast.parse('f"one two {x} three"')
    text = next(node for node in ast.walk(cut) if isinstance(node, ast.JoinedStr))
    text.values[:1] = [ast.Constant("one "), ast.Constant("two ")]
    assert ast.dump(whole) != ast.dump(cut)
    assert "".join(computing._written(whole)) == "".join(computing._written(cut))


def test_the_command_that_the_message_names_writes_the_digest(tmp_path: Path) -> None:
    copy = shutil.copytree(PACKAGE, tmp_path / "scarcity_ray", ignore=shutil.ignore_patterns("__pycache__"))
    written = copy / DIGEST_FILE.relative_to(PACKAGE)
    written.write_text("another\n")
    (copy / "training" / "local.py").write_text("x = 1\n")
    command = [sys.executable, "-m", "scarcity_ray.core.computing"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert written.read_text() == f"{digest(copy)}\n" != f"{digest()}\n"
