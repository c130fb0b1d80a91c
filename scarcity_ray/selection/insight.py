"""Selection by insights: the clients whose turns are expected to bring the most for what is scarce.

The MetaLearner follows each client's gain, the improvement of its loss in a turn, relative to that of the others: a local level model
(Harvey, "Forecasting, Structural Time Series Models and the Kalman Filter", 1989, section 2.3). Clients are ranked by upper confidence
bounds (Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", 2002).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Floats, Heard, Selection, State

_LENGTHS = 16
"""Lengths of a round that are compared."""


@SELECTIONS.register
class Insight(Selection):
    """Clients send insights, 52 bytes. A client's gain has a mean and a variance, both 1 before it is heard:

        gain observed:  r = improvement / level,  level = sum of improvements / sum of means, over the round
        variance grows by `drift` a round, to 1 at most; then  mean += k (r - mean),  variance *= 1 - k,  k = variance / (variance + noise)

    The noise of an observation is that of `noise`, times the client's uncertainty over that of the round. A turn of a share x of the
    planned steps is expected to bring `weight (mean + bonus sqrt(variance)) sqrt(x)`: more steps bring less each. Places and steps go
    where the sum of this is highest a unit of what is scarce: a second of the round, which lasts as long as its slowest turn, a joule, or
    a turn.
    One round in `floor` takes the clients not heard for longest, so that nobody is left out.
    """

    kind: Literal["insight"] = "insight"
    learns: ClassVar[str] = "insights"
    unit: Annotated[
        Literal["auto", "seconds", "joules", "turns"],
        Field(description="what is scarce; auto: joules where batteries or budgets limit them, else seconds where turns take time"),
    ] = "auto"
    bonus: Annotated[float, Field(ge=0, le=10, description="standard deviations above the mean that a client is ranked by")] = 1.0
    drift: Annotated[float, Field(ge=0, le=1, description="growth of a gain's variance in a round")] = 0.02
    noise: Annotated[float, Field(gt=0, le=10, description="variance of an observed gain of mean uncertainty")] = 0.25
    floor: Annotated[int, Field(ge=2, description="one round in so many takes the clients not heard for longest")] = 5
    least_steps: Annotated[float, Field(gt=0, le=1, description="share of the planned steps that a client does at least")] = 0.25

    def start(self, clients: int) -> State:
        """Every gain as likely 0 as twice the mean."""
        return {"mean": np.ones(clients), "variance": np.ones(clients), "heard": np.zeros(clients)}

    def learned(self, state: State, heard: Heard) -> State:
        """By each client's gain in the round, from its insight."""
        if heard.insights is None or not len(heard.insights):
            return state
        ids, improvement, unsure = (heard.insights[name].to_numpy() for name in ("client_id", "loss_improvement", "uncertainty"))
        mean, last = state["mean"].copy(), state["heard"].copy()
        variance, total = self._variance(state, ids, heard.round), float(improvement.sum(dtype=np.float64))
        last[ids] = heard.round
        if total > 0:
            observed = improvement * (float(mean[ids].sum()) / total)
            noise = self.noise * (unsure / unsure.mean(dtype=np.float64) if unsure.any() else np.ones(len(ids)))
            gain = variance / (variance + noise)
            mean[ids] = np.maximum(mean[ids] + gain * (observed - mean[ids]), 0.0)
            variance = (1 - gain) * variance
        spread = state["variance"].copy()
        spread[ids] = variance
        return {"mean": mean, "variance": spread, "heard": last}

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """By worth a unit, or by rounds waited."""
        ids, steps = candidates.ids, candidates.steps
        if candidates.round % self.floor == 0:
            waited = candidates.best(-state["heard"][ids])
            return waited, steps[waited]
        bound = state["mean"][ids] + self.bonus * np.sqrt(self._variance(state, ids, candidates.round))
        worth, unit = candidates.weights * bound, self._unit(candidates)
        share = np.ones(len(ids))
        if unit == "joules":
            worth, share = self._a_joule(candidates, worth)
        elif unit == "seconds":
            worth, share = self._a_second(candidates, worth)
        chosen = candidates.best(worth)
        return chosen, np.maximum(np.floor(share[chosen] * steps[chosen]), np.minimum(steps[chosen], 1)).astype(np.int64)

    def _variance(self, state: State, ids: Ids, round: int) -> Floats:
        """Of the gains of clients `[n]` in a round."""
        grown: Floats = np.minimum(state["variance"][ids] + self.drift * (round - state["heard"][ids]), 1.0)
        return grown

    def _unit(self, candidates: Candidates) -> str:
        if self.unit != "auto":
            return self.unit
        if np.isfinite(candidates.costs.joules_left).any():
            return "joules"
        return "seconds" if candidates.seconds.any() else "turns"

    def _a_joule(self, candidates: Candidates, worth: Floats) -> tuple[Floats, Floats]:
        """Worth a joule at the share of steps where that is highest: where all steps done cost as much as the messages."""
        fixed, work = candidates.costs.joules, candidates.steps * candidates.costs.step_joules
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(np.where(work > 0, fixed / work, 1.0), self.least_steps, 1.0)
            spent = fixed + share * work
            return worth * np.sqrt(share) / np.where(spent > 0, spent, np.inf if (spent > 0).any() else 1.0), share

    def _a_second(self, candidates: Candidates, worth: Floats) -> tuple[Floats, Floats]:
        """Worth of what each client can do in a round of the length for which the sum of those selected is highest a second."""
        fixed, work, count = candidates.costs.seconds, candidates.steps * candidates.costs.step_seconds, candidates.count
        shortest = np.sort(fixed + self.least_steps * work)
        lengths = np.quantile(np.concatenate([shortest[count - 1 :], fixed + work]), np.linspace(0, 1, _LENGTHS))
        best: tuple[float, Floats, Floats] = (-np.inf, worth, np.ones(len(worth)))
        for length in np.unique(np.maximum(lengths, shortest[count - 1])):
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.clip(np.where(work > 0, (length - fixed) / work, np.where(fixed <= length, 1.0, 0.0)), 0.0, 1.0)
            able = np.where(share >= self.least_steps * (1 - 1e-9), worth * np.sqrt(share), -1.0)
            rate = float(np.partition(able, len(able) - count)[len(able) - count :].sum()) / max(length, 1e-9)
            if rate > best[0]:
                best = rate, able, share
        return best[1:]
