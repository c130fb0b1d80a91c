"""Who is selected for a round, where a strategy selects by what the server knows of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.actors.meta_learner import MetaLearner
from scarcity_ray.actors.report import Report
from scarcity_ray.core.schedule import RoundInput
from scarcity_ray.core.selection import Candidates, Costs, Heard, Selection
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.runtime.fleet import Fleet


class Selector:
    """A strategy's rule and what it has learned: here of losses, in the MetaLearner of insights."""

    def __init__(self, rule: Selection, strategy: Strategy, clients: int, meta: Fleet | None) -> None:
        self._rule, self._strategy = rule, strategy
        self._meta = meta if rule.learns == "insights" else None
        self._state = rule.start(clients)

    def select(self, known: RoundInput, costs: Costs) -> RoundInput:
        """The round with the clients selected alone, and with their steps. costs: of `known.clients`."""
        ids = known.clients
        if known.count >= len(ids):
            return known
        if self._meta is not None:
            self._state = self._meta.map(MetaLearner.outlook, {0: ()})[0]
        rows, steps = known.samples[ids], known.steps[ids]
        round = known.round & 0xFFFFFFFF  # without the number of the attempt
        weights = self._strategy.client_weights(rows)
        candidates = Candidates(known.seed, round, ids, known.count, rows, weights, steps, costs)
        places, taken = self._rule.select(self._state, candidates)
        twice = len(np.unique(ids[places])) < len(places)  # a place from the end has a second number
        if twice or not 0 < len(places) <= known.count or ((taken > steps[places]) | (taken < 0)).any():
            allowed = f"1 to {known.count} clients, each once, and for each from 0 to the steps that are planned"
            raise ValueError(f"{self._rule.kind_title} selected {ids[places].tolist()} with {taken.tolist()} steps; allowed: {allowed}")
        planned = known.steps.copy()
        planned[ids[places]] = taken
        return replace(known, clients=np.sort(ids[places]), count=len(places), steps=planned)

    def learn(self, round: int, report: Report, heard: NDArray[np.bool_], samples: NDArray[np.int64]) -> None:
        """Takes what clients have said. heard: which of the report's clients entered the round. samples: training rows by id.

        A loss that is not finite teaches nothing, as one of a client without steps.
        """
        if self._meta is None:
            ids = report.ids[heard]
            loss, norm = (np.where(np.isfinite(said), said, np.nan) for said in (report.loss[heard], report.loss_norm[heard]))
            self._state = self._rule.learned(self._state, Heard(round, ids, samples[ids], loss, norm))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps. What the MetaLearner has learned follows from its history."""
        return {} if self._meta is not None else {name: value.copy() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        if self._meta is None:
            self._state = {name: np.array(value) for name, value in state.items()}
