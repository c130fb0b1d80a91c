"""Selection by insights: the clients whose turns are expected to bring the most for what is scarce.

The MetaLearner follows each client's gain, the improvement of its loss in a turn, relative to that of the others: a local level model
(Harvey, "Forecasting, Structural Time Series Models and the Kalman Filter", 1989, section 2.3). Clients are ranked by upper confidence
bounds (Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", 2002).
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Floats, Heard, Selection, State

_LENGTHS = 12
"""Lengths of a round that are compared."""
_ITERATIONS = 3


@SELECTIONS.register
class Insight(Selection):
    """Clients send insights, 52 bytes. A client's gain has a mean and a variance, both 1 before it is heard:

        gain observed:  r = improvement / level,  level = sum of improvements above 0 / sum of means, over the round
        variance grows by `drift` a round, to 1 at most; then  mean += k (r - mean),  variance *= 1 - k,  k = variance / (variance + noise)

    The noise of an observation is that of `noise`, times the client's uncertainty over that of the round. A turn of a share x of the
    planned steps is expected to bring `weight (mean + bonus sqrt(variance)) sqrt(x)`: more steps bring less each. Places and steps go
    where the sum of this is highest for what the round costs: its messages, its seconds, which are those of its slowest turn, and its
    joules, where these are scarce.
    Only some clients, drawn first, are compared, as the best of all would be much alike. One round in `floor` takes the clients not heard
    for longest, so that nobody is forgotten; with a short `round_deadline` these are those that are late each time.
    """

    kind: Literal["insight"] = "insight"
    learns: ClassVar[str] = "insights"
    unit: Annotated[
        Literal["auto", "seconds", "joules", "turns"],
        Field(description="what is scarce; auto: seconds where turns take time, and joules where batteries or budgets limit them"),
    ] = "auto"
    bonus: Annotated[float, Field(ge=0, le=10, description="standard deviations above the mean that a client is ranked by")] = 2.0
    drift: Annotated[float, Field(ge=0, le=1, description="growth of a gain's variance in a round")] = 0.1
    noise: Annotated[float, Field(gt=0, le=10, description="variance of an observed gain of mean uncertainty")] = 0.25
    among: Annotated[float, Field(ge=1, le=1e6, description="clients drawn first for each one selected, of which the best are taken")] = 2.0
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
        variance, improvement = self._variance(state, ids, heard.round), improvement.astype(np.float64)
        last[ids] = heard.round
        # Of those above 0 alone: a sum that losses bring near 0 would make gains of any size.
        if (total := float(np.maximum(improvement, 0.0).sum())) > 0:
            observed = improvement * (float(mean[ids].sum()) / total)
            noise = self.noise * (unsure / unsure.mean(dtype=np.float64) if unsure.any() else np.ones(len(ids)))
            gain = np.divide(variance, variance + noise, out=np.zeros(len(ids)), where=variance > 0)
            mean[ids] = np.maximum(mean[ids] + gain * (observed - mean[ids]), 0.0)
            variance = (1 - gain) * variance
        spread = state["variance"].copy()
        spread[ids] = variance
        return {"mean": mean, "variance": spread, "heard": last}

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """By worth a unit, or by rounds waited."""
        if candidates.round % self.floor == 0:
            waited = candidates.best(-state["heard"][candidates.ids])
            return waited, candidates.steps[waited]
        drawn = np.sort(candidates.best(count=math.ceil(self.among * candidates.count)))
        some = candidates.only(drawn)
        bound = state["mean"][some.ids] + self.bonus * np.sqrt(self._variance(state, some.ids, some.round))
        places, share = self._allocated(some, some.weights * bound)
        planned = some.steps[places]
        return drawn[places], np.maximum(np.floor(share * planned + 1e-9), np.minimum(planned, 1)).astype(np.int64)

    def _variance(self, state: State, ids: Ids, round: int) -> Floats:
        """Of the gains of clients `[n]` in a round."""
        grown: Floats = np.minimum(state["variance"][ids] + self.drift * (round - state["heard"][ids]), 1.0)
        return grown

    def _prices(self, candidates: Candidates) -> tuple[float, float]:
        """What a second of the round and a joule cost: a usual round costs 1 of each that is scarce, beside the 1 of its messages."""
        seconds, joules = candidates.seconds, candidates.joules
        scarce = self.unit == "seconds", self.unit == "joules"
        if self.unit == "auto":
            scarce = bool(seconds.any()), bool(np.isfinite(candidates.costs.joules_left).any() and joules.any())
        usual = float(np.median(seconds)), float(np.mean(joules)) * candidates.count
        price_second, price_joule = (1 / one if wanted and one > 0 else 0.0 for wanted, one in zip(scarce, usual, strict=True))
        return price_second, price_joule

    def _allocated(self, candidates: Candidates, worth: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The places of those whose turns bring the most in sum for what the round costs, and each one's share of its planned steps.

        For each of some lengths of a round a client can do so much of its work; the best ratio of sums is found by Dinkelbach's iteration
        ("On Nonlinear Fractional Programming", Management Science 1967), which takes the highest `worth - ratio * cost` each time.
        """
        price_second, price_joule = self._prices(candidates)
        fixed, work, count = candidates.costs.seconds, candidates.steps * candidates.costs.step_seconds, candidates.count
        shortest = np.sort(fixed + self.least_steps * work)[count - 1]
        lengths = np.array([(fixed + work).max()])
        if price_second:
            lengths = np.maximum(np.quantile(fixed + work, np.linspace(0, 1, _LENGTHS), method="higher"), shortest)
        best: tuple[float, NDArray[np.int64], Floats] = (-np.inf, np.arange(count), np.ones(count))
        for length in np.unique(lengths):
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.clip(np.where(work > 0, (length - fixed) / work, np.where(fixed <= length, 1.0, 0.0)), 0.0, 1.0)
            able = share >= self.least_steps * (1 - 1e-9)
            gain = np.where(able, worth * np.sqrt(share), 0.0)
            cost = price_joule * (candidates.costs.joules + share * candidates.steps * candidates.costs.step_joules)
            ratio = 0.0
            for _ in range(_ITERATIONS):
                places = candidates.best(np.where(able, gain - ratio * cost, -np.inf))
                spent = 1 + price_second * length + float(cost[places].sum())
                ratio = float(gain[places].sum()) / spent
            if ratio > best[0]:
                best = ratio, places, share[places]
        return best[1:]
