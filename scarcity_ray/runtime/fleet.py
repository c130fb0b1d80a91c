"""How code reaches its actors: `put`, `start`, `wait`, and `map` = start + wait. This one runs them in this process."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from scarcity_ray.runtime.placement import NodeResources


class WorkerError(RuntimeError):
    """An exception inside an actor, with the real cause in words: it crosses processes where the cause may not."""

    def __init__(self, worker: str, method: str, cause: str, details: str = "") -> None:
        super().__init__(worker, method, cause, details)
        self.worker, self.method, self.cause, self.details = worker, method, cause, details

    def __str__(self) -> str:
        return f"{self.cause} (in {self.worker}.{self.method})"


class ActorLost(WorkerError):
    """An actor, or the machine it was on, is gone or does not answer: once it is back, the work can be done again."""


class OutOfMemory(ActorLost):
    """An actor was ended because its machine had no memory left. It may have been for another program's sake."""


_LESS = "take fewer actors (execution.actors), fewer clients or a smaller model, or a machine with more memory"


def remedy(error: BaseException) -> str:
    """What can be done about an error that came after others like it, in one line; "" where nobody can say."""
    if isinstance(error, OutOfMemory):
        return _LESS
    if isinstance(error, ActorLost):
        return f"where actors die again and again, memory has run out, as a rule: {_LESS}"
    return ""


def describe_error(error: BaseException) -> str:
    """An exception in one line, its type first unless it speaks for itself."""
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if type(error).__str__ is not BaseException.__str__ and first else f"{type(error).__name__}: {first}"


class Fleet(Protocol):
    """Some actors of one class, numbered from 0."""

    size: int

    def put(self, value: Any) -> Any:
        """One reference to `value` for all actors that are handed it in `shared` (a small value may go as it is)."""

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        """Calls `method(actor, *shared, *orders[i])` on each actor i named in `orders`, and returns at once."""

    def wait(self, ticket: Any) -> dict[int, Any]:
        """What each call of `start` returned, by actor. Raises WorkerError for the first that failed, ActorLost where an actor is
        gone, or hangs and has been ended."""

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        """`wait(start(...))`."""

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        """As many actors as orders: new ones made of the last orders, or the last actors retired."""

    def revive(self, seconds: float) -> bool:
        """Waits until every actor answers again; one that died is made anew by its order, and knows nothing. False where some
        are not back in so many seconds."""

    def close(self) -> None:
        """Ends the actors."""


class Launcher(Protocol):
    """Makes fleets. The simulation is handed one and never asks which."""

    @property
    def store(self) -> tuple[Any, Any]:
        """`put` and `get` of the object store, for an actor that keeps references; None where values stay in the process."""

    def nodes(self, wanted: int = 0, seconds: float = 0, tell: Callable[[str], None] = print) -> list[NodeResources] | None:
        """The nodes of the cluster, once they have the CPUs wanted, or after so many seconds; None: there is this machine alone.
        tell: takes a line a second while it waits."""

    def launch(
        self,
        worker: type,
        orders: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0,
        patience: float = math.inf,
        slots: Sequence[NodeResources] | None = None,
    ) -> Fleet:
        """One actor `worker(*order)` for each order, each holding that many CPUs. patience: seconds without an answer after
        which an actor hangs. slots: the nodes they are dealt to; anywhere if left out."""

    def fallen(self) -> bool:
        """Whether what all fleets stand on has died, and they with it: none of them comes back."""

    def restart(self) -> None:
        """Begins anew after a fall, without fleets. Raises WorkerError where that is not in its power."""

    def close(self) -> None:
        """Ends what was launched."""

    def put(self, value: Any) -> Any:
        """As `Fleet.put`, before there is a fleet."""


class LocalFleet:
    """A fleet in this process: the same calls, made at once."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self.workers = list(workers)
        self.size = len(self.workers)

    def put(self, value: Any) -> Any:
        return value

    def start(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> Any:
        try:
            return {index: method(self.workers[index], *shared, *order) for index, order in orders.items()}
        except WorkerError:  # of a fleet that this actor called
            raise
        except Exception as error:
            name = type(next(iter(self.workers))).__name__
            raise WorkerError(name, method.__name__, describe_error(error), traceback.format_exc()) from error

    def wait(self, ticket: Any) -> dict[int, Any]:
        return dict(ticket)

    def map(self, method: Callable[..., Any], orders: Mapping[int, tuple[Any, ...]], shared: tuple[Any, ...] = ()) -> dict[int, Any]:
        return self.wait(self.start(method, orders, shared))

    def resize(self, orders: Sequence[tuple[Any, ...]]) -> None:
        worker = type(self.workers[0])
        self.workers = [*self.workers[: len(orders)], *(worker(*order) for order in orders[self.size :])]
        self.size = len(orders)

    def revive(self, seconds: float) -> bool:
        return True  # it lives and dies with this process

    def close(self) -> None:
        self.workers.clear()


class LocalLauncher:
    """Launches local fleets (`execution.ray: false`, and the tests' default)."""

    store = (None, None)

    def nodes(self, wanted: int = 0, seconds: float = 0, tell: Callable[[str], None] = print) -> list[NodeResources] | None:
        return None

    def launch(
        self,
        worker: type,
        orders: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0,
        patience: float = math.inf,
        slots: Sequence[NodeResources] | None = None,
    ) -> LocalFleet:
        return LocalFleet([worker(*order) for order in orders])

    def put(self, value: Any) -> Any:
        return value

    def fallen(self) -> bool:
        return False

    def restart(self) -> None:
        """Nothing falls."""

    def close(self) -> None:
        """Nothing outlives the run."""
