"""Planning a strategy's rounds: before any work, from what the server holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.actors.asked import asked_of
from scarcity_ray.actors.report import Ids, Report
from scarcity_ray.actors.selecting import Selector
from scarcity_ray.actors.traffic import Traffic
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.core.selection import Costs
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import Fleet
from scarcity_ray.scarcity.played import Played
from scarcity_ray.scarcity.simulation import Simulation
from scarcity_ray.training.problem import Problem


class Planner:
    """Plans rounds: who is there and can pay (the simulation), who of these is selected, and what they do (the schedule).

    simulation: None where nothing is scarce. traffic: the Server's, to which attempts at a round in vain are charged. meta: the
    MetaLearner, for a selection by insights. played: the round as the clock played it; None without one.
    """

    def __init__(self, strategy: Strategy, problem: Problem, simulation: Simulation | None, traffic: Traffic, meta: Fleet | None) -> None:
        self.strategy, self.problem, self.simulation, self.traffic = strategy, problem, simulation, traffic
        rule = strategy.selects
        self._selector = None if rule is None else Selector(rule, strategy, problem.population, meta)
        self.played: Played | None = None

    def plan(self, round: int, state: ServerState, clients: Ids, oldest: int) -> RoundPlan:
        """What a round is to be. clients: those that may take part. oldest: the age of the oldest state that the server holds."""
        strategy, problem, traffic = self.strategy, self.problem, self.traffic
        steps, count = strategy.planned_steps(problem, state), strategy.sampled(len(clients))
        known = RoundInput(problem.seed, round, clients, problem.samples, steps, count, oldest=oldest)
        select = None if self._selector is None else self._selector.select
        if self.simulation is None:
            return strategy.schedule.next(known if select is None else select(known, Costs.free(len(clients))))
        played: Played | None = None
        while played is None or played.again(strategy.answer):
            if played is not None:
                traffic.count_lost(strategy, problem, state, played.plan)
            due = traffic.due(problem, state, np.arange(problem.population))
            asked = asked_of(strategy, problem, state, round, due, select)
            played = self.simulation.plan(known, strategy.schedule, strategy.answer, asked, played)
        self.played = played
        heard, steps = (part[~played.plan.lost] for part in (played.plan.ids, played.plan.steps))
        self.simulation.ledger.work[heard] += asked.flops(heard, steps)
        return played.plan

    def learn(self, round: int, report: Report, heard: NDArray[np.bool_]) -> None:
        """Takes what clients have said in a round. heard: which of the report's clients entered it."""
        if self._selector is not None:
            self._selector.learn(round, report, heard, self.problem.samples)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, beside the simulation."""
        return {} if self._selector is None else self._selector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        if self._selector is not None:
            self._selector.load_state_dict(state)
