"""Client: a block of simulated participants, each with its private shard and its own memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.actors.by_hand import lone_federation
from scarcity_ray.actors.report import Ids, Report, report_of
from scarcity_ray.actors.validation import MalformedUpdate, require_payload, validate_updates
from scarcity_ray.core import insights
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import client_columns
from scarcity_ray.core.strategy import Guidance, InsightStrategy, State, Strategy, WeightStrategy
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import Stats, evaluate_metrics, merge_metrics, start_metrics
from scarcity_ray.training.measures import scalar_columns
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.sums import Sums
from scarcity_ray.training.task import Task

# Shards in the object store are read-only, and only ever read.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class ClientFailure(RuntimeError):
    """A client's own code raised: the first client it happens to, and the cause."""

    def __init__(self, client_id: int, cause: str) -> None:
        super().__init__(client_id, cause)
        self.client_id, self.cause = client_id, cause

    def __str__(self) -> str:
        return f"client {self.client_id}: {self.cause}"


class Client:
    """Hosts a block of clients: `Client(client_ids)`; `Client(client_id=0)` is a block of one.

    By hand a client brings its rows, `Client(client_id=0, data=(x, y), test=(x, y))` with x `[n, ...]` and y `[n]`
    integer classes or float targets, or else it holds its part of a small regression. In a run
    all clients' shards are read from the object store (`open`), and the block is who is at home here: only a client's
    memory (its personal model) binds it to its home.
    """

    def __init__(
        self,
        client_ids: Sequence[int] | Ids | None = None,
        *,
        client_id: int | None = None,
        data: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
    ) -> None:
        if (client_ids is None) == (client_id is None):
            raise ValueError("give client_ids, or client_id for a block of one")
        self.ids: Ids = np.sort(np.asarray([client_id] if client_ids is None else client_ids, dtype=np.int64))
        if client_id is not None:
            self.open(lone_federation(client_id, data, test))

    def open(self, federation: Federation, client_ids: Ids | None = None) -> None:
        """Takes up the shards of a run, read where they lie, and those clients' homes (the same as before if left out)."""
        torch.set_num_threads(1)  # sums and products of one thread have the same bits everywhere
        self.whole = self.federation = federation
        if client_ids is not None:
            self.ids = np.sort(client_ids)

    def begin(self, strategy: Strategy, problem: Problem, run: str = "") -> None:
        """Starts a strategy: every client's memory is as before its first round."""
        self.strategy, self.problem, self.run = strategy, problem, run
        self.memory: State = {name: value.expand(len(self.ids), *value.shape).clone() for name, value in strategy.memory(problem).items()}
        self.hold(self.whole)

    def hold(self, federation: Federation) -> None:
        """Takes up what the clients hold from now on."""
        self.federation = federation
        self.train = self.strategy.trains_on(federation.train)
        if isinstance(self.strategy, InsightStrategy):
            self.train = self.train.only(self.ids)
            self.validation = federation.validation.only(self.ids)

    def drift(self) -> None:
        """The clients' data change, where the federation says so."""
        if self.whole.later is not None:
            self.hold(self.whole.later)

    def remembered(self) -> tuple[Ids, dict[str, NDArray[Any]]]:
        """The clients at home, and what each keeps between rounds, `[clients, ...]`."""
        return self.ids, {name: value.numpy() for name, value in self.memory.items()}

    def restore(self, memory: dict[str, NDArray[Any]]) -> None:
        """The clients at home remember what they did: `memory` has a row for each client of the run."""
        self.memory = {name: torch.from_numpy(rows[self.ids]) for name, rows in memory.items()}

    def samples(self) -> dict[str, NDArray[Any]]:
        """What the server knows of the clients at home here: ids, training and test rows of each."""
        home = self.ids
        return {"ids": home, "train": self.federation.train.counts[home], "test": self.federation.test.counts[home]}

    # -- a round of weights ------------------------------------------------------------------------------------------

    def local_train(self, round: int, server: State, total: float, ids: Ids | None = None, steps: Ids | None = None) -> Report:
        """The client half of a round for `ids` (all at home if left out).

        server: the broadcast state. total: the sum of all weights of the round (training samples, or clients where
        they count the same). steps: local steps of each, by the local training's settings if left out.
        Updates that are not finite, or of another shape or type than the server's, are left
        out of the sums and counted. Raises ClientFailure.
        """
        strategy = self.strategy
        assert isinstance(strategy, WeightStrategy)
        ids = self.ids if ids is None else ids
        server = _as_tensors(server)
        sums, parts, scale = Sums(), [], self.federation.label_scale**2

        def train(chunk: Ids, task: Task) -> None:
            mine = self._recall(chunk)
            uploads, kept = strategy.update(task, server, mine)
            alone = [[strategy.total_weight(rows)] for rows in self.train.counts[chunk][:, None]]
            checked = validate_updates(chunk, uploads, server, kept, mine, torch.tensor(alone, dtype=torch.float64))
            good = checked.good
            chosen = slice(None) if good.all() else torch.from_numpy(good)
            for name, (value, weight, *to) in uploads.items() if good.any() else ():
                shares = (weight.double() / total).expand(len(chunk), *weight.shape[1:])
                rows = (to[0][chosen], len(server[name])) if to else ()
                sums.add(name, value[chosen], shares[chosen], checked.largest[name][chosen], *rows)
            self._remember(chunk, kept, good)
            parts.append((chunk, task.train_loss * scale, task.steps, checked.reasons))

        steps = self.problem.local.steps_for(self.train.counts[ids]) if steps is None else steps
        self._by_chunk(round, ids, steps, train, parts)
        return report_of(parts, sums=sums)

    # -- a round of insights -----------------------------------------------------------------------------------------

    def generate_insight(self, round: int, guidance: Guidance, ids: Ids | None = None, steps: Ids | None = None) -> Report:
        """The client half of an insight round: guided local work, and one insight from each client.

        steps: local steps of each, those of the guidance if left out. No weights leave here, and no rows. Raises ClientFailure.
        """
        strategy = self.strategy
        assert isinstance(strategy, InsightStrategy)
        ids = self.ids if ids is None else ids
        steps = strategy.planned_steps(self.problem, guidance)[ids] if steps is None else steps
        parts, batches, scale = [], [], self.federation.label_scale**2
        sizes = strategy.payload(self.problem, round)
        nothing = torch.zeros_like(self.problem.row)[None]  # what a client has before it has a model
        seen = strategy.view(self.problem, guidance, self.train)
        held = strategy.view(self.problem, guidance, self.validation)

        def act(chunk: Ids, task: Task) -> None:
            started = time.perf_counter()
            mine = self._recall(chunk)
            before = strategy.answer(guidance, mine)
            payload, kept = strategy.act(task, guidance, mine)
            checked = validate_updates(chunk, {}, {}, kept, mine)
            require_payload(payload, sizes, len(chunk))
            after = strategy.answer(guidance, kept)
            seconds = (time.perf_counter() - started) / len(chunk)
            if seen is not self.train:
                task = Task(self.problem, seen, chunk, round, task.plan.steps, norms=True)
            columns = scalar_columns(task, nothing if before is None else before, nothing if after is None else after, seconds, held)
            batch = insights.make(self.run, round, columns, {name: value.numpy() for name, value in payload.items()})
            batches.append(batch.filter(pa.array(np.isin(batch["client_id"], chunk[checked.good]))))
            self._remember(chunk, kept, checked.good)
            parts.append((chunk, task.train_loss * scale, task.steps, checked.reasons))

        self._by_chunk(round, ids, steps, act, parts, norms=True)
        return report_of(parts, insights=insights.merge(batches) if batches else None)

    def receive(self, round: int, guidance: Guidance, ids: Ids | None = None) -> None:
        """Takes up delivered guidance into each client's memory. Raises ClientFailure."""
        strategy = self.strategy
        assert isinstance(strategy, InsightStrategy)
        ids = self.ids if ids is None else ids

        def take(chunk: Ids, task: Task) -> None:
            kept = strategy.receive(task, guidance, self._recall(chunk))
            self._remember(chunk, kept, np.ones(len(chunk), dtype=np.bool_))

        self._by_chunk(round, ids, np.zeros(len(ids), dtype=np.int64), take)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, server: State | Guidance, ids: Ids | None = None) -> dict[str, NDArray[Any]]:
        """What `measure` finds, each metric as the clients' values `[n]` in the user's unit, `test_NAME`: NaN for a client without
        test rows, and where a metric does not apply."""
        columns, stats = self.measure(server, ids)
        return columns | client_columns(stats)

    def measure(self, server: State | Guidance, ids: Ids | None = None) -> tuple[dict[str, NDArray[Any]], Stats]:
        """The statistics of each metric for each client's model on its own test rows, by rising id, and columns `[n]` of the
        clients table: client_id, and expert_id where the strategy has clients choose one. A strategy that adapts does so
        first, on training rows.
        """
        ids = self.ids if ids is None else np.sort(ids)
        strategy, test, scale = self.strategy, self.federation.test, self.federation.label_scale
        parts, experts = [start_metrics(self.problem, ids, scale)], np.full(len(ids), -1)
        state = _as_tensors(server)
        if isinstance(server, Guidance):
            test = strategy.view(self.problem, server, test.only(ids))
        if isinstance(strategy, WeightStrategy) and strategy.adapts:

            def test_adapted(chunk: Ids, task: Task) -> None:
                mine = strategy.adapt(task, state, self._recall(chunk))
                here, found = np.searchsorted(ids, chunk), strategy.experts_of(mine)
                parts.append(evaluate_metrics(self.problem, strategy.answer(state, mine), test, chunk, scale))
                if found is not None:
                    experts[here] = found.numpy()

            self._by_chunk(0, ids, strategy.adaptation(self.problem.local, self.train.counts[ids]), test_adapted)
        else:
            # A piece at a time, so that personal models are not held twice.
            piece = max(_EVALUATED_BYTES // (self.problem.layout.width * 4), 1) if self.memory else max(len(ids), 1)
            for start in range(0, len(ids), piece):
                here = slice(start, start + piece)
                theta = self._answer(state, ids[here])
                if theta is not None:
                    parts.append(evaluate_metrics(self.problem, theta, test, ids[here], scale))
        columns = {"client_id": ids} | ({"expert_id": experts} if (experts >= 0).any() else {})
        return columns, merge_metrics(parts)

    def personal(self, server: State | Guidance) -> tuple[Ids, NDArray[Any]] | None:
        """The clients at home and their personal models, one row each; None where they keep none."""
        if not self.memory:
            return None
        theta = self._answer(_as_tensors(server), self.ids)
        return None if theta is None else (self.ids, theta.expand(len(self.ids), -1).numpy())

    # -- what all of them share --------------------------------------------------------------------------------------

    def _answer(self, server: Any, ids: Ids) -> Tensor | None:
        strategy: Any = self.strategy  # either kind: each is asked with what its server half left
        answer: Tensor | None = strategy.answer(server, self._recall(ids))
        return answer

    def _by_chunk(
        self,
        round: int,
        ids: Ids,
        steps: NDArray[np.int64],
        work: Callable[[Ids, Task], None],
        parts: list[Any] | None = None,
        norms: bool = False,
    ) -> None:
        """Does `work(chunk, task)` chunk by chunk. A chunk that raises is tried again client by client, to name one.

        parts: takes what there is to say of a client whose messages do not fit: the others of its chunk lose nothing by it.
        """
        guided = dict(zip(ids.tolist(), steps.tolist(), strict=True))

        def task(chunk: Ids) -> Task:
            return Task(self.problem, self.train, chunk, round, np.array([guided[i] for i in chunk.tolist()]), norms)

        for chunk in chunks(self.problem, self.train, ids, steps):
            try:
                work(chunk, task(chunk))
            except Exception as error:
                for client in chunk:
                    alone = np.array([client])
                    try:
                        work(alone, task(alone))
                    except Exception as cause:
                        if parts is None or not isinstance(cause, MalformedUpdate):
                            raise ClientFailure(int(client), f"{type(cause).__name__}: {cause}") from cause
                        parts.append((alone, np.full(1, np.nan), torch.tensor([guided[int(client)]]), {int(client): str(cause)}))
                if not isinstance(error, MalformedUpdate):
                    raise ClientFailure(int(chunk[0]), f"{type(error).__name__}: {error}") from error

    def _places(self, ids: Ids) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.ids, ids))

    def _recall(self, ids: Ids) -> State:
        return {name: value[self._places(ids)] for name, value in self.memory.items()}

    def _remember(self, ids: Ids, kept: State, good: NDArray[np.bool_]) -> None:
        for name, value in kept.items():
            self.memory[name][self._places(ids[good])] = value if good.all() else value[torch.from_numpy(good)]


_EVALUATED_BYTES = 64 << 20


def _as_tensors(server: Any) -> Any:
    """A broadcast state as tensors that share its arrays; guidance as it is."""
    return server if isinstance(server, Guidance) else {name: torch.as_tensor(value) for name, value in server.items()}
