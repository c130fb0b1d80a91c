"""Oort. Lai, Zhu, Madhyastha and Chowdhury, "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021,

Algorithm 1. Where the paper leaves a choice, this is as in its authors' code (FedScale): statistical utilities are brought to 0 .. 1 before
the bonus for clients not heard for long, and the preferred duration is a percentile of the known clients' durations.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Floats, Heard, Selection, State
from scarcity_ray.selection.draws import drawn_by

_CLIP = 0.95
"""Utilities above this quantile count as it, so that outliers do not lead."""
_CUTOFF = 0.95
"""Clients are drawn among those with at least this share of the utility of the last one that fits."""
_LEAST_EXPLORATION, _DECAY = 0.2, 0.98
_TINY = 1e-12


@SELECTIONS.register
class Oort(Selection):
    """Most places go to known clients with a high utility, drawn in proportion to it; the others to clients never heard, the fast ones
    more often.

    The utility of a client with n rows and losses l of its rows is `n sqrt(mean l^2)` as it was last heard, brought to 0 .. 1, plus
    `sqrt(0.1 log(round) / round last heard)`, times `(T / t)^penalty` where its turn takes t seconds and that is more than T. T is a
    percentile of the durations: it rises by `pacer_step` where the clients heard in the last `pacer_rounds` rounds had less utility in
    sum than those of as many rounds before. Clients send the root mean square of their losses, 4 bytes.
    """

    kind: Literal["oort"] = "oort"
    learns: ClassVar[str] = "loss"
    exploration: Annotated[
        float, Field(ge=0, le=1, description="share of the places for clients never heard in round 1; times .98 a round, .2 at least")
    ] = 0.9
    penalty: Annotated[float, Field(ge=0, le=10, description="alpha, how much a slow client's utility falls")] = 2.0
    duration: Annotated[float, Field(ge=0, le=100, description="the percentile of durations that T is at first")] = 30.0
    pacer_step: Annotated[float, Field(ge=0, le=100, description="how much the percentile rises")] = 5.0
    pacer_rounds: Annotated[int, Field(ge=1, description="rounds after which it may rise")] = 20

    def start(self, clients: int) -> State:
        """Nobody known."""
        return {"utility": np.zeros(clients), "heard": np.zeros(clients), "gained": np.zeros(0), "percentile": np.array([self.duration])}

    def learned(self, state: State, heard: Heard) -> State:
        """Utilities, and the percentile of the pacer."""
        trained = ~np.isnan(heard.loss_norm)
        utility, last = state["utility"].copy(), state["heard"].copy()
        utility[heard.ids[trained]] = heard.rows[trained] * heard.loss_norm[trained]
        last[heard.ids[trained]] = heard.round
        gained, percentile = np.append(state["gained"], utility[heard.ids[trained]].sum()), state["percentile"]
        window = self.pacer_rounds
        if len(gained) == 2 * window:
            if gained[:window].sum() > gained[window:].sum():
                percentile = np.minimum(percentile + self.pacer_step, 100.0)
            gained = gained[window:]
        return {"utility": utility, "heard": last, "gained": gained, "percentile": percentile}

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """Known clients and clients never heard."""
        heard, count = state["heard"][candidates.ids], candidates.count
        known, fresh = np.flatnonzero(heard > 0), np.flatnonzero(heard == 0)
        share = min(self.exploration, max(_LEAST_EXPLORATION, self.exploration * _DECAY ** (candidates.round - 1)))
        explored = min(len(fresh), max(math.floor(share * count + 0.5), count - len(known)))
        chosen = [self._exploited(state, candidates, known, count - explored), self._fresh(candidates, fresh, explored)]
        places = np.concatenate(chosen)
        return places, candidates.steps[places]

    def _exploited(self, state: State, candidates: Candidates, known: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The places of so many known clients, drawn by their utility."""
        if not count:
            return known[:0]
        utility = self._utility(state, candidates, known)
        least = np.partition(utility, len(utility) - count)[len(utility) - count]
        chances = np.zeros(len(candidates.ids))
        chances[known] = np.where(utility >= _CUTOFF * least, np.maximum(utility, _TINY), 0.0)
        return drawn_by(candidates, chances, count, "oort exploits")

    def _utility(self, state: State, candidates: Candidates, known: NDArray[np.int64]) -> Floats:
        """Utilities of the known candidates."""
        ids, seconds = candidates.ids[known], candidates.seconds[known]
        utility: Floats = state["utility"][ids]
        utility = np.minimum(utility, np.quantile(utility, _CLIP))
        low = utility.min()
        utility = (utility - low) / max(utility.max() - low, _TINY)
        utility += np.sqrt(0.1 * math.log(max(candidates.round, 1)) / state["heard"][ids])
        preferred = np.quantile(seconds, state["percentile"][0] / 100)
        slow = seconds > preferred
        utility[slow] *= (preferred / seconds[slow]) ** self.penalty
        return utility

    def _fresh(self, candidates: Candidates, fresh: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The places of so many clients never heard, with chances by their speed."""
        seconds, chances = candidates.seconds[fresh], np.zeros(len(candidates.ids))
        chances[fresh] = 1 / seconds if (seconds > 0).all() else 1.0
        return drawn_by(candidates, chances, count, "oort explores")
