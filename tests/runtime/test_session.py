"""Several scenarios in one process: Ray is started once, equal data are put once, and results are those of separate runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate
from scarcity_ray.runtime.fleet import LocalLauncher
from scarcity_ray.runtime.session import Session
from scarcity_ray.runtime.simulation import RunFailed

ROOT = Path(__file__).parents[2]
LOCAL = {"epochs": 1, "batch_size": 8}
FOURIER = {"kind": "random_fourier", "features": 8}
TWELVE: list[dict[str, Any]] = [
    *({"strategies": [{"kind": "fed_avg", "fraction": 0.5}], "local": LOCAL | {"lr": lr}} for lr in (0.05, 0.1, 0.2)),
    *({"strategies": [{"kind": "local_only"}], "local": LOCAL | {"lr": lr}} for lr in (0.05, 0.2)),
    {"strategies": [{"kind": "reptile"}]},
    {"strategies": [{"kind": "per_fed_avg", "alpha": 0.1}]},
    {"strategies": [{"kind": "hier_fed_avg", "period": 2}]},
    {"strategies": [{"kind": "ifca", "experts": 2}]},
    {"strategies": [{"kind": "insight_exchange"}]},  # the first that needs a MetaLearner
    {"strategies": [{"kind": "gradient_exchange", "dimensions": 20}]},
    {"strategies": [{"kind": "sf_hfe", "experts": 2, "representation": FOURIER}]},  # the first that needs Experts
]
"""Changes to the small scenario; data and seed are those of all."""

PROGRAM = """
import json, os, sys
from pathlib import Path
import ray
from scarcity_ray import simulate
from scarcity_ray.runtime.ray_fleet import RayLauncher
from scarcity_ray.runtime.session import Session

counts = {"ray": 0, "data": 0}
init, put = ray.init, RayLauncher.put

def counted_init(*settings, **more):
    counts["ray"] += 1
    return init(*settings, **more)

def counted_put(self, value):
    counts["data"] += 1
    return put(self, value)

ray.init, RayLauncher.put = counted_init, counted_put
with Session() as session:
    for number, content in enumerate(json.loads(Path("scenarios.json").read_text())):
        simulate(content, out=f"run{number}", session=session)
    files = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        simulate(content, out=f"again{number}", session=session)
    counts["files"] = len(os.listdir("/proc/self/fd")) - files
print(json.dumps(counts))
"""


def hashes(results: Results) -> dict[str, str]:
    return {name: entry["result_hash"] for name, entry in results.summary["strategies"].items()}


def test_no_run_keeps_a_file_open(tmp_path: Path) -> None:
    simulate(scenario(), out=tmp_path / "first")  # it loads fonts, which stay open
    before = os.listdir("/proc/self/fd")
    for place in range(3):
        simulate(scenario(), out=tmp_path / str(place))
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.slow
def test_twelve_scenarios_start_ray_once_and_put_their_data_once(tmp_path: Path) -> None:
    on_ray = [scenario(**changes, execution={"ray": True, "cpus": 2}) for changes in TWELVE]
    (tmp_path / "scenarios.json").write_text(json.dumps(on_ray))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"ray": 1, "data": 1, "files": 0}
    for number, changes in enumerate(TWELVE):
        alone = simulate(scenario(**changes), out=tmp_path / f"alone{number}")
        assert hashes(Results.load(tmp_path / f"run{number}")) == hashes(alone), changes


class Counts:
    """What local launchers were asked for: data put, and actors of each class started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data, self.launched = 0, list[str]()
        put, launch = LocalLauncher.put, LocalLauncher.launch

        def counted_put(launcher: LocalLauncher, value: Any) -> Any:
            self.data += 1
            return put(launcher, value)

        def counted_launch(launcher: LocalLauncher, worker: type, orders: Any, **more: Any) -> Any:
            self.launched.append(f"{len(orders)} {worker.__name__}")
            return launch(launcher, worker, orders, **more)

        monkeypatch.setattr(LocalLauncher, "put", counted_put)
        monkeypatch.setattr(LocalLauncher, "launch", counted_launch)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


def test_other_data_are_put_again(counts: Counts, tmp_path: Path) -> None:
    data = scenario()["data"]
    changes: list[dict[str, Any]] = [
        {},
        {"strategies": [{"kind": "local_only"}]},
        {"data": data | {"clients": 6}},
        {"seed": 4},
        {"seed": 4, "repeats": 2},
    ]
    with Session() as session:
        together = [hashes(simulate(scenario(**one), out=tmp_path / str(place), session=session)) for place, one in enumerate(changes)]
    assert counts.data == 4  # 12 clients under seed 3, 6 clients, seed 4 once for two runs, seed 5
    assert counts.launched == ["1 Client", "1 Server"]
    assert together == [hashes(simulate(scenario(**one), out=tmp_path / f"alone{place}")) for place, one in enumerate(changes)]


def test_a_table_that_has_changed_is_put_again(counts: Counts, tmp_path: Path) -> None:
    table = tmp_path / "shops.csv"
    table.write_text("shop,size,price\n" + "".join(f"{shop},{i},{i + 0.5}\n" for shop in "ab" for i in range(6)))
    source = {"kind": "table", "path": str(table), "client": "shop", "label": "price", "task": "regression"}
    content = scenario(data={"source": source}, model={"kind": "linear"}, rounds=1)
    with Session() as session:
        for place in range(2):
            simulate(content, out=tmp_path / str(place), session=session)
        assert counts.data == 1
        table.write_text(table.read_text().replace("a,3,3.5", "a,3,30.5"))
        changed = simulate(content, out=tmp_path / "changed", session=session)
    assert counts.data == 2
    assert hashes(changed) == hashes(simulate(content, out=tmp_path / "alone"))


def test_actors_are_added_or_replaced_where_a_scenario_needs_others(counts: Counts, tmp_path: Path) -> None:
    ensemble = {"kind": "sf_hfe", "experts": 2, "representation": FOURIER}
    with Session() as session:
        for place, changes in enumerate([{}, {"strategies": [ensemble]}, {}, {"execution": {"ray": False, "actors": 3}}]):
            simulate(scenario(**changes), out=tmp_path / str(place), session=session)
    assert counts.launched == ["1 Client", "1 Server", "1 MetaLearner", "1 Expert", "3 Client", "1 Server"]


def test_a_run_that_fails_leaves_the_next_one_new_actors(counts: Counts, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "models").touch()
    with Session() as session:
        first = simulate(scenario(), out=tmp_path / "first", session=session)
        with pytest.raises(RunFailed, match="cannot write to"):
            simulate(scenario(), out=tmp_path / "broken", session=session)
        again = simulate(scenario(), out=tmp_path / "again", session=session)
    assert hashes(first) == hashes(again)
    assert counts.launched == ["1 Client", "1 Server"] * 2
