"""What a cluster offers, what it is asked for, and which actor goes where; on real nodes, all in one machine.

Ray allows a process one session, and tests share one: each `on_...` below runs in a process and a Ray folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from helpers.scenarios import scenario
from helpers.side_by_side import side_by_side
from hypothesis import given
from hypothesis import strategies as st
from ray.cluster_utils import FAKE_HEAD_NODE_ID, Cluster

from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime import ray_nodes
from scarcity_ray.runtime.placement import NodeResources, cpus_each, spread
from scarcity_ray.runtime.plan import ACTOR_BYTES, RunPlan, prepare
from scarcity_ray.runtime.plan_in_words import plan_in_words
from scarcity_ray.scenario import SpecErrors, parse

ROOT = Path(__file__).parents[2]
STORE = 100 << 20
MILLION = 10**6


def ended(probe: Callable[[], None]) -> None:
    """Runs a function of this file in a process of its own, and ends what its cluster leaves running."""
    with tempfile.TemporaryDirectory() as folder:  # short: Ray's sockets are in it, and their paths may have 107 letters
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "disabled",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        code = f"import test_nodes; test_nodes.{probe.__name__}()"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, timeout=240
            )
        finally:
            import psutil  # Ray's own

            for process in psutil.process_iter(["cmdline"]):
                if any(folder + "/ray/" in part for part in process.info["cmdline"] or []):
                    process.kill()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]


@contextmanager
def head(**settings: Any) -> Iterator[Cluster]:
    """A cluster of a head without CPUs, joined by this process. Its nodes share one address and differ by id."""
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 1000}
    system = health | {"health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": system} | settings,
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def cpus(slots: list[NodeResources]) -> list[int]:
    return [slot.cpus for slot in slots]


@ray.remote(num_cpus=1)
class Reader:
    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def total(self, rows: np.ndarray) -> float:
        self.rows = rows  # as a Client holds its shards
        return float(rows[::1000].sum())


def on_two_nodes() -> None:
    assert not ray_nodes.on_cluster()
    with head() as cluster:
        for count in (1, 2):
            last = cluster.add_node(num_cpus=count, object_store_memory=STORE)
        there = ray_nodes.nodes()
        assert cpus(there) == [2, 1]
        assert all(slot.memory > STORE for slot in there)

        assert ray_nodes.on_cluster()
        assert [ray_nodes.cluster_address(address) for address in (None, "local", "ray://a:1")] == ["auto", None, "ray://a:1"]

        assert ray_nodes.request(3, 300, pytest.fail) == there  # it is there: nobody waits
        lines: list[str] = []
        assert ray_nodes.request(8, 300, lines.append) == there  # nothing adds nodes here: it returns before the end
        assert lines[0] == "waiting for CPUs of the cluster: 3 of 8, 0 s of at most 300 s"
        groups = ray.util.placement_group_table().values()
        assert {group["state"] for group in groups} == {"REMOVED"}

        readers = [Reader.options(scheduling_strategy=place).remote() for place in ray_nodes.placements(3, there)]
        assert ray.get([reader.node.remote() for reader in readers]) == [there[0].node, there[0].node, there[1].node]
        shards = ray.put(np.ones(5 * MILLION, dtype=np.float32))
        assert ray.get([reader.total.remote(shards) for reader in readers]) == [5000.0] * 3
        # A node's object store holds an object once, and its actors map it: so once on each node, the driver's included.
        held = ray.experimental.get_object_locations([shards])[shards]["node_ids"]
        assert sorted(held) == sorted(node["NodeID"] for node in ray.nodes())
        for reader in readers:
            ray.kill(reader)

        plan = dry_run()
        assert any(line.endswith("3 Client (Ray actors) on 3 of 3 CPUs of 2 nodes; asks the cluster for 12 CPUs and waits at most 300 s")
                   for line in plan), plan  # fmt: skip
        nodes = [line.split(maxsplit=3) for line in plan if line.startswith("# node ")]
        assert [node[2] for node in nodes] == [slot.node[:12] for slot in there]
        assert [node[3].partition(" (")[0] for node in nodes] == ["2 actors, 8 clients", "1 actors, 4 clients"]

        cluster.remove_node(last, allow_graceful=False)
        while cpus(ray_nodes.nodes()) != [1]:  # it is known as dead soon
            time.sleep(0.1)
        assert {node["Alive"] for node in ray.nodes()} == {True, False}


def dry_run() -> list[str]:
    """The plan that the program prints on a cluster, of a scenario that says nothing of one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.yaml")
        path.write_text(json.dumps(scenario(execution={})))
        command = [sys.executable, "-m", "scarcity_ray.run", "run", str(path), "--dry-run"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def on_a_cluster_that_grows() -> None:
    with head(no_monitor=True) as cluster:  # an autoscaler that never says that nothing comes
        lines: list[str] = []
        assert ray_nodes.request(2, 1.5, lines.append) == []
        assert [line.partition(",")[0] for line in lines] == ["waiting for CPUs of the cluster: 0 of 2"] * len(lines)
        assert lines

        waits = threading.Event()
        with ThreadPoolExecutor() as other:  # Ray starts nodes from the main thread only
            answer = other.submit(ray_nodes.request, 2, 100, lambda line: waits.set())
            assert waits.wait(60)
            cluster.add_node(num_cpus=2, object_store_memory=STORE)
            there = answer.result()
        assert cpus(there) == [2]
        assert ray_nodes.offered(None) == there


def on_an_autoscaler() -> None:
    """At most 3 nodes of 2 CPUs: all come, although 8 CPUs are asked for."""
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True,
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2, "object_store_memory": STORE}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    }
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands")
    more = ("worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")
    settings = {
        **{name: [] for name in lists + more},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        "cluster_name": "fake",
        "max_workers": 3,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "file_mounts_sync_continuously": False,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
    }
    path = Path(os.environ["RAY_TMPDIR"], "fake.json")
    path.write_text(json.dumps(settings))
    os.environ |= {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
    identity = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    with head(autoscaling_config=str(path), gcs_server_port=int(address.split(":")[1]), env_vars=identity):
        assert cpus(ray_nodes.request(8, 100, print)) == [2, 2, 2]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


PROBES = (on_two_nodes, on_a_cluster_that_grows, on_an_autoscaler)


@pytest.fixture(scope="module")
def probed() -> dict[Callable[[], None], Future[None]]:
    return side_by_side(ended, PROBES)


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_nodes(probe: Callable[[], None], probed: dict[Callable[[], None], Future[None]]) -> None:
    probed[probe].result()


@pytest.mark.parametrize(
    ("named", "left", "found"),
    [
        (None, None, False),
        (None, "127.0.0.1:6379", False),  # of a cluster that was not stopped: no raylet of it runs here
        ("", None, False),
        ("local", None, False),
        ("http://127.0.0.1:8265", None, False),
        ("10.0.0.1:6379", None, True),  # as in the driver of a job
        ("auto", None, True),
    ],
)
def test_a_laptop_is_no_cluster(named: str | None, left: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named is not None:
        monkeypatch.setenv("RAY_ADDRESS", named)
    if left is not None:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(left)
    assert ray_nodes.on_cluster() is found


some_slots = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(
    lambda sizes: [NodeResources(f"{i:056x}", size) for i, size in enumerate(sizes)]
)


@given(st.integers(1, 80), some_slots)
def test_every_actor_has_a_place_and_no_node_too_many(count: int, slots: list[NodeResources]) -> None:
    places = [place.node_id for place in ray_nodes.placements(count, slots)]
    dealt = [places.count(slot.node) for slot in slots]
    assert places == [slot.node for slot, actors in zip(slots, dealt, strict=True) for _ in range(actors)], "node after node"
    assert sum(dealt) == count
    offered = sum(slot.cpus for slot in slots)
    for slot, actors in zip(slots, dealt, strict=True):
        assert abs(actors - count * slot.cpus / offered) < 1, "its share"
        assert actors <= slot.cpus or all(a >= s.cpus for a, s in zip(dealt, slots, strict=True)), "others have free CPUs"
        assert actors * round(1e4 * cpus_each(count, slots)) <= slot.cpus * 10_000, "there is no room for all that belong here"


def test_seven_actors_on_three_and_two_cpus() -> None:
    slots = [NodeResources("a", 3), NodeResources("b", 2)]
    assert spread(7, slots) == [4, 3]  # 4.2 and 2.8
    assert cpus_each(7, slots) == 0.6666  # of 2 CPUs for 3; 5/7 each would need 2.14 of them
    assert cpus_each(4, slots) == 1.0
    with pytest.raises(ValueError, match="no node offers CPUs"):
        spread(1, [])


def planned(**execution: Any) -> RunPlan:
    return prepare(parse(scenario(execution={"address": "auto", **execution})), Path())


@pytest.mark.parametrize(
    ("execution", "wanted", "actors", "share"),
    [
        ({}, 12, 5, 1.0),
        ({"cpus": 3}, 3, 3, 1.0),
        ({"actors": 4}, 4, 4, 1.0),
        ({"clients_per_actor": 2}, 6, 6, 0.75),  # 4 of them on 3 CPUs
        ({"cpus": 2, "actors": 4}, 2, 4, 0.5),
    ],
)
def test_a_plan_is_cut_for_the_cpus_there_are(execution: dict[str, Any], wanted: int, actors: int, share: float) -> None:
    plan = planned(**execution)
    assert (plan.wanted, plan.slots) == (wanted, ())
    assert dict(plan_in_words(plan))["actors"].startswith(f"one Client (Ray actor) for each CPU, at most {wanted}: asks the cluster")
    there = plan.on([NodeResources("a", 3), NodeResources("b", 2)])
    assert (len(there.blocks), there.cpus, there.share) == (actors, min(wanted, 5), share)
    assert np.array_equal(np.sort(np.concatenate(there.blocks)), np.arange(12))
    assert [len(home) for home in there.blocks] == [len(home) for home in plan.sized(5).blocks]


def test_the_plan_says_who_is_where() -> None:
    rows = dict(plan_in_words(planned().on([NodeResources("a" * 20, 2, 4 << 30), NodeResources("b" * 20, 1)])))
    assert rows["actors"].startswith("3 Client (Ray actors) on 3 of 3 CPUs of 2 nodes")
    assert rows["node aaaaaaaaaaaa"].startswith("2 actors, 8 clients (")
    assert rows["node aaaaaaaaaaaa"].endswith(" of 4,096 MiB")
    assert rows["node bbbbbbbbbbbb"].startswith("1 actors, 4 clients (")
    assert rows["node bbbbbbbbbbbb"].endswith("MiB")


def test_the_plan_calls_clients_by_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "shops.csv").write_text("shop,size,price\n" + "".join(f"{'ab'[i % 2]},{i},{i / 2}\n" for i in range(20)))
    source = {"kind": "table", "path": "shops.csv", "client": "shop", "label": "price", "task": "regression"}
    content = scenario(data={"source": source}, model={"kind": "linear"}, execution={"address": "auto"})
    rows = dict(plan_in_words(prepare(parse(content), tmp_path).on([NodeResources("n" * 20, 2)])))
    assert rows["node nnnnnnnnnnnn"].startswith("2 actors, 2 clients (a, b), ")


def test_a_node_of_too_little_memory_is_refused() -> None:
    small = [NodeResources("large", 2, 1 << 40), NodeResources("small", 1, 2 * ACTOR_BYTES)]
    assert len(planned().on(small).blocks) == 3
    with pytest.raises(SpecError, match=r"^execution.actors is 9: 3 Client actors .* on node small, .* hosts all clients in 1 actors"):
        planned(actors=9).on(small)
    with pytest.raises(SpecError, match=r"^data.clients is 12: .* on node small"):
        planned().on([NodeResources("large", 2, 1 << 40), NodeResources("small", 1, ACTOR_BYTES // 2)])


def test_a_cluster_without_cpus_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^execution.wait_for_cluster is 7.0: no node of the cluster offers a CPU"):
        planned(wait_for_cluster=7.0).on([])


def test_a_machine_of_fewer_cpus_is_refused() -> None:
    many = {"cpus": 100_000, "address": "local"}
    with pytest.raises(SpecErrors, match=r"execution.cpus is 100000: this process may use \d+; allowed: auto, or 1 to"):
        prepare(parse(scenario(execution=many)), Path())
