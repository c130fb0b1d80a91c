"""Fleets of Ray actors: the one place where plain classes become actors, and where Ray's errors stop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from scarcity_ray.fleet import WorkerError, in_words

_VARIABLES = {
    "MKL_CBWR": "AUTO",  # products whose bits do not depend on where their arguments lie in memory
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # freed memory is kept for the next chunk: giving it back and taking it
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),  # again costs a page fault every 4 KiB, a tenth of a round
    "RAY_worker_niceness": "0",  # the run has been given its cores; beside other work, 15 would give most of them away
    "RAY_task_events_report_interval_ms": "0",  # a record of every call, which nobody reads: 12 KB a round
}
"""For every process of a run, unless the environment says otherwise."""

_INLINE = 32 << 10  # bytes of arrays; Ray itself sends arguments of up to 100 KiB inside a call


class RayFleet:
    """Ray actors of one class, each holding that many CPUs. It travels: the Server is handed the fleets of Clients and Experts."""

    def __init__(self, worker: type, orders: Sequence[tuple[Any, ...]], cpus: float = 0) -> None:
        self.worker, self.cpus, self.handles, self.size = worker, cpus, list[Any](), 0
        self.resize(orders)

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        for handle in self.handles[len(orders) :]:
            ray.kill(handle)
        actor = ray.remote(num_cpus=self.cpus, max_restarts=0)(self.worker)
        self.handles = [*self.handles[: len(orders)], *(actor.remote(*order) for order in orders[self.size :])]
        self.size = len(orders)

    def put(self, value: Any) -> Any:
        if isinstance(value, dict) and sum(getattr(part, "nbytes", _INLINE) for part in value.values()) < _INLINE:
            return value  # inside the calls it is there a millisecond sooner than by reference
        return ray.put(value)

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        name = method.__name__
        return name, {index: getattr(self.handles[index], name).remote(*shared, *order) for index, order in orders.items()}

    def wait(self, ticket: Any) -> dict[int, Any]:
        method, calls = ticket
        try:
            return dict(zip(calls, ray.get(list(calls.values())), strict=True))
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            if isinstance(cause, WorkerError):  # from an actor that this one called
                raise WorkerError(*cause.args) from None
            raise WorkerError(self.worker.__name__, method, in_words(cause), str(error)) from None
        except RayActorError as error:
            raise WorkerError(self.worker.__name__, method, f"an actor died: {in_words(error)}") from None
        except RayError as error:
            raise WorkerError(self.worker.__name__, method, in_words(error)) from None

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        return self.wait(self.start(method, orders, shared))

    def close(self) -> None:
        for handle in self.handles:
            ray.kill(handle)


class RayLauncher:
    """Starts Ray on this machine, or joins a cluster, and launches actors there; `close` ends what it started.

    cpus: how many this run may take, and no more. address: of a running cluster ("auto" finds it); None starts one.
    """

    store = (ray.put, ray.get)

    def __init__(self, cpus: int, address: str | None = None) -> None:
        # What Ray starts here inherits the variables; the nodes of a cluster are told (which costs each actor a new process).
        for name, value in _VARIABLES.items():
            os.environ.setdefault(name, value)
        variables = {name: os.environ[name] for name in _VARIABLES}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._started = not ray.is_initialized()
        if self._started:
            settings: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": variables}}
            if address is None:
                # Loopback only: nothing on the network may reach the actors.
                settings = {"num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)

    def put(self, value: Any) -> Any:
        return ray.put(value)

    def launch(self, worker: type, orders: Sequence[tuple[Any, ...]], *, cpus: float = 0) -> RayFleet:
        return RayFleet(worker, orders, cpus)

    def close(self) -> None:
        if self._started:
            ray.shutdown()
