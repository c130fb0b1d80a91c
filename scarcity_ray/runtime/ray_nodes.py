"""The nodes of a Ray cluster: whether there is one, what it offers, what its autoscaler adds, and which actor goes where."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray._private import ray_constants, services, utils
from ray.experimental import internal_kv
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.placement import NodeResources, spread

_MOST_REQUESTS = 1000  # pending requests that Ray passes to its autoscaler at a time
_POLL = 0.5  # seconds


def cluster_address(address: str | None) -> str | None:
    """The cluster to join, where a scenario's `execution.address` is `address`; None: Ray is started on this machine."""
    if address is None:
        return "auto" if on_cluster() else None
    return None if address == "local" else address


def on_cluster() -> bool:
    """Whether this process is on a node of a running cluster: started by `ray up` or `ray start`, or as a job's driver."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named != "local" and not named.startswith("http")  # an http address is where jobs are submitted, not a cluster to join
    # `ray start` writes the address to a file, which stays after a cluster that was not stopped: a raylet must run here as well.
    # The search for one takes 20 ms or more, so the file is read first.
    left = utils.read_ray_address()
    return bool(left) and left in services.find_gcs_addresses()


def nodes() -> list[NodeResources]:
    """The live nodes that offer a CPU or more, largest first; not a head without CPUs."""
    found = []
    for node in ray.nodes():  # dead ones too
        resources = node["Resources"] if node["Alive"] else {}
        if (cpus := int(resources.get("CPU", 0))) >= 1:
            found.append(NodeResources(node["NodeID"], cpus, int(resources.get("memory", 0) + resources.get("object_store_memory", 0))))
    return sorted(found, key=lambda node: (-node.cpus, node.node))


def join(address: str | None, **settings: Any) -> None:
    """Joins the cluster of a scenario's `execution.address`. Raises SpecError where none answers. settings: of ray.init."""
    try:
        ray.init(address=cluster_address(address), logging_level=logging.ERROR, log_to_driver=False, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SpecError(("execution", "address"), address, f"no cluster answers there: {error}") from None


def offered(address: str | None) -> list[NodeResources]:
    """The nodes that the cluster of a scenario's `execution.address` offers now. Raises SpecError where none answers."""
    started = not ray.is_initialized()
    if started:
        join(address)
    try:
        return nodes()
    finally:
        if started:
            ray.shutdown()


def request(cpus: int, seconds: float, notify: Callable[[str], None]) -> list[NodeResources]:
    """The nodes once they have `cpus` CPUs in all; or those there are after `seconds`, or once the autoscaler has no more to add.

    The autoscaler gets placement groups of one CPU each. Its own `request_resources` is all or nothing (for one CPU more than the
    cluster may have, it starts none), is shared by all users, and stays after a driver that is killed.
    notify: is called about once a second with a line for the user while there is something to wait for.
    """
    there = nodes()
    if sum(node.cpus for node in there) >= cpus or seconds <= 0:
        return there
    started, notified = time.monotonic(), -1
    answers = _answers()
    next(answers)
    requests = [placement_group([{"CPU": 1}]) for _ in range(min(cpus, _MOST_REQUESTS))]
    try:
        while True:
            there, waited = nodes(), time.monotonic() - started
            offered = sum(node.cpus for node in there)
            if offered >= cpus or waited >= seconds or next(answers):
                return there
            if int(waited) > notified:
                notified = int(waited)
                notify(f"waiting for CPUs of the cluster: {offered:,} of {cpus:,}, {waited:.0f} s of at most {seconds:.0f} s")
            time.sleep(min(_POLL, seconds - waited))
    finally:  # the run's actors take the CPUs now, and keep their nodes by that
        for one in requests:
            remove_placement_group(one)


def placements(count: int, nodes: Sequence[NodeResources]) -> list[Any]:
    """Where each of `count` actors is placed, node after node by `spread`; soft: Ray may place it elsewhere once its node is gone."""
    return [
        NodeAffinitySchedulingStrategy(node.node, soft=True)
        for node, dealt in zip(nodes, spread(count, nodes), strict=True)
        for _ in range(dealt)
    ]


def _answers() -> Iterator[bool]:
    """Whether the autoscaler has no more nodes to add, at each `next`; its reports before the first `next` do not count.

    It has none after its second report without nodes that are starting: the first such report may be older than the request.
    """
    known, idle = _report()[0], 0
    yield False
    while True:
        version, coming = _report()
        if version != known:
            known, idle = version, 0 if coming else idle + 1
        yield idle >= 2


def _report() -> tuple[float, bool]:
    """The autoscaler's last report: its number or time, and whether nodes are starting. A report that never changes means nothing.

    A cluster without an autoscaler has a process that only reports. Through a Ray client (ray://) no report can be read.
    """
    gcs = internal_kv.internal_kv_get_gcs_client()
    if gcs is None:
        return 0.0, True
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    if is_autoscaler_v2():
        reply = GetClusterStatusReply()
        reply.ParseFromString(gcs.get_cluster_status(timeout_s=10))
        state = reply.autoscaling_state
        return state.last_seen_cluster_resource_state_version, bool(state.pending_instances or state.pending_instance_requests)
    status = json.loads(internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS) or "{}")
    report = status.get("autoscaler_report")
    return (status["time"], bool(report["pending_nodes"] or report["pending_launches"])) if report else (0.0, True)
