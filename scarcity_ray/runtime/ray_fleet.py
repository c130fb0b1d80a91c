"""Fleets of Ray actors: the one place where plain classes become actors, and where Ray's errors become this package's own."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, services, worker
from ray._private.state import state
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from scarcity_ray.core.importing import USER_MODULES
from scarcity_ray.runtime import ray_nodes
from scarcity_ray.runtime.fleet import ActorLost, OutOfMemory, WorkerError, describe_error
from scarcity_ray.runtime.placement import NodeResources

_log = logging.getLogger(f"{__name__}.RayFleet")

_VARIABLES = {
    "MKL_CBWR": "AUTO",  # products whose bits do not depend on where their arguments lie in memory
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # freed memory is kept for the next chunk: giving it back and taking it
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),  # again costs a page fault every 4 KiB, a tenth of a round
    "RAY_worker_niceness": "0",  # at 15, other programs would get most of the cores that the user gave to the run
    "RAY_task_events_report_interval_ms": "0",  # a record of every call, which nothing reads: 12 KB a round
}
"""Variables of every process of a run, unless the environment sets them."""

_RAYS_OWN = {ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_GCS_SERVER}
"""Ray's processes without which no actor survives; the others only print and count."""

_INLINE = 32 << 10  # bytes of arrays; Ray itself sends arguments of up to 100 KiB inside a call


_STARTS = 3  # attempts: Ray allows itself half a minute to start, which is too short on a busy machine; and it may die meanwhile
_PING_SECONDS = 0.1  # between two calls to an actor that Ray is starting again


