"""Server: runs the rounds. Broadcast, local work, gather, aggregate; it holds no training data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from scarcity_ray.actors.by_hand import problem_by_hand
from scarcity_ray.actors.client import Client
from scarcity_ray.actors.expert import Expert
from scarcity_ray.actors.gathering import aggregate
from scarcity_ray.actors.meta_learner import MetaLearner, updated
from scarcity_ray.actors.planning import Planner
from scarcity_ray.actors.report import Ids, Measured, Report, RoundResult, report_of
from scarcity_ray.actors.traffic import Traffic
from scarcity_ray.core import metrics
from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate
from scarcity_ray.core.insights import Rejection, Sent
from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.core.versions import starts
from scarcity_ray.runtime.fleet import Fleet, LocalFleet
from scarcity_ray.runtime.placement import deal
from scarcity_ray.scarcity.simulation import Simulation
from scarcity_ray.scarcity.taking_part import TakingPart
from scarcity_ray.scarcity.world import World
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.insight_exchange import InsightExchange
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import Problem


class Server:
    """Drives Client actors through rounds, with a MetaLearner and Experts where a strategy has insights.

    By hand, `Server(num_clients=5)` makes its own five clients and learns a linear model; or give it `clients`, `model`
    (a torch module), `local` (how clients train) and `strategy`. In a run it gets fleets of actors, each of which can read any
    client's shard.
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
        if by_hand and experts is None:
            experts = [Expert(0)]
        self.meta: Fleet | None = LocalFleet([meta_learner]) if isinstance(meta_learner, MetaLearner) else meta_learner
        self.experts: Fleet | None = LocalFleet(experts) if isinstance(experts, Sequence) else experts
        self.any_actor, self.run = not by_hand, ""
        if by_hand:
            assert isinstance(clients, Sequence)
            if len(clients) != num_clients:
                raise ValueError(f"num_clients is {num_clients}, but there are {len(clients)} clients")
            self.load_federation()
            strategy = strategy or FedAvg()
            self.set_strategy(strategy, problem_by_hand(strategy, clients[0].federation, self.samples, model, local, seed))

    # -- what it works with ------------------------------------------------------------------------------------------

    def load_federation(self, clients: Fleet | None = None, meta_learner: Fleet | None = None, experts: Fleet | None = None) -> None:
        """Asks the Client actors which clients each has, and how many rows each client holds. It does not get the rows.

        clients, meta_learner, experts: the actors that it works with from now on; those it has if no clients are given.
        """
        if clients is not None:
            self.clients, self.meta, self.experts = clients, meta_learner, experts
        found = self.clients.map(Client.samples, self._all_actors())
        population = max(int(part["ids"].max(initial=-1)) for part in found.values()) + 1
        self.actor_of = np.full(population, -1, dtype=np.int64)  # -1: no actor has a client of that id
        self.samples, self.tests = np.zeros(population, dtype=np.int64), np.zeros(population, dtype=np.int64)
        for actor, part in found.items():
            self.actor_of[part["ids"]], self.samples[part["ids"]], self.tests[part["ids"]] = actor, part["train"], part["test"]

    def set_strategy(
        self,
        strategy: Strategy,
        problem: Problem,
        run: str = "",
        setup: tuple[Ids, Ids] | None = None,
        drift: int | None = None,
        world: World | None = None,
    ) -> None:
        """Starts a strategy before round 1, with the rounds of another that prepares it where it has any.

        setup: bytes up and down of each client before it (preparing the data). drift: the round before which clients' data
        change. world: what is scarce; None: nothing, as for clients of the strategy's own making.
        """
        self.run, self.round, self._over, self._drift, self._forgets = run, 0, False, drift, False
        self.traffic = Traffic(*(setup or (np.zeros(len(self.actor_of), dtype=np.int64),) * 2))
        scarce = world is not None and problem.population == len(self.actor_of)
        self.simulation = Simulation(world, self.traffic.uplink, self.traffic.downlink) if scarce and world is not None else None
        preparation = strategy.preparation(problem)
        self._next = None if preparation is None else (strategy, problem, preparation[2])
        self._start(*(preparation[:2] if preparation else (strategy, problem)))

    def _start(self, strategy: Strategy, problem: Problem, prepared: ServerState | None = None) -> None:
        self.strategy, self.problem = strategy, problem
        state: object = strategy.init_server(problem, prepared)
        if not isinstance(state, ServerState):
            raise TypeError(f"{strategy.title}: init_server returned {type(state).__name__}, not a ServerState")
        self.state = state
        self._older: list[ServerState] = []  # states of earlier rounds, newest first, as far back as the schedule may go
        self.traffic.start(self.state)
        self._keeps = bool(strategy.first_client_state(problem, self.state))
        self._put: tuple[ServerState, Any] | None = None
        shared = (strategy, self.clients.put(problem), self._sent(self.state), self.run)
        self.clients.map(Client.set_strategy, self._all_actors(), shared=shared)
        if strategy.sends_insights:
            if self.meta is None:
                raise ValueError(f"clients of {strategy.title} send insights: the server needs a MetaLearner")
            self.meta.map(MetaLearner.set_strategy, {0: (strategy, problem, self.run)})
        self._planner = Planner(strategy, problem, self.simulation, self.traffic, self.meta)

    def _start_next(self) -> None:
        """Starts the strategy that the one until now has prepared."""
        assert self._next is not None
        strategy, problem, _ = self._next
        self._next = None
        self._start(strategy, problem, self.state)

    # -- what a checkpoint keeps -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the server half must know to continue after this round, plain values and arrays."""
        return {
            "round": self.round,
            "traffic": self.traffic.state_dict(),
            "prepared": self._next is None,
            "state": self.state.as_arrays(),
            "older": [state.as_arrays() for state in self._older],
            "simulation": None if self.simulation is None else self.simulation.state_dict(),
            "planner": self._planner.state_dict(),
        }

    def current_state(self) -> ServerState:
        """What the strategy's server half holds now."""
        return self.state

    def load_state_dict(
        self, server: Mapping[str, Any], clients: Mapping[str, NDArray[Any]], history: Mapping[int, pa.RecordBatch]
    ) -> None:
        """Continues from what `state_dict` returned, after `set_strategy`. clients: what every client kept then, rows by rising id.
        history: the insights of each round so far."""
        state = ServerState.of_arrays(server["state"])
        if self._next is not None and server["prepared"]:
            self._start_next()
        self.state, self._older = state, [ServerState.of_arrays(older) for older in server["older"]]
        self.round = server["round"]
        self.traffic.load_state_dict(server["traffic"])
        if self.simulation is not None:
            self.simulation.load_state_dict(server["simulation"])
        self._planner.load_state_dict(server["planner"])
        if self.strategy.sends_insights and self.meta is not None:
            self.meta.map(MetaLearner.load_state_dict, {0: (dict(history),)})
        if self._drift is not None and self.round >= self._drift:
            self.clients.map(Client.drift, self._all_actors())
        if clients:
            self.clients.map(Client.load_state_dict, self._all_actors(), shared=(self.clients.put(dict(clients)),))

    def _client_state(self) -> dict[str, NDArray[Any]]:
        """What every client keeps, `[clients, ...]` by rising id; empty where they keep nothing."""
        if not self._keeps:
            return {}
        parts = list(self.clients.map(Client.state_dict, self._all_actors()).values())
        order = np.argsort(np.concatenate([ids for ids, _ in parts]))
        return {name: np.concatenate([kept[name] for _, kept in parts])[order] for name in parts[0][1]}

    # -- a round -----------------------------------------------------------------------------------------------------

    def run_ordered_round(self, round: int, evaluated: Ids, test: bool, keep: bool = False, last: bool = True) -> RoundResult | None:
        """A round of a run, which may have been ordered before the last one ended: None, and nothing done, once the strategy has
        diverged, failed, or has nothing more to learn. keep: the result has what a checkpoint needs. last: no round follows it."""
        if self._over:
            return None
        self._over = True  # should this round fail, those that are ordered already must not be run without it
        starts = self._next is not None and round > self._next[2]
        if starts:
            self._start_next()  # with it, clients take the data that they began with
        if self._drift is not None and (round == self._drift or (starts and round > self._drift)):
            self.clients.map(Client.drift, self._all_actors())
        result = self.run_round(round, evaluated, test, last)
        self._over = result.diverged or result.done
        if keep and not self._forgets:
            began = time.perf_counter()
            result.server, result.client_state = self.state_dict(), self._client_state()
            result.kept_seconds = time.perf_counter() - began
        return result

    def run_round(self, round: int | None = None, evaluated: Ids | None = None, test: bool = True, last: bool = True) -> RoundResult:
        """Broadcast, local work, aggregation. round: the next one if left out. test: whether the clients `evaluated` (all if left
        out) are tested after it; after the last round of a strategy that ends they are in any case. last: metrics that need single
        rows are measured too."""
        self.round = self.round + 1 if round is None else round
        plan = self.plan_round()
        down = self.traffic.start_round(self.problem, self.state, plan)
        reports, sent = self._local_work(plan)
        report = report_of(reports)
        in_meta = self.strategy.server_half == "meta_learner"
        update, rejections = ServerUpdate(self.state), list[Rejection]()
        accepted: pa.RecordBatch | None = None
        void = self._planner.played is not None and not len(report.ids)
        if self.strategy.sends_insights and not void:
            assert self.meta is not None
            half = (self.state, self._aggregate(reports), plan) if in_meta else ()
            learned, accepted, rejections = self.meta.map(MetaLearner.learn, {0: (sent, self.round, *half)})[0]
            update = learned if in_meta else update  # without the server half it has no state of its own
        heard = ~np.isin(report.ids, list(report.rejected))
        if accepted is not None and in_meta:
            heard = np.isin(report.ids, accepted["client_id"].to_numpy())
        diverged = len(report.ids) > 0 and not heard.any()
        self._planner.learn(self.round, report, heard)
        if in_meta or diverged or void:
            self._set_state(update)
        else:
            update = self.aggregate_models(reports, plan)
        self.traffic.count(self.strategy, self.problem, plan, report, down)
        if update.done or update.deliver:  # to all clients, whether in this round or not
            self._deliver()
        result = self._result(report, heard, [*report.rejected.items(), *rejections])
        played = self._planner.played
        done = update.done or (played is not None and played.over)
        if test or done:
            self._evaluate(result, self._clients() if evaluated is None else evaluated, update.clients, last or done or diverged)
        result.learned, result.diverged, result.done = update.learned, diverged, done
        # Where the payload is too large to be written down, a later process could not read it back.
        if accepted is not None:
            result.insights = accepted
            self._forgets |= not set(self.strategy.payload(self.problem, self.round)) <= set(accepted.schema.names)
        return result

    def broadcast_model(self, state: ServerState | None = None) -> Any:
        """A state (the newest if left out) as one reference for all clients."""
        return self._sent(state or self.state)

    def aggregate_models(self, reports: Sequence[Report], plan: RoundPlan | None = None) -> ServerUpdate:
        """The server half of a round, and its new state, from what clients sent: the same bits for any grouping of the clients."""
        context = RoundContext(self.problem, self.round, plan)
        update = updated(self.strategy, context, self.state, self._aggregate(reports))
        self._set_state(update)
        return update

    def run_insight_round(self, round: int | None = None, evaluated: Ids | None = None, test: bool = True) -> RoundResult:
        """A round whose clients send insights. By hand, a strategy that sends none is followed by insight_exchange, which starts from
        the model learned so far."""
        if not self.strategy.sends_insights:
            row = self.state.broadcast.get("x", self.problem.row)
            self.set_strategy(InsightExchange(), replace(self.problem, row=row), self.run)
        return self.run_round(round, evaluated, test)

    @property
    def memory(self) -> Any:
        """The insights so far: the MetaLearner's history (by hand; its length is their number)."""
        assert isinstance(self.meta, LocalFleet)
        return self.meta.workers[0].insight_history

    # -- the parts of a round ----------------------------------------------------------------------------------------

    def plan_round(self) -> RoundPlan:
        """What the round is to be, by the strategy's schedule: before any work, from what the server holds."""
        return self._planner.plan(self.round, self.state, self._clients(), len(self._older))

    def _local_work(self, plan: RoundPlan) -> tuple[list[Report], list[Sent]]:
        """The reports of the Client actors, and the insights in them, each with the clients whose they may be."""
        totals = self._totals(plan.ids[~plan.lost])
        reports, sent = [], []
        discounted = self.simulation is not None and self.strategy.answer.late == "stale"
        for state, chosen in starts(plan, [self.state, *self._older], self.strategy.reads_versions):
            discounts = np.array([(1 + age) ** -0.5 if discounted else 1.0 for age in plan.staleness[chosen].tolist()])
            orders = self._assign(plan.ids[chosen], plan.steps[chosen], discounts)
            shared = (self.round, self.broadcast_model(state), totals)
            for actor, report in self.clients.map(Client.local_train, orders, shared=shared).items():
                reports.append(report)
                if report.insights is not None:
                    sent.append(Sent(orders[actor][0], report.insights))
        return reports, sent

    def _aggregate(self, reports: Sequence[Report]) -> Aggregate:
        report, weights = report_of(reports), self.strategy.client_weights
        heard = np.setdiff1d(report.ids, list(report.rejected))
        share = float(weights(self.problem.samples[heard]).sum()) / (float(weights(self.problem.samples[self._clients()]).sum()) or 1.0)
        return aggregate(self.strategy, self.problem, self.state, self.round, reports, self._totals(report.ids), (share, len(heard)))

    def _set_state(self, update: ServerUpdate) -> None:
        """Takes the state of an update, once the Experts have fitted what it asks for."""
        state = update.state
        if update.experts:
            assert self.experts is not None
            self.experts.resize([(expert,) for expert in range(len(update.experts))])
            state = self.strategy.with_experts(update, self.experts.map(Expert.fit, update.experts))
        self._older = [self.state, *self._older][: max(self.strategy.schedule.max_staleness, self.strategy.answer.stalest)]
        if state is not self.state:
            self.traffic.release(state)
        self.state = state

    def _deliver(self) -> None:
        ids = np.flatnonzero(self.actor_of >= 0)
        if self.simulation is not None:
            ids = self.simulation.receivers(ids, self.traffic.due(self.problem, self.state, ids))
        self.clients.map(Client.receive, self._by_actor(ids), shared=(self.round, self.broadcast_model()))
        self.traffic.downlink[ids] += self.traffic.receive(self.problem, self.state, ids)

    # -- clients, actors and bytes -----------------------------------------------------------------------------------

    def _clients(self) -> Ids:
        """The clients that may take part, by rising id: those of the actors, or of the strategy's own making."""
        mine = self.problem.population == len(self.actor_of)
        return np.flatnonzero(self.actor_of >= 0) if mine else np.arange(self.problem.population)

    def _all_actors(self) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(self.clients.size), ())

    def _by_actor(self, ids: Ids, *each: NDArray[Any]) -> dict[int, tuple[Any, ...]]:
        """The clients of each actor, and their part of arrays `[n]` that say something of each."""
        actors = self.actor_of[ids]
        return {int(actor): tuple(values[actors == actor] for values in (ids, *each)) for actor in np.unique(actors)}

    def _assign(self, ids: Ids, steps: Ids, discounts: NDArray[np.float64]) -> dict[int, tuple[Any, ...]]:
        """Which actor works for which clients, with how many steps, and what each counts: the one that keeps a client's state, else dealt
        out by the work."""
        if self.strategy.server_half == "meta_learner" or self._keeps or not self.any_actor:
            return self._by_actor(ids, steps, discounts)
        orders = {}
        for actor, part in enumerate(deal(ids, steps, self.clients.size)):
            if len(part):
                places = np.searchsorted(ids, part)
                orders[actor] = part, steps[places], discounts[places]
        return orders

    def _totals(self, ids: Ids) -> dict[str, float]:
        """The most that clients may weigh together in each upload."""
        samples, strategy = self.problem.samples[ids], self.strategy
        return {name: float(strategy.weight_limit(name, samples).sum()) or 1.0 for name in strategy.uploads(self.problem, self.state)}

    def _sent(self, state: ServerState) -> Any:
        """A reference to what clients see of a state: testing it and the next round share one."""
        if self._put is None or self._put[0] is not state:
            self._put = state, self.clients.put(state.sent())
        return self._put[1]

    # -- results -----------------------------------------------------------------------------------------------------

    def _result(self, report: Report, heard: NDArray[np.bool_], rejected: list[Rejection]) -> RoundResult:
        """heard: which of the report's clients entered the round."""
        row: dict[str, Any] = {
            "round": self.round,
            "clients": len(report.ids),
            "rejected": len(rejected),
            "train_loss": report.mean_loss(heard, self.problem.samples),
            **self.traffic.of_round(),
        }
        if self.simulation is not None and self._planner.played is not None:
            row |= {**self._planner.played.columns, "joules": self.simulation.joules()}
        return RoundResult(row, int(report.steps.sum()), rejected=rejected)

    def _evaluate(self, result: RoundResult, ids: Ids, more: Mapping[str, NDArray[Any]], last: bool) -> None:
        """Tests clients and adds what was found to the result. more: columns `[clients]` of the clients table."""
        found = Measured.merge(list(self.clients.map(Client.measure, self._by_actor(ids), shared=(self._sent(self.state), last)).values()))
        columns = found.columns
        columns |= (
            metrics.client_columns(found.stats)
            | metrics.client_columns(found.of_global, metrics.GLOBAL)
            | {
                "num_train": self.samples[ids],
                "num_test": self.tests[ids],
                "uplink_bytes": self.traffic.uplink[ids],
                "downlink_bytes": self.traffic.downlink[ids],
            }
        )
        if self.simulation is not None:
            columns |= self.simulation.client_columns(ids)
            result.taking_part = TakingPart.of(self.simulation.ledger, self.strategy.answer.message)
        result.clients = columns | {name: values[columns["client_id"]] for name, values in more.items()}
        result.row |= metrics.round_columns(found.stats, columns["num_test"])
        result.keep_rows(found)
