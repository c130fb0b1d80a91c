"""Client: a block of simulated participants, each with its private shard and its own memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.actors.by_hand import lone_federation
from scarcity_ray.actors.report import ChunkReport, Ids, Measured, Report, report_of
from scarcity_ray.actors.validation import MalformedUpdate, Validation, Wanted, require_payload, require_result, validate_updates
from scarcity_ray.core import insights
from scarcity_ray.core.exchange import ClientResult, ServerState, State, Uploads, packed_bytes
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import GLOBAL, client_columns
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import Stats, evaluate_metrics, merge_metrics, start_metrics
from scarcity_ray.training.measures import scalar_columns
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.rows import Rows
from scarcity_ray.training.sums import Sums
from scarcity_ray.training.task import Task
from scarcity_ray.uplink.pipeline import Pipeline

# Shards in the object store are read-only, and only ever read.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class ClientFailure(RuntimeError):
    """A client's own code raised: the first client it happens to, by its name in the user's table or else its id, and the cause."""

    def __init__(self, client: str, cause: str) -> None:
        super().__init__(client, cause)
        self.client, self.cause = client, cause

    def __str__(self) -> str:
        return f"client {self.client}: {self.cause}"


class Client:
    """Hosts a block of clients: `Client(client_ids)`; `Client(client_id=0)` is a block of one.

    By hand a client brings its rows, `Client(client_id=0, data=(x, y), test=(x, y))` with x `[n, ...]` and y `[n]`
    integer classes or float targets, or else it holds its part of a small regression. In a run
    all clients' shards are read from the object store (`load_federation`), and the block is whose state this actor keeps: a client
    without state may work in any actor.
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
            self.load_federation(lone_federation(client_id, data, test))

    def load_federation(self, federation: Federation, client_ids: Ids | None = None) -> None:
        """Takes the shards of a run, read where they lie, and the block of clients (the same as before if left out)."""
        torch.set_num_threads(1)  # sums and products of one thread have the same bits everywhere
        self.whole = self.federation = federation
        if client_ids is not None:
            self.ids = np.sort(client_ids)

    def set_strategy(self, strategy: Strategy, problem: Problem, state: ServerState, run: str = "") -> None:
        """Starts a strategy: every client's state is as before its first round. state: the server's."""
        self.strategy, self.problem, self.run = strategy, problem, run
        self.pipeline = Pipeline(strategy.uplink, problem, strategy.uploads(problem, state), state.broadcast)
        first = strategy.first_client_state(problem, state)
        self.state: State = {name: value.expand(len(self.ids), *value.shape).clone() for name, value in first.items()}
        self._take(self.whole)

    def _take(self, federation: Federation) -> None:
        """Takes what the clients hold from now on."""
        self.federation = federation
        self.train, self.validation = (self.strategy.trains_on(part) for part in (federation.train, federation.validation))
        if self.strategy.server_half == "meta_learner":
            self.train, self.validation = self.train.only(self.ids), self.validation.only(self.ids)

    def drift(self) -> None:
        """The clients' data change, where the federation says so."""
        if self.whole.later is not None:
            self._take(self.whole.later)

    def state_dict(self) -> tuple[Ids, dict[str, NDArray[Any]]]:
        """The clients of the block, and what each keeps between rounds, `[clients, ...]`."""
        return self.ids, {name: value.numpy() for name, value in self.state.items()}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes what the clients of the block kept. state: a row for each client of the run."""
        self.state = {name: torch.from_numpy(rows[self.ids]) for name, rows in state.items()}

    def samples(self) -> dict[str, NDArray[Any]]:
        """What the server knows of the block: ids, training and test rows of each client."""
        ids = self.ids
        return {"ids": ids, "train": self.federation.train.counts[ids], "test": self.federation.test.counts[ids]}

    # -- a round -----------------------------------------------------------------------------------------------------

    def local_train(
        self,
        round: int,
        state: ServerState,
        totals: Mapping[str, float] | None = None,
        ids: Ids | None = None,
        steps: Ids | None = None,
        discounts: NDArray[np.float64] | None = None,
    ) -> Report:
        """The client half of a round for `ids` (the whole block if left out): local work, uploads, and insights where they are sent.

        state: the broadcast one, or Versions of it. totals: the sum of all weights of the round for each upload; of these clients if left
        out. steps: local steps of each, by the strategy's own plan if left out. discounts: what the weight of each counts, 1 if left out.
        Updates that are not finite, or of another shape or type than the server's, are left out of the sums and counted. No rows leave the
        actor. Raises ClientFailure.
        """
        strategy, problem, counts = self.strategy, self.problem, self.train.counts
        ids = self.ids if ids is None else ids
        steps = strategy.planned_steps(problem, state)[ids] if steps is None else steps
        uploads, sizes = strategy.uploads(problem, state), strategy.payload(problem, round)
        if totals is None:
            totals = {name: float(strategy.weight_limit(name, counts[ids]).sum()) for name in uploads}
        counted = dict(zip(ids.tolist(), np.ones(len(ids)) if discounts is None else discounts, strict=True))
        parts: list[ChunkReport] = []
        sums, rows, batches, scale = Sums(), Rows(), [], self.federation.label_scale**2
        said = strategy.said_bytes(problem, round)
        train, validation = self.train, self.validation
        if strategy.sends_insights:
            train, validation = (strategy.view(problem, state, one) for one in (train, validation))

        def work(chunk: Ids, task: Task) -> None:
            started = time.perf_counter()
            broadcast, old = state.received(chunk), self._recall(chunk)
            result = strategy.client_update(task, broadcast, old)
            require_result(result, len(chunk), problem.layout)
            wanted = Wanted.of(uploads, state, lambda name: strategy.weight_limit(name, counts[chunk]))
            checked = validate_updates(chunk, result.sums, wanted, result.state, old)
            require_payload(result.payload, sizes, len(chunk))
            seconds = (time.perf_counter() - started) / len(chunk)
            sent, kept, up_bytes = self._encoded(round, chunk, broadcast, result, old, checked)
            good: Any = slice(None) if checked.good.all() else torch.from_numpy(checked.good)
            discount = np.array([counted[client] for client in chunk.tolist()])
            for name, (value, weight, *to) in sent.items() if checked.good.any() else ():
                total = torch.from_numpy(totals[name] / discount).view(-1, *(1,) * (weight.ndim - 1))
                share = (weight.double() / total).expand(len(chunk), *weight.shape[1:])[good]
                if strategy.aggregation == "mean":
                    sums.add(name, value[good], share, checked.largest[name][good], *((to[0][good], wanted.rows[name]) if to else ()))
                else:
                    rows.add(name, chunk[checked.good], value[good], share, *(row[good] for row in to))
            if strategy.sends_insights:
                models = result.models or task.models or self._compared(broadcast, old, {**old, **result.state})
                seen = task if train is self.train else Task(problem, train, chunk, round, task.plan.steps, norms=True)
                columns = scalar_columns(seen, *models, seconds, validation)
                batch = insights.make(self.run, round, columns, {name: value.numpy() for name, value in result.payload.items()})
                batches.append(batch.filter(pa.array(np.isin(batch["client_id"], chunk[checked.good]))))
            self._remember(chunk, kept, checked.good)
            parts.append(
                ChunkReport(chunk, task.train_loss * scale, task.loss_norm * scale, task.plan.steps, up_bytes + said, checked.reasons)
            )

        def malformed(client: int, planned: int, why: str) -> None:
            nothing, size = np.full(1, np.nan), np.full(1, said)
            parts.append(ChunkReport(np.array([client]), nothing, nothing, np.array([planned]), size, {client: why}))

        self._by_chunk(round, ids, steps, work, malformed, norms=strategy.sends_insights)
        return report_of(parts, sums=sums, rows=rows, insights=insights.merge(batches) if batches else None)

    def generate_insight(self, round: int, state: ServerState, ids: Ids | None = None, steps: Ids | None = None) -> Report:
        """The same for a strategy whose clients send insights. Raises ValueError where they send none."""
        if not self.strategy.sends_insights:
            raise ValueError(f"clients of {self.strategy.title} send no insights: set `insights: true`")
        return self.local_train(round, state, ids=ids, steps=steps)

    def receive(self, round: int, state: ServerState, ids: Ids | None = None) -> None:
        """Takes a delivered state into each client's own. Raises ClientFailure."""
        ids = self.ids if ids is None else ids

        def take(chunk: Ids, task: Task) -> None:
            kept = self.strategy.receive(task, state.received(chunk), self._recall(chunk))
            self._remember(chunk, kept, np.ones(len(chunk), dtype=np.bool_))

        self._by_chunk(round, ids, np.zeros(len(ids), dtype=np.int64), take)

    def _encoded(
        self, round: int, chunk: Ids, broadcast: State, result: ClientResult, old: State, checked: Validation
    ) -> tuple[Uploads, State, NDArray[np.int64]]:
        """The uploads as they are sent, the clients' new state, and the bytes of each client's uploads."""
        layout, up = self.problem.layout, np.zeros(len(chunk), dtype=np.int64)
        sent, kept = result.sums, result.state
        sizes: dict[str, NDArray[np.int64]] = {}
        if self.strategy.uplink:
            for name, (value, weight, *_) in result.sums.items():
                if value[0].numel() > 1 and weight[0].numel() > 1 and self.pipeline.resized(name):
                    raise MalformedUpdate(f"{name} has a weight for each number, and its uplink sends other numbers")
            sent, memory, sizes = self.pipeline.encode(result.sums, broadcast, old, chunk, round, checked.good)
            kept = {**result.state, **memory}
            checked.check_encoded(chunk, {name: sent[name][0] for name in sizes}, memory)
        for name, (value, _, *to) in sent.items():
            up = up + sizes.get(name, packed_bytes(value[:1], layout)) + 4 * len(to)
        return sent, kept, up

    def _compared(self, broadcast: State, old: State, new: State) -> tuple[Tensor, Tensor]:
        """The models of a round without local training; zeros while there is none."""
        nothing = torch.zeros_like(self.problem.row)[None]
        before, after = (_reported(self._models(broadcast, state)) for state in (old, new))
        return nothing if before is None else before, nothing if after is None else after

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, state: ServerState, ids: Ids | None = None) -> dict[str, NDArray[Any]]:
        """What `measure` finds, each metric as the clients' values `[n]` in the user's unit, `test_NAME`: NaN for a client without
        test rows, and where a metric does not apply."""
        found = self.measure(state, ids=ids)
        return found.columns | client_columns(found.stats) | client_columns(found.of_global, GLOBAL)

    def measure(self, state: ServerState, last: bool = True, ids: Ids | None = None) -> Measured:
        """The statistics of each metric for each client's model on its own test and validation rows, by rising id, and columns `[n]` of the
        clients table: client_id, and expert_id where the strategy has clients choose one. A strategy that adapts does so
        first, on training rows. Then the statistics of the global model, where it is tested beside personal ones.

        last: after the last round, when the numbers of single rows leave the actor for the metrics that need all of them.
        """
        ids = self.ids if ids is None else np.sort(ids)
        strategy, problem, scale = self.strategy, self.problem, self.federation.label_scale
        every = [metric for metric in problem.metrics if last or not metric.at_last]
        beside = [metric for metric in every if not metric.detail]
        parts, globals_, experts = [start_metrics(every, ids, scale)], list[Stats](), np.full(len(ids), -1)
        local, shards = strategy.server_half == "meta_learner", {"test": self.federation.test, "validation": self.federation.validation}
        views = {
            name: (strategy.view(problem, state, rows.only(ids) if local else rows), chosen)
            for name, rows in shards.items()
            if (chosen := [metric for metric in every if metric.part == name])
        }

        def test_models(chunk: Ids, client: State) -> None:
            models = self._models(state.received(chunk), client)
            if (reported := _reported(models)) is not None:
                found = [evaluate_metrics(problem, reported, rows, chunk, scale, chosen) for rows, chosen in views.values()]
                parts.append({name: stat for stats in found for name, stat in stats.items()})
            if len(models) > 1:
                globals_.append(evaluate_metrics(problem, models["global"], views["test"][0], chunk, scale, beside))

        def adapt_first(chunk: Ids, task: Task) -> None:
            client = strategy.adapt(task, state.received(chunk), self._recall(chunk))
            found = strategy.experts_of(client)
            if found is not None:
                experts[np.searchsorted(ids, chunk)] = found.numpy()
            test_models(chunk, client)

        steps = strategy.adaptation(problem.local, self.federation.train.counts[ids])
        if steps is not None:
            self._by_chunk(0, ids, steps, adapt_first)
        else:
            # A piece at a time, so that personal models are not held twice.
            piece = max(_EVALUATED_BYTES // (problem.layout.width * 4), 1) if self.state else max(len(ids), 1)
            for start in range(0, len(ids), piece):
                here = ids[start : start + piece]
                test_models(here, self._recall(here))
        columns = {"client_id": ids} | ({"expert_id": experts} if (experts >= 0).any() else {})
        found = [merge_metrics(one) if one else {} for one in (parts, globals_)]
        if not last:
            found = [{name: stat.settled() for name, stat in stats.items()} for stats in found]
        return Measured(columns, *found)

    def personal(self, state: ServerState) -> tuple[Ids, NDArray[Any]] | None:
        """The clients of the block and their personal models, one row each, as they are tested; None where they keep none."""
        if not self.strategy.init_client(self.problem) and not self.strategy.saves_adapted:
            return None
        steps = self.strategy.adaptation(self.problem.local, self.federation.train.counts[self.ids])
        if steps is None:
            theta = self._models(state.received(self.ids), self.state).get("personal")
            return None if theta is None else (self.ids, theta.numpy())
        rows = torch.empty(len(self.ids), self.problem.layout.width, dtype=self.problem.layout.dtype)

        def adapt(chunk: Ids, task: Task) -> None:
            broadcast = state.received(chunk)
            rows[self._places(chunk)] = self._models(broadcast, self.strategy.adapt(task, broadcast, self._recall(chunk)))["personal"]

        self._by_chunk(0, self.ids, steps, adapt)
        return self.ids, rows.numpy()

    def _models(self, broadcast: State, client: State) -> State:
        """`eval_models`. Raises TypeError where it names other models than it may."""
        models: object = self.strategy.eval_models(broadcast, client)
        if not isinstance(models, Mapping) or not set(models) <= {"global", "personal"}:
            found = ", ".join(map(str, models)) if isinstance(models, Mapping) else type(models).__name__
            raise TypeError(f"{self.strategy.title}: eval_models returned {found}; allowed: a dict of global, personal, both or neither")
        return models

    # -- what all of them share --------------------------------------------------------------------------------------

    def _by_chunk(
        self,
        round: int,
        ids: Ids,
        steps: NDArray[np.int64],
        work: Callable[[Ids, Task], None],
        malformed: Callable[[int, int, str], None] | None = None,
        norms: bool = False,
    ) -> None:
        """Does `work(chunk, task)` chunk by chunk. A chunk that raises is tried again client by client, to name one.

        malformed: takes a client, its steps and the reason where what it sends does not fit: the others of its chunk lose nothing.
        """
        planned = dict(zip(ids.tolist(), steps.tolist(), strict=True))

        def task(chunk: Ids) -> Task:
            return Task(self.problem, self.train, chunk, round, np.array([planned[i] for i in chunk.tolist()]), norms)

        for chunk in chunks(self.problem, self.train, ids, steps):
            try:
                work(chunk, task(chunk))
            except Exception as error:
                for client in chunk.tolist():
                    alone = np.array([client])
                    try:
                        work(alone, task(alone))
                    except Exception as cause:
                        if malformed is None or not isinstance(cause, MalformedUpdate):
                            raise self._failure(client, cause) from cause
                        malformed(client, planned[client], str(cause))
                if not isinstance(error, MalformedUpdate):
                    raise self._failure(int(chunk[0]), error) from error

    def _failure(self, client: int, cause: Exception) -> ClientFailure:
        return ClientFailure(self.federation.called(client, self.problem.population), f"{type(cause).__name__}: {cause}")

    def _places(self, ids: Ids) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.ids, ids))

    def _recall(self, ids: Ids) -> State:
        return {name: value[self._places(ids)] for name, value in self.state.items()}

    def _remember(self, ids: Ids, kept: State, good: NDArray[np.bool_]) -> None:
        for name, value in kept.items():
            self.state[name][self._places(ids[good])] = value if good.all() else value[torch.from_numpy(good)]


_EVALUATED_BYTES = 64 << 20


def _reported(models: Mapping[str, Tensor]) -> Tensor | None:
    """The rows that are reported: personal ones where there are any."""
    return models.get("personal", models.get("global"))