class RayFleet:
    """Ray actors of one class, each on that many CPUs. It can be sent to other actors: the Server gets the fleets of Clients and Experts.

    Ray starts an actor that dies again, without its state, and its handles stay valid. Ray repeats no call: the caller does, after it
    has restored the actor's state. timeout_s: seconds without an answer after which an actor is ended.
    places: where to put each, see ray_nodes.placements.
    """

    def __init__(
        self, worker: type, orders: Sequence[tuple[Any, ...]], cpus: float = 0, timeout_s: float = math.inf, places: Sequence[Any] = ()
    ) -> None:
        self.worker, self.cpus, self.timeout_s, self.places = worker, cpus, timeout_s, list(places)
        self.handles, self.size = list[Any](), 0
        self.resize(orders)

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        for handle in self.handles[len(orders) :]:
            ray.kill(handle)
        actor = ray.remote(num_cpus=self.cpus, max_restarts=-1, max_task_retries=0)(self.worker)
        made = []
        for place, order in enumerate(orders[self.size :], start=self.size):
            where = {"scheduling_strategy": self.places[place]} if place < len(self.places) else {}
            made.append(actor.options(**where).remote(*order))
        self.handles = [*self.handles[: len(orders)], *made]
        self.size = len(orders)

    def put(self, value: Any) -> Any:
        _send_user_modules()
        parts = value.values() if isinstance(value, dict) else [value]
        if sum(getattr(part, "nbytes", _INLINE) for part in parts) < _INLINE:
            return value  # inside the calls it arrives a millisecond sooner than by reference
        return ray.put(value)

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        _send_user_modules()
        name = method.__name__
        return name, {index: getattr(self.handles[index], name).remote(*shared, *order) for index, order in orders.items()}

    def wait(self, ticket: Any) -> dict[int, Any]:
        method, calls = ticket
        try:
            answers = ray.get(list(calls.values()), timeout=None if self.timeout_s == math.inf else self.timeout_s)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            if isinstance(cause, WorkerError):  # from an actor that this one called
                raise type(cause)(*cause.args) from None
            kind = ActorLost if _passing(cause) else WorkerError
            raise kind(self.worker.__name__, method, describe_error(cause), str(error)) from None
        except GetTimeoutError:
            raise ActorLost(self.worker.__name__, method, self._give_up(calls)) from None
        except RayError as error:
            if (full := _out_of_memory(error)) is not None:
                raise OutOfMemory(self.worker.__name__, method, f"an actor died: memory ran out{full}", str(error)) from None
            kind, what = ActorLost if _passing(error) else WorkerError, describe_error(error)
            if isinstance(error, RayActorError):  # Ray's message about one that it is starting again says no more than that
                what = "an actor died" if isinstance(error, ActorUnavailableError) else f"an actor died: {what}"
            raise kind(self.worker.__name__, method, what, str(error)) from None
        return dict(zip(calls, answers, strict=True))

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        return self.wait(self.start(method, orders, shared))

    def revive(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        silent = list(self.handles)
        while silent:
            pings = {handle.__ray_ready__.remote(): handle for handle in silent}
            ray.wait(list(pings), num_returns=len(pings), timeout=max(deadline - time.monotonic(), 0))
            done, late = ray.wait(list(pings), num_returns=len(pings), timeout=0)
            silent = [pings[ping] for ping in late]
            for ping in done:
                try:
                    ray.get(ping)
                except ActorUnavailableError:
                    silent.append(pings[ping])  # Ray is starting it again
                except RayError:
                    return False  # Ray does not start it again
            if silent and time.monotonic() >= deadline:
                return False
            if silent:
                time.sleep(_PING_SECONDS)
        return True

    def close(self) -> None:
        for handle in self.handles:
            ray.kill(handle)

    def _give_up(self, calls: Mapping[int, Any]) -> str:
        """Ends the actors that have not answered, which Ray starts again without their state; says how many they were."""
        _, late = ray.wait(list(calls.values()), num_returns=len(calls), timeout=0)
        hung = [index for index, call in calls.items() if call in set(late)]
        for index in hung:
            ray.kill(self.handles[index], no_restart=False)
        return f"no answer in {self.timeout_s:g} s from {len(hung)} of {len(calls)} actors, which have been ended"


def _passing(error: BaseException) -> bool:
    """Whether the work may succeed when it is done again: an actor died, or an object was lost."""
    return isinstance(error, RayActorError | ObjectLostError | NodeDiedError | WorkerCrashedError | LocalRayletDiedError)


def _out_of_memory(error: RayError) -> str | None:
    """How full the machine was where a process was ended because memory ran out (", ...", or "" where that is not known); None where
    it died of something else. Why an actor died that Ray starts again is only in Ray's tables."""
    description = str(error) if isinstance(error, OutOfMemoryError) else ""
    if isinstance(error, RayActorError) and error.actor_id:
        try:
            tables = state._connect_and_get_accessor()
            actor = gcs_pb2.ActorTableData.FromString(tables.get_actor_info(ray.ActorID.from_hex(error.actor_id)))
            lives = {life.worker_id for life in actor.previous_incarnations[-1:]} | {actor.address.worker_id}
            dead = [process for process in map(gcs_pb2.WorkerTableData.FromString, tables.get_worker_table()) if not process.is_alive]
            description = "".join(process.exit_detail for process in dead if process.worker_address.worker_id in lives and
                           process.exit_type == common_pb2.NODE_OUT_OF_MEMORY)  # fmt: skip
        except Exception as failure:  # only a message depends on it
            _log.warning("the reason why an actor died cannot be read: %s", failure)
    if not description:
        return None
    used = re.search(r"was ([\d.]+ ?[KMGT]?B) used / ([\d.]+ ?[KMGT]?B)", description)
    return f", {used[1]} of {used[2]} in use" if used else ""


def _send_user_modules() -> None:
    """Makes classes of the user's own modules travel with their code: a worker's Python may not find the modules."""
    for module in USER_MODULES.values():
        ray.cloudpickle.register_pickle_by_value(module)


def _to_log(data: dict[str, Any], **_: Any) -> None:
    for line in data.get("lines", ()):
        _log.info("%s: %s", data.get("pid"), line)


@contextmanager
def _loopback_stays() -> Iterator[None]:
    """Keeps 127.0.0.1: Ray would replace it with this machine's address in its network, and listen on every interface."""
    resolve, services.resolve_ip_for_localhost = services.resolve_ip_for_localhost, lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


class RayLauncher:
    """Starts Ray on this machine, or joins a cluster, and launches actors there; `close` ends what it started.

    cpus: how many this run may use. address: see `execution.address`. Raises SpecError where no cluster answers,
    WorkerError where Ray does not start here.
    """

    store = (ray.put, ray.get)

    def __init__(self, cpus: int, address: str | None = None) -> None:
        # What Ray starts here inherits the variables; the nodes of a cluster get them by Ray (which costs each actor a new process).
        for name, value in _VARIABLES.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._started, self._cpus = not ray.is_initialized(), cpus
        self.cluster = ray_nodes.cluster_address(address) is not None
        if not self._started:
            return
        # What Ray prints by itself when a process dies is long and names no run: it goes into the log.
        worker.print_to_stdstream = _to_log
        if self.cluster:
            ray_nodes.join(address, runtime_env={"env_vars": {name: os.environ[name] for name in _VARIABLES}})
        else:
            self._start()

    def _start(self) -> None:
        # Only on loopback, with a token of this run that is in no file: other users of this machine can reach loopback too.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)}
        Config.initialize("")  # Ray read the mode when it was imported, and must read it again
        for attempt in range(1, _STARTS + 1):
            try:
                with _loopback_stays():
                    ray.init(
                        address="local",
                        num_cpus=self._cpus,
                        include_dashboard=False,
                        _node_ip_address="127.0.0.1",
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                    )
                return
            except Exception as error:  # of many types: a machine too busy to start it in time, no room for its files
                ray.shutdown()
                if attempt == _STARTS:
                    raise WorkerError("Ray", "init", f"Ray did not start on this machine: {describe_error(error)}", str(error)) from error
                _log.warning("Ray did not start; it is started again: %s", error)

    def is_dead(self) -> bool:
        if self._started and not self.cluster:
            return any(kind in _RAYS_OWN for kind, _ in worker._global_node.dead_processes())
        here = ray.get_runtime_context().get_node_id()
        return not any(node["NodeID"] == here and node["Alive"] for node in ray.nodes())

    def restart(self) -> None:
        if self.cluster or not self._started:
            raise WorkerError("Ray", "restart", "the node of the cluster that this program is on has died")
        ray.shutdown()
        self._start()

    def put(self, value: Any) -> Any:
        return ray.put(value)

    def nodes(self, wanted: int = 0, seconds: float = 0, notify: Callable[[str], None] = print) -> list[NodeResources] | None:
        return ray_nodes.request(wanted, seconds, notify) if self.cluster else None

    def launch(
        self,
        worker: type,
        orders: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0,
        timeout_s: float = math.inf,
        nodes: Sequence[NodeResources] | None = None,
    ) -> RayFleet:
        return RayFleet(worker, orders, cpus, timeout_s, ray_nodes.placements(len(orders), nodes) if nodes else ())

    def close(self) -> None:
        if self._started:
            ray.shutdown()
