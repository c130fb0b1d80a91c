"""How code calls its actors: `put`, `start`, `wait`, and `map` = start + wait. LocalFleet runs them in this process."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from scarcity_ray.runtime.placement import NodeResources


class WorkerError(RuntimeError):
    """An exception inside an actor, with its cause in words: unlike the cause, it can always be sent to another process."""

    def __init__(self, worker: str, method: str, cause: str, details: str = "") -> None:
        super().__init__(worker, method, cause, details)
        self.worker, self.method, self.cause, self.details = worker, method, cause, details

    def __str__(self) -> str:
        return f"{self.cause} (in {self.worker}.{self.method})"


class ActorLost(WorkerError):
    """An actor, or the machine it was on, has died or does not answer. Once it is back, the work can be done again."""


class OutOfMemory(ActorLost):
    """An actor was ended because its machine had no memory left. Another program may have used that memory."""


_LESS = "take fewer actors (execution.actors), fewer clients or a smaller model, or a machine with more memory"


def remedy(error: BaseException) -> str:
    """What the user can do about an error that came after others like it, in one line; "" where nothing is known."""
    if isinstance(error, OutOfMemory):
        return _LESS
    if isinstance(error, ActorLost):
        return f"where actors die again and again, memory has run out, as a rule: {_LESS}"
    return ""


def describe_error(error: BaseException) -> str:
    """An exception in one line, its type first unless its own message is enough."""
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if type(error).__str__ is not BaseException.__str__ and first else f"{type(error).__name__}: {first}"


class Fleet(Protocol):
    """Some actors of one class, numbered from 0."""

    size: int

    def put(self, value: Any) -> Any:
        """One reference to `value` for all actors that get it in `shared` (a small value may be sent as it is)."""

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        """Calls `method(actor, *shared, *orders[i])` on each actor i named in `orders`, and returns at once a ticket for `wait`."""

    def wait(self, ticket: Any) -> dict[int, Any]:
        """What each call of `start` returned, by actor. Raises WorkerError for the first that failed, ActorLost where an actor has
        died, or did not answer in time and was ended."""

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        """`wait(start(...))`."""

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        """Changes the number of actors to that of orders: starts new ones from the last orders, or ends the last actors."""

    def revive(self, seconds: float) -> bool:
        """Waits until every actor answers; one that died is started again from its order, and has lost its state. False where some do
        not answer within so many seconds."""

    def close(self) -> None:
        """Ends the actors."""


class Launcher(Protocol):
    """Starts fleets, in this process or on Ray; the simulation does not know where."""

    @property
    def store(self) -> tuple[Any, Any]:
        """`put` and `get` of the object store, for an actor that keeps references; None where all values stay in this process."""

    def nodes(self, wanted: int = 0, seconds: float = 0, notify: Callable[[str], None] = print) -> list[NodeResources] | None:
        """The nodes of the cluster, once they have the CPUs wanted, or after so many seconds; None where there is no cluster.
        notify: takes a line for the user, once a second while it waits."""

    def launch(
        self,
        worker: type,
        orders: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0,
        timeout_s: float = math.inf,
        nodes: Sequence[NodeResources] | None = None,
    ) -> Fleet:
        """Starts one actor `worker(*order)` for each order, each on that many CPUs. timeout_s: seconds without an answer after which
        an actor is ended. nodes: where they are placed; anywhere if left out."""

    def is_dead(self) -> bool:
        """Whether what all fleets run on has died, and all actors with it."""

    def restart(self) -> None:
        """Starts again what has died, without fleets. Raises WorkerError where this program cannot."""

    def close(self) -> None:
        """Ends everything that was launched."""

    def put(self, value: Any) -> Any:
        """As `Fleet.put`, before there is a fleet."""


class LocalFleet:
    """A fleet in this process. A call is made when its ticket is waited for, so that waiting takes the time of the work."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self.workers = list(workers)
        self.size = len(self.workers)

    def put(self, value: Any) -> Any:
        return value

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        return method, {index: (*shared, *order) for index, order in orders.items()}

    def wait(self, ticket: Any) -> dict[int, Any]:
        method, calls = ticket
        try:
            return {index: method(self.workers[index], *arguments) for index, arguments in calls.items()}
        except WorkerError:  # of a fleet that this actor called
            raise
        except Exception as error:
            name = type(next(iter(self.workers))).__name__
            raise WorkerError(name, method.__name__, describe_error(error), traceback.format_exc()) from error

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        return self.wait(self.start(method, orders, shared))

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        worker = type(self.workers[0])
        self.workers = [*self.workers[: len(orders)], *(worker(*order) for order in orders[self.size :])]
        self.size = len(orders)

    def revive(self, seconds: float) -> bool:
        return True  # no actor dies before this process does

    def close(self) -> None:
        self.workers.clear()


class LocalLauncher:
    """Launches local fleets (`execution.ray: false`, and most tests)."""

    store = (None, None)

    def nodes(self, wanted: int = 0, seconds: float = 0, notify: Callable[[str], None] = print) -> list[NodeResources] | None:
        return None

    def launch(
        self,
        worker: type,
        orders: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0,
        timeout_s: float = math.inf,
        nodes: Sequence[NodeResources] | None = None,
    ) -> LocalFleet:
        return LocalFleet([worker(*order) for order in orders])

    def put(self, value: Any) -> Any:
        return value

    def is_dead(self) -> bool:
        return False

    def restart(self) -> None:
        """Nothing dies before this process does."""

    def close(self) -> None:
        """Nothing is left to end."""
