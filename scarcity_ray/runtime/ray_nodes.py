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

_ASKED_AT_ONCE = 1000  # pending requests that Ray tells its autoscaler of at a time
_POLL = 0.5  # seconds


def cluster_address(address: str | None) -> str | None:
    """The cluster to join, where a scenario's `execution.address` is `address`; None: Ray is started on this machine."""
    if address is None:
        return "auto" if on_cluster() else None
    return None if address == "local" else address


def on_cluster() -> bool:
    """Whether this process finds itself on a node of a running cluster: started by `ray up` or `ray start`, or as a job's driver."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named != "local" and not named.startswith("http")  # an http address is where jobs are submitted, not a cluster to join
    # `ray start` leaves the address in a file, which outlives a cluster that was not stopped: a raylet must run here as well.
    # Looking for it takes 20 ms or more, so the file comes first.
    left = utils.read_ray_address()
    return bool(left) and left in services.find_gcs_addresses()


def slots() -> list[NodeResources]:
    """The live nodes that offer a CPU or more, largest first; a head without CPUs is none of them."""
    found = []
    for node in ray.nodes():  # dead ones too
        resources = node["Resources"] if node["Alive"] else {}
        if (cpus := int(resources.get("CPU", 0))) >= 1:
            found.append(NodeResources(node["NodeID"], cpus, int(resources.get("memory", 0) + resources.get("object_store_memory", 0))))
    return sorted(found, key=lambda slot: (-slot.cpus, slot.node))


def join(address: str | None, **settings: Any) -> None:
    """Joins the cluster of a scenario's `execution.address`. Raises SpecError where none answers. settings: of ray.init."""
    try:
        ray.init(address=cluster_address(address), logging_level=logging.ERROR, log_to_driver=False, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SpecError(("execution", "address"), address, f"no cluster answers there: {error}") from None


def look(address: str | None) -> list[NodeResources]:
    """What the cluster of a scenario's `execution.address` offers now. Raises SpecError where none answers."""
    started = not ray.is_initialized()
    if started:
        join(address)
    try:
        return slots()
    finally:
        if started:
            ray.shutdown()


def ask(cpus: int, seconds: float, tell: Callable[[str], None]) -> list[NodeResources]:
    """The slots of the cluster once they have `cpus` CPUs in all; or after `seconds`, or once nothing more can come, whatever is there.

    The autoscaler is asked by placement groups of one CPU each. Its own `request_resources` is all or nothing (for one CPU
    more than the cluster may have, none is started), is everybody's, and outlives a driver that is killed.
    tell: is called about once a second with a line for the user while there is something to wait for.
    """
    there = slots()
    if sum(slot.cpus for slot in there) >= cpus or seconds <= 0:
        return there
    started, told = time.monotonic(), -1
    answers = _answers()
    next(answers)
    requests = [placement_group([{"CPU": 1}]) for _ in range(min(cpus, _ASKED_AT_ONCE))]
    try:
        while True:
            there, waited = slots(), time.monotonic() - started
            offered = sum(slot.cpus for slot in there)
            if offered >= cpus or waited >= seconds or next(answers):
                return there
            if int(waited) > told:
                told = int(waited)
                tell(f"waiting for CPUs of the cluster: {offered:,} of {cpus:,}, {waited:.0f} s of at most {seconds:.0f} s")
            time.sleep(min(_POLL, seconds - waited))
    finally:  # the run's actors take the CPUs now, and keep their nodes by that
        for request in requests:
            remove_placement_group(request)


def placements(count: int, slots: Sequence[NodeResources]) -> list[Any]:
    """Where each of `count` actors belongs, node after node by `spread`; soft: it may live elsewhere once its node is gone."""
    return [
        NodeAffinitySchedulingStrategy(slot.node, soft=True)
        for slot, dealt in zip(slots, spread(count, slots), strict=True)
        for _ in range(dealt)
    ]


def _answers() -> Iterator[bool]:
    """Whether the autoscaler has nothing more to bring, at each time of asking; what it says before the first does not count.

    It says so in the second of its reports that has nothing on its way: the first may be older than the request.
    """
    known, idle = _report()[0], 0
    yield False
    while True:
        version, coming = _report()
        if version != known:
            known, idle = version, 0 if coming else idle + 1
        yield idle >= 2


def _report() -> tuple[float, bool]:
    """The autoscaler's last report: its number or time, and whether nodes are on their way. One that never changes says nothing.

    A cluster without an autoscaler has one that only reports. Through a Ray client (ray://) none can be read.
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
