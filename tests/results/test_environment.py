"""What must be the same for a run to come out the same: the environment, and the data."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scarcity_ray.core.computing import COMPUTING_VERSION
from scarcity_ray.core.federation import Array, Encoding, Federation, Shards
from scarcity_ray.results.environment import differences, environment, source
from scarcity_ray.results.files import to_json
from scarcity_ray.results.hashing import fingerprint


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return dict(json.loads(to_json(environment(7))))


def changed(told: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The environment with one value replaced, or (value `...`) left out."""
    other = copy.deepcopy(told)
    *parents, last = path.split(".")
    inner = other
    for name in parents:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return other


def test_an_environment_does_not_differ_from_what_was_written_of_it(told: dict[str, Any]) -> None:
    assert differences(told, environment(7)) == []


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("versions.python", "version of python"),
        ("versions.torch", "version of torch"),
        ("versions.numpy", "version of numpy"),
        ("versions.scipy", "version of scipy"),
        ("versions.scikit-learn", "version of scikit-learn"),
        ("versions.scarcity-ray", "version of scarcity-ray"),
        ("computing", "version of the computing code"),
        ("cpu.model", "processor"),
        ("cpu.architecture", "architecture"),
        ("variables.MKL_CBWR", "MKL_CBWR"),
    ],
)
def test_what_can_change_a_result_is_said_with_both_values(told: dict[str, Any], path: str, word: str) -> None:
    (line,) = differences(changed(told, path, "9.9"), told)
    assert word in line
    assert "9.9 then, " in line
    (line,) = differences(changed(told, path, ...), told)
    assert ": none" in line
    assert " then, " in line


def test_a_run_from_before_there_was_a_version_of_what_computes_is_told_as_such(told: dict[str, Any]) -> None:
    old = changed(told, "computing", ...)
    assert differences(old, told) == [f"version of the computing code: none (an earlier scarcity_ray) then, {COMPUTING_VERSION} now"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("started_at", "2020-01-01T00:00:00+00:00"),
        ("memory_bytes", 1),
        ("cpu.cores", 512),
        ("cpu.usable_cores", 1),
        ("platform", "elsewhere"),
        ("source", "0" * 64),
        ("git", {"revision": "0" * 40, "modified": True}),
        ("versions.ray", "9.9"),
        ("versions.matplotlib", "9.9"),
        ("variables.OMP_NUM_THREADS", "3"),
    ],
)
def test_what_cannot_change_a_result_is_passed_over(told: dict[str, Any], path: str, value: Any) -> None:
    assert differences(changed(told, path, value), told) == []


def test_a_module_that_was_imported_is_named(told: dict[str, Any]) -> None:
    then = told | {"imports": {"my.mod": "1" * 64, "my.same": "2" * 64, "my.gone": "3" * 64, "my.compiled": None}}
    now = told | {"imports": {"my.mod": "4" * 64, "my.same": "2" * 64, "my.new": "5" * 64, "my.compiled": None}}
    assert differences(then, now) == [
        f"module my.mod (SHA-256): {'1' * 64} then, {'4' * 64} now",
        f"module my.gone (SHA-256): {'3' * 64} then, none now",
        f"module my.new (SHA-256): none then, {'5' * 64} now",
    ]


@pytest.mark.parametrize(
    "broken", [{}, {"versions": None, "cpu": [], "variables": "x", "imports": 7}, {"versions": {"torch": {"a": "b" * 10_000}}}]
)
def test_a_broken_environment_differs_and_no_more(told: dict[str, Any], broken: dict[str, Any]) -> None:
    assert len(differences(broken, told)) >= 8
    assert all(len(line) < 300 for line in differences(broken, told))


def test_the_source_is_that_of_every_module(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    module = tmp_path / "inner" / "a.py"

    def now() -> str:
        source.cache_clear()
        return source(tmp_path)

    module.write_text("x = 1\n")
    first = now()
    (tmp_path / "notes.txt").write_text("no module")
    assert now() == first
    module.write_text("x = 2\n")
    second = now()
    module.rename(tmp_path / "a.py")
    assert len({first, second, now()}) == 3


def federation(**changes: Any) -> Federation:
    shard = Shards(np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1]), np.array([0, 2, 6]))
    none = Shards(shard.x[:0], shard.y[:0], np.zeros(3, dtype=np.int64))
    zeros, encoding = np.zeros(2, dtype=np.int64), Encoding(inputs=Array(shape=(2,)))
    return replace(Federation(shard, none, shard, zeros, "classification", 2, 1.0, zeros, zeros, encoding), **changes)


def test_equal_data_have_equal_fingerprints() -> None:
    plain = federation()
    x = np.asfortranarray(np.repeat(plain.train.x, 2, axis=0))[::2]
    x.flags.writeable = False
    assert fingerprint(federation(train=replace(plain.train, x=x))) == fingerprint(plain)


def test_a_fingerprint_that_an_earlier_version_wrote_is_still_the_same() -> None:
    written = "2aa698b0a6062323c5c6a39440b9952fba520fa7f39b6d79dc894d2e812b0386"
    assert fingerprint(federation()) == written


def test_any_change_of_the_data_changes_the_fingerprint() -> None:
    plain = federation()
    x = plain.train.x.copy()
    x[3, 1] = np.nextafter(x[3, 1], np.float32(100))
    others = [
        federation(train=replace(plain.train, x=x)),
        federation(test=replace(plain.train, x=x)),
        federation(train=replace(plain.train, x=plain.train.x.reshape(6, 1, 2))),
        federation(train=replace(plain.train, y=plain.train.y.astype(np.int32))),
        federation(train=replace(plain.train, starts=np.array([0, 3, 6]))),
        federation(group=np.array([0, 1])),
        federation(label_scale=2.0),
        federation(uplink_bytes=np.array([0, 8])),
        federation(encoding=None),
        federation(encoding=Encoding(inputs=Array(shape=(2,)), label="z")),
        federation(unseen=plain.test),
        federation(later=plain, drift_round=3),
        federation(later=plain, drift_round=4),
    ]
    assert len({fingerprint(one) for one in [plain, *others]}) == 1 + len(others)
