"""Server: plays the rounds. Broadcast, local work, gather, aggregate; it holds no training data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from scarcity_ray.actors.by_hand import default_model
from scarcity_ray.actors.client import Client
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.report import Ids, Report, RoundResult, joined
from scarcity_ray.core import insights, metrics
from scarcity_ray.core.insights import Rejection, Sent
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.core.strategy import Guidance, InsightStrategy, State, Strategy, WeightStrategy
from scarcity_ray.runtime.fleet import Fleet, LocalFleet
from scarcity_ray.runtime.placement import deal
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.insight_exchange import InsightExchange
from scarcity_ray.training.evaluate import Stats, merge_metrics
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.sums import Sums


class Server:
    """Drives Client actors through rounds, with a MetaLearner and Experts where a strategy has insights.

    By hand, `Server(num_clients=5)` makes its own five clients and learns a linear model; or give it `clients`, `model`
    (a torch module), `local` (how clients train) and `strategy`. In a run it is handed fleets of actors, each of which
    can read any client's shard.
    """

    def __init__(
        self,
        num_clients: int = 5,
        clients: Sequence[Client] | Fleet | None = None,
        meta_learner: MetaLearner | Fleet | None = None,
        experts: Sequence[Expert] | Fleet | None = None,
        *,
        model: torch.nn.Module | None = None,
        local: Local | None = None,
        strategy: Strategy | None = None,
        seed: int = 0,
    ) -> None:
        torch.set_num_threads(1)
        by_hand = clients is None or isinstance(clients, Sequence)
        if clients is None:
            clients = [Client(client_id=i) for i in range(num_clients)]
        self.clients: Fleet = LocalFleet(clients) if isinstance(clients, Sequence) else clients
        if by_hand and meta_learner is None:
            meta_learner = MetaLearner()
        self.meta: Fleet | None = LocalFleet([meta_learner]) if isinstance(meta_learner, MetaLearner) else meta_learner
        self.experts: Fleet | None = LocalFleet(experts) if isinstance(experts, Sequence) else experts
        self.anywhere, self.run = not by_hand, ""
        if by_hand:
            assert isinstance(clients, Sequence)
            if len(clients) != num_clients:
                raise ValueError(f"num_clients is {num_clients}, but there are {len(clients)} clients")
            self.open()
            first = clients[0].federation
            problem = make_problem(
                model or default_model(first.shape, first.outputs, seed),
                local=local or Local(lr=0.01),
                task=first.task,
                outputs=first.outputs,
                shape=first.shape,
                samples=self.samples,
                seed=seed,
            )
            self.begin(strategy or FedAvg(), problem)

    # -- beginnings --------------------------------------------------------------------------------------------------

    def open(self, clients: Fleet | None = None, meta_learner: Fleet | None = None, experts: Fleet | None = None) -> None:
        """Meets the clients of a federation: who is at home where, and how many rows each holds. Not the rows.

        clients, meta_learner, experts: whom it works with from now on; those it has if no clients are given.
        """
        if clients is not None:
            self.clients, self.meta, self.experts = clients, meta_learner, experts
        found = self.clients.map(Client.samples, self._everyone())
        population = max(int(part["ids"].max(initial=-1)) for part in found.values()) + 1
        self.home = np.full(population, -1, dtype=np.int64)
        self.samples, self.tests = np.zeros(population, dtype=np.int64), np.zeros(population, dtype=np.int64)
        for actor, part in found.items():
            self.home[part["ids"]], self.samples[part["ids"]], self.tests[part["ids"]] = actor, part["train"], part["test"]

    def begin(
        self, strategy: Strategy, problem: Problem, run: str = "", setup: tuple[Ids, Ids] | None = None, drift: int | None = None
    ) -> None:
        """Starts a strategy from round 1, with its rounds of weights where it prepares itself by some.

        setup: bytes up and down of each client before it (preparing the data). drift: the round before which clients' data
        change.
        """
        self.run, self.round, self._over, self._drift, self._forgets = run, 0, False, drift, False
        up, down = setup or (np.zeros(len(self.home), dtype=np.int64),) * 2
        self.uplink, self.downlink = up.copy(), down.copy()
        self._counted = 0, 0  # so that round 1 counts what came before it
        preparation = strategy.preparation(problem) if isinstance(strategy, InsightStrategy) else None
        self._later = None if preparation is None else (strategy, problem, preparation[2])
        self._start(*(preparation[:2] if preparation else (strategy, problem)))

    def _start(self, strategy: Strategy, problem: Problem, guidance: Guidance | None = None) -> None:
        self.strategy, self.problem = strategy, problem
        self._older: list[State] = []  # states of earlier rounds, newest first, as far back as the schedule may go; weights alone have any
        self.clients.map(Client.begin, self._everyone(), shared=(strategy, self.clients.put(problem), self.run))
        if isinstance(strategy, InsightStrategy):
            if self.meta is None:
                raise ValueError(f"{strategy.title} exchanges insights: the server needs a MetaLearner")
            self.meta.map(MetaLearner.begin, {0: (strategy, problem, self.run)})
            self.guidance = strategy.open(problem) if guidance is None else guidance
            # Bytes of guidance so far, and how much of it has gone down to each client.
            self._released, self._received = self.guidance.size, np.zeros(len(self.home), dtype=np.int64)
        elif isinstance(strategy, WeightStrategy):
            self.state: State = strategy.start(problem)

    def play(self, round: int, evaluated: Ids, test: bool, keep: bool = False) -> RoundResult | None:
        """A round of whichever kind the strategy has; None, and nothing done, once it has diverged, failed, or has nothing to
        learn. keep: the result says what it takes to go on from there."""
        if self._over:
            return None
        self._over = True  # should the round fail, those that are ordered already must not be played without it
        if round == self._drift:
            self.clients.map(Client.drift, self._everyone())
        if self._later is not None and round > self._later[2]:
            strategy, problem, _ = self._later
            assert isinstance(strategy, InsightStrategy)
            self._later = None
            self._start(strategy, problem, strategy.open(problem, self.state))
        run = self.run_insight_round if isinstance(self.strategy, InsightStrategy) else self.run_round
        result = run(round, evaluated, test)
        self._over = result.diverged or result.done
        if keep and not self._forgets:
            began = time.perf_counter()
            result.held, result.memory = self.held(), self._memory()
            result.kept_seconds = time.perf_counter() - began
        return result

    # -- what survives -----------------------------------------------------------------------------------------------

    def held(self) -> dict[str, Any]:
        """What the server half must know to go on after this round, plain values and arrays; `restore` takes it."""
        held = {"round": self.round, "uplink": self.uplink.copy(), "downlink": self.downlink.copy()}
        held |= {"counted": self._counted, "prepared": self._later is None}
        if isinstance(self.strategy, InsightStrategy):
            return {**held, "guidance": vars(self.guidance), "released": self._released, "received": self._received.copy()}
        return {**held, "state": _as_arrays(self.state), "older": [_as_arrays(state) for state in self._older]}

    def restore(self, held: Mapping[str, Any], memory: Mapping[str, NDArray[Any]], history: Mapping[int, pa.RecordBatch]) -> None:
        """Goes on from what `held` said, after `begin`. memory: what every client kept then, rows by rising id. history:
        the insights of each round so far."""
        guidance = Guidance(**held["guidance"]) if "guidance" in held else None
        if self._later is not None and held["prepared"]:
            strategy, problem, _ = self._later
            self._later = None
            self._start(strategy, problem, guidance)
        if guidance is not None:
            assert self.meta is not None
            self.guidance, self._released, self._received = guidance, held["released"], np.array(held["received"])
            self.meta.map(MetaLearner.restore, {0: (dict(history),)})
        else:
            self.state, self._older = _as_tensors(held["state"]), [_as_tensors(state) for state in held["older"]]
        self.round, self._counted = held["round"], tuple(held["counted"])
        self.uplink, self.downlink = np.array(held["uplink"]), np.array(held["downlink"])
        if self._drift is not None and self.round >= self._drift:
            self.clients.map(Client.drift, self._everyone())
        if memory:
            self.clients.map(Client.restore, self._everyone(), shared=(self.clients.put(dict(memory)),))

    def _memory(self) -> dict[str, NDArray[Any]]:
        """What every client keeps, `[clients, ...]` by rising id; empty where they keep nothing."""
        if not self.strategy.memory(self.problem):
            return {}
        parts = list(self.clients.map(Client.remembered, self._everyone()).values())
        order = np.argsort(np.concatenate([ids for ids, _ in parts]))
        return {name: np.concatenate([kept[name] for _, kept in parts])[order] for name in parts[0][1]}

    # -- a round of weights ------------------------------------------------------------------------------------------

    def run_round(self, round: int | None = None, evaluated: Ids | None = None, test: bool = True) -> RoundResult:
        """Broadcast, local training, aggregation. test: whether the clients `evaluated` (all if left out) are tested after it."""
        strategy = self.strategy
        assert isinstance(strategy, WeightStrategy), f"{strategy.title} exchanges insights: call run_insight_round"
        self.round = self.round + 1 if round is None else round
        samples, plan = self.problem.samples, self.plan_round()
        total = strategy.total_weight(samples[plan.ids[~plan.lost]])
        reports: list[Report] = []
        for age in np.unique(plan.staleness[~plan.lost]).tolist():
            chosen = ~plan.lost & (plan.staleness == age)
            model = self.broadcast_model(age)
            orders = self._assign(plan.ids[chosen], plan.steps[chosen], at_home=bool(strategy.memory(self.problem)))
            reports += self.clients.map(Client.local_train, orders, shared=(self.round, model, total)).values()
        report = joined(reports)
        diverged = 0 < len(report.ids) == len(report.rejected)
        self._older = [self.state, *self._older][: strategy.schedule.max_staleness]
        if not diverged:
            self.aggregate_models(reports)
        up, down = strategy.traffic(self.problem)
        if len(samples) == len(self.home):
            self._count_bytes(plan, up, np.full(len(plan.ids), down))
        else:  # one virtual client that holds the rows of all
            self.uplink += up
            self.downlink += down
        heard = ~np.isin(report.ids, list(report.rejected))
        result = self._result(report, heard, list(report.rejected.items()), self.state, evaluated, test)
        result.diverged = diverged
        return result

    def broadcast_model(self, age: int = 0) -> Any:
        """The server's state as one reference for all clients; age: that of so many rounds ago, the oldest at most."""
        versions = [self.state, *self._older]
        return self.clients.put(_as_arrays(versions[min(age, len(versions) - 1)]))

    def aggregate_models(self, reports: Iterable[Report]) -> State:
        """The new server state from the clients' sums: the same bits for any grouping of the clients."""
        strategy = self.strategy
        assert isinstance(strategy, WeightStrategy)
        sums = Sums()
        for report in reports:
            sums += report.sums
        self.state = strategy.aggregate(self.state, sums.means(self.state))
        return self.state

    # -- a round of insights -----------------------------------------------------------------------------------------

    def run_insight_round(self, round: int | None = None, evaluated: Ids | None = None, test: bool = True) -> RoundResult:
        """Guidance down, guided local work, one insight up from each client; then the MetaLearner learns.

        test, evaluated: as for `run_round`; a strategy that is done with this round is tested in any case.
        """
        if not isinstance(self.strategy, InsightStrategy):
            self._exchange_insights()
        strategy = self.strategy
        assert isinstance(strategy, InsightStrategy)
        assert self.meta is not None
        self.round = self.round + 1 if round is None else round
        plan = self.plan_round()
        if plan.staleness.any():
            raise ValueError(f"{strategy.title} exchanges insights: its clients start from the newest guidance, not from an older one")
        present = ~plan.lost
        orders = self._at_home(plan.ids[present], plan.steps[present])
        down = self._deliver(plan.ids)
        reports = self.clients.map(Client.generate_insight, orders, shared=(self.round, self.clients.put(self.guidance.sent())))
        report = joined(list(reports.values()))
        sent = [Sent(orders[actor][0], one.insights) for actor, one in reports.items() if one.insights is not None]
        lesson, accepted, rejections = self.meta.map(MetaLearner.learn, {0: (sent, self.round)})[0]
        heads = {}
        if lesson.experts:
            assert self.experts is not None
            self.experts.resize([(expert,) for expert in range(len(lesson.experts))])
            heads = self.experts.map(Expert.fit, lesson.experts)
        self.guidance = strategy.instruct(lesson, heads, self.guidance)
        self._released += self.guidance.size
        self._count_bytes(plan, insights.wire_bytes(strategy.payload(self.problem, self.round)), down)
        if lesson.done or lesson.deliver:  # to everybody, whether in this round or not
            everyone = np.flatnonzero(self.home >= 0)
            self.clients.map(Client.receive, self._at_home(everyone), shared=(self.round, self.clients.put(self.guidance.sent())))
            self.downlink[everyone] += self._deliver(everyone)
        heard = np.isin(report.ids, accepted["client_id"].to_numpy())
        rejected = [*report.rejected.items(), *rejections]
        result = self._result(report, heard, rejected, self.guidance, evaluated, test or lesson.done)
        if result.clients is not None:
            result.clients |= {name: values[result.clients["client_id"]] for name, values in lesson.clients.items()}
        result.insights, result.learned = accepted, lesson.learned
        # Where the payload is too large to be written down, no later driver could give it back.
        self._forgets |= not set(strategy.payload(self.problem, self.round)) <= set(accepted.schema.names)
        result.diverged, result.done = len(accepted) == 0 < len(report.ids), lesson.done
        return result

    @property
    def memory(self) -> Any:
        """The insights learned from so far: the MetaLearner's history (by hand; its length is their number)."""
        assert isinstance(self.meta, LocalFleet)
        return self.meta.workers[0].insight_history

    def _exchange_insights(self) -> None:
        """By hand: goes on from rounds of weights to rounds of insights, from the model learned so far."""
        row = self.state.get("x", self.problem.row)
        self.begin(InsightExchange(), replace(self.problem, row=row), self.run)

    # -- what both share ---------------------------------------------------------------------------------------------

    def answer(self) -> State | Guidance:
        """What the strategy's server half holds now."""
        return self.guidance if isinstance(self.strategy, InsightStrategy) else self.state

    def _everyone(self) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(self.clients.size), ())

    def plan_round(self) -> RoundPlan:
        """What the round is to be, by the strategy's schedule: before any work, from what the server holds."""
        samples, strategy = self.problem.samples, self.strategy
        clients = np.flatnonzero(self.home >= 0) if len(samples) == len(self.home) else np.arange(len(samples))
        steps, count = strategy.planned_steps(self.problem, self.answer()), strategy.sampled(len(clients))
        known = RoundInput(self.problem.seed, self.round, clients, samples, steps, count, oldest=len(self._older))
        return strategy.schedule.next(known)

    def _at_home(self, ids: Ids, *each: NDArray[Any]) -> dict[int, tuple[Any, ...]]:
        """The clients of each actor, and their part of arrays `[n]` that say something of each."""
        homes = self.home[ids]
        return {int(actor): tuple(values[homes == actor] for values in (ids, *each)) for actor in np.unique(homes)}

    def _assign(self, ids: Ids, steps: Ids, at_home: bool) -> dict[int, tuple[Any, ...]]:
        """Which actor works for which clients, with how many steps: at home where clients keep memory, else dealt out by the work."""
        if at_home or not self.anywhere:
            return self._at_home(ids, steps)
        parts = deal(ids, steps, self.clients.size)
        return {actor: (part, steps[np.searchsorted(ids, part)]) for actor, part in enumerate(parts) if len(part)}

    def _deliver(self, ids: Ids) -> Ids:
        """Bytes of guidance that go down to each of the clients: what it has not got yet."""
        down: Ids = self._released - self._received[ids]
        self._received[ids] = self._released
        return down

    def _count_bytes(self, plan: RoundPlan, up: int, down: Ids) -> None:
        """Everybody of the plan downloads; what the lost ones send does not arrive, and is not counted."""
        self.uplink[plan.ids[~plan.lost]] += up
        self.downlink[plan.ids] += down

    def _result(
        self,
        report: Report,
        heard: NDArray[np.bool_],
        rejected: Sequence[Rejection],
        answer: State | Guidance,
        evaluated: Ids | None,
        test: bool,
    ) -> RoundResult:
        """heard: which of the report's clients entered the round."""
        sent = int(self.uplink.sum()), int(self.downlink.sum())
        row: dict[str, Any] = {
            "round": self.round,
            "clients": len(report.ids),
            "rejected": len(rejected),
            "train_loss": self._train_loss(report, heard),
            "uplink_bytes": sent[0] - self._counted[0],
            "downlink_bytes": sent[1] - self._counted[1],
        }
        self._counted = sent
        result = RoundResult(row, int(report.steps.sum()), rejected=list(rejected))
        if test:
            result.clients, stats = self._evaluate(np.flatnonzero(self.home >= 0) if evaluated is None else evaluated, answer)
            row |= metrics.round_columns(stats, result.clients["num_test"])
        return result

    def _train_loss(self, report: Report, heard: NDArray[np.bool_]) -> float | None:
        """The mean of the losses met, weighted by training rows, over the clients that trained and were heard."""
        met = ~np.isnan(report.loss) & heard
        weight = self.problem.samples[report.ids[met]].astype(np.float64)
        return float((weight * report.loss[met]).sum() / weight.sum()) if weight.sum() else None

    def _evaluate(self, ids: Ids, answer: State | Guidance) -> tuple[dict[str, NDArray[Any]], Stats]:
        sent: Any = answer.sent() if isinstance(answer, Guidance) else {name: value.numpy() for name, value in answer.items()}
        parts = list(self.clients.map(Client.measure, self._at_home(ids), shared=(self.clients.put(sent),)).values())
        columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
        order = np.argsort(columns["client_id"])
        columns = {name: value[order] for name, value in columns.items()}
        stats = merge_metrics([part for _, part in parts])
        columns |= metrics.client_columns(stats) | {
            "num_train": self.samples[ids],
            "num_test": self.tests[ids],
            "uplink_bytes": self.uplink[ids],
            "downlink_bytes": self.downlink[ids],
        }
        return columns, stats


def _as_arrays(state: State) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in state.items()}


def _as_tensors(arrays: Mapping[str, Any]) -> State:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
