"""Server: plays the rounds. Broadcast, local work, gather, aggregate; it holds no training data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from scarcity_ray.actors.by_hand import default_model
from scarcity_ray.actors.client import Client, Ids, Report
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.core import insights, metrics
from scarcity_ray.core.insights import Rejection, Sent
from scarcity_ray.core.strategy import Guidance, InsightStrategy, State, Strategy, WeightStrategy
from scarcity_ray.runtime.fleet import Fleet, LocalFleet
from scarcity_ray.runtime.placement import deal
from scarcity_ray.schedules.uniform import cohort
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.insight_exchange import InsightExchange
from scarcity_ray.training.evaluate import Stats, merge_metrics
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.sums import Sums


@dataclass
class RoundResult:
    """What one round left.

    row: the round's columns of the rounds table (all but strategy, seed and seconds). steps: local steps of all clients
    together. clients: columns of the clients table, by rising client id; None where the round was not evaluated.
    insights: the accepted insights. learned: what summary.json is to say of the round's lesson. rejected: whose update or
    insight did not enter (None where an insight did not tell), and why. diverged: not one update could be used. done: the
    strategy has nothing more to learn. held, memory: see Server.held, where they were asked for; kept_seconds: what that took.
    seconds: from the end of the round before to the end of this one, as the driver of a run sees it.
    """

    row: dict[str, Any]
    steps: int
    clients: dict[str, NDArray[Any]] | None = None
    insights: pa.RecordBatch | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    diverged: bool = False
    done: bool = False
    held: dict[str, Any] | None = None
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept_seconds: float = 0.0
    seconds: float = 0.0


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
        self.clients.map(Client.begin, self._everyone(), shared=(strategy, self.clients.put(problem), self.run))
        if isinstance(strategy, InsightStrategy):
            if self.meta is None:
                raise ValueError(f"{strategy.title} exchanges insights: the server needs a MetaLearner")
            self.meta.map(MetaLearner.begin, {0: (strategy, problem, self.run)})
            self.guidance = strategy.open(problem) if guidance is None else guidance
            self._untold = self.guidance.size  # bytes of guidance that has not gone down yet
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
            return {**held, "guidance": vars(self.guidance), "untold": self._untold}
        return {**held, "state": {name: value.numpy() for name, value in self.state.items()}}

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
            self.guidance, self._untold = guidance, held["untold"]
            self.meta.map(MetaLearner.restore, {0: (dict(history),)})
        else:
            self.state = {name: torch.from_numpy(np.array(value)) for name, value in held["state"].items()}
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
        samples = self.problem.samples
        ids = cohort(self.problem.seed, self.round, len(samples), strategy.sampled(len(samples)))
        total = strategy.total_weight(samples[ids])
        model = self.broadcast_model()
        orders = self._hands(ids, self.problem.local.steps_for(samples[ids]), at_home=bool(strategy.memory(self.problem)))
        reports = list(self.clients.map(Client.local_train, orders, shared=(self.round, model, total)).values())
        report = _joined(reports)
        diverged = len(report.rejected) == len(ids)
        if not diverged:
            self.aggregate_models(reports)
        members = ids if len(samples) == len(self.home) else np.arange(len(self.home))
        self._count_bytes(members, *strategy.traffic(self.problem))
        heard = ~np.isin(report.ids, list(report.rejected))
        result = self._result(report, heard, list(report.rejected.items()), self.state, evaluated, test)
        result.diverged = diverged
        return result

    def broadcast_model(self) -> Any:
        """The server's state as one reference for all clients."""
        return self.clients.put({name: value.numpy() for name, value in self.state.items()})

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
        ids = np.flatnonzero(self.home >= 0)
        orders = self._at_home(ids)
        down = self._untold
        reports = self.clients.map(Client.generate_insight, orders, shared=(self.round, self.clients.put(self.guidance.sent())))
        report = _joined(list(reports.values()))
        sent = [Sent(orders[actor][0], one.insights) for actor, one in reports.items() if one.insights is not None]
        lesson, accepted, rejections = self.meta.map(MetaLearner.learn, {0: (sent, self.round)})[0]
        heads = {}
        if lesson.experts:
            assert self.experts is not None
            self.experts.resize([(expert,) for expert in range(len(lesson.experts))])
            heads = self.experts.map(Expert.fit, lesson.experts)
        self.guidance = strategy.instruct(lesson, heads, self.guidance)
        self._untold = self.guidance.size
        if lesson.done or lesson.deliver:
            self.clients.map(Client.receive, orders, shared=(self.round, self.clients.put(self.guidance.sent())))
            down, self._untold = down + self._untold, 0
        self._count_bytes(ids, insights.wire_bytes(strategy.payload(self.problem, self.round)), down)
        heard = np.isin(report.ids, accepted["client_id"].to_numpy())
        rejected = [*report.rejected.items(), *rejections]
        result = self._result(report, heard, rejected, self.guidance, evaluated, test or lesson.done)
        if result.clients is not None:
            result.clients |= {name: values[result.clients["client_id"]] for name, values in lesson.clients.items()}
        result.insights, result.learned = accepted, lesson.learned
        # Where the payload is too large to be written down, no later driver could give it back.
        self._forgets |= not set(strategy.payload(self.problem, self.round)) <= set(accepted.schema.names)
        result.diverged, result.done = len(accepted) == 0, lesson.done
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

    def _at_home(self, ids: Ids) -> dict[int, tuple[Any, ...]]:
        homes = self.home[ids]
        return {int(actor): (ids[homes == actor],) for actor in np.unique(homes)}

    def _hands(self, ids: Ids, work: NDArray[np.int64], at_home: bool) -> dict[int, tuple[Any, ...]]:
        """Which actor works for whom: at home where clients keep memory, else dealt out by the work."""
        if at_home or not self.anywhere:
            return self._at_home(ids)
        return {actor: (hand,) for actor, hand in enumerate(deal(ids, work, self.clients.size)) if len(hand)}

    def _count_bytes(self, ids: Ids, up: int, down: int) -> None:
        self.uplink[ids] += up
        self.downlink[ids] += down

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


def _joined(reports: Iterable[Report]) -> Report:
    """One report of all clients, by rising id, without sums and insights."""
    parts = list(reports)
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    return Report(
        ids[order],
        np.concatenate([part.loss for part in parts])[order],
        np.concatenate([part.steps for part in parts])[order],
        {client: why for part in parts for client, why in sorted(part.rejected.items())},
    )
